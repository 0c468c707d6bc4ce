"""Other people's SAEs read as ours, and ours written for other people's tools; a file for each layout on disk.

Reading translates files into what our own say (`Described`), so it needs no SAE. Writing takes one, and is imported
from `exchange.writing`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from tide_lightning.errors import UserError
from tide_lightning.saes.exchange import (
    dictionary_learning,
    diffract,
    plain,
    saelens,
    saeuron,
    sdxl_unbox,
    sparsify,
)
from tide_lightning.saes.exchange.described import Described, RefusedError

__all__ = ["LAYOUTS", "Described", "read_foreign"]


class Layout(Protocol):
    """A module that knows one layout."""

    NAME: str

    def lies_in(self, place: Path) -> bool:
        """Whether a folder, or a file, is of this layout."""

    def read(self, place: Path) -> Described:
        """What it holds, in our words; a `RefusedError` where no SAE of ours would do the same."""


LAYOUTS: tuple[Layout, ...] = (saelens, saeuron, sparsify, dictionary_learning, sdxl_unbox, diffract, plain)


def read_foreign(place: Path) -> Described | None:
    """What another library wrote; None where no layout is recognised."""
    for layout in LAYOUTS:
        if layout.lies_in(place):
            try:
                return layout.read(place)
            except RefusedError as error:
                raise UserError(f"{place} is {layout.NAME}'s: {error}") from error
    return None

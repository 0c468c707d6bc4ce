"""Numbers that are not finite: steps that have them are skipped and counted; weights that have them are never kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

MOST_IN_A_ROW = 3
"""So many skipped steps one after the other end a fit."""

WINDOW, MOST_IN_WINDOW = 1000, 10
"""Or so many among the last thousand."""

_LOOK_EVERY = 10  # steps; on a CPU every step, for there nothing has to be waited for


class SkippedSteps:
    """Which steps of each SAE were skipped, because its loss or its gradient was not finite."""

    def __init__(self) -> None:
        self._step = 0
        self._lately: Tensor | None = None  # of the last thousand steps [WINDOW, S]
        self._row: Tensor | None = None  # just now, one after the other, and the most since the last look [2, S]
        self._total: Tensor | None = None  # [S]

    @torch.no_grad()
    def add(self, skipped_S: Tensor) -> None:
        """Account for a step of all SAEs."""
        if self._lately is None or self._row is None or self._total is None:
            self._lately = skipped_S.new_zeros(WINDOW, len(skipped_S))
            self._row = torch.zeros_like(skipped_S, dtype=torch.int64).repeat(2, 1)
            self._total = self._row[0].clone()
        self._lately[self._step % WINDOW] = skipped_S
        self._row[0] = (self._row[0] + 1) * skipped_S
        self._row[1] = torch.maximum(self._row[1], self._row[0])
        self._total += skipped_S
        self._step += 1

    def too_many(self) -> tuple[int, str] | None:
        """An SAE, by its place, for which there were too many, and how many; looked at now and then only."""
        if self._lately is None or self._row is None or (self._lately.is_cuda and self._step % _LOOK_EVERY):
            return None
        in_a_row, in_window = self._row[1].tolist(), self._lately.sum(0).tolist()
        self._row[1] = self._row[0]
        for place, (row, lately) in enumerate(zip(in_a_row, in_window, strict=True)):
            if row >= MOST_IN_A_ROW:
                return place, f"{row} steps in a row"
            if lately >= MOST_IN_WINDOW:
                return place, f"{lately} of the last {min(self._step, WINDOW)} steps"
        return None

    def totals(self) -> list[int]:
        """Of each SAE, since the fit began or went on; nothing before the first step."""
        return [] if self._total is None else self._total.tolist()


def not_finite(tree: Any, name: str = "") -> str | None:
    """The name of the first tensor in nested dictionaries and lists that holds NaN or infinity."""
    if isinstance(tree, Tensor):
        return name if tree.is_floating_point() and not bool(tree.isfinite().all()) else None
    parts = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    found = (not_finite(part, f"{name}.{key}" if name else str(key)) for key, part in parts)
    return next((name for name in found if name is not None), None)


def poisoned(loss: Tensor) -> Tensor:
    """The same loss; but where it is not finite no gradient is either, on any rank."""
    return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)

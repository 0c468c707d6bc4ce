"""What other callbacks add to a test: a section of metrics.json and of the report.

A callback of the trainer that has a method `test_section` is asked for one once the protocol's own figures are in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from lightning import LightningModule, Trainer

from tide_lightning.evaluation.budget import Budget


class Table(NamedTuple):
    """A table of the report. Everything in it is plain text.

    Fields:
        head: names of the columns.
        rows: cells, the first of each its name.
        note: what is to be known about it.
        columns: what each column but the first says, by its name; shown below the table.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    columns: Mapping[str, str] = {}


class Plot(NamedTuple):
    """A plot of the report.

    Fields:
        name: of its file, without a suffix.
        png: its bytes.
        caption: plain text: what is drawn.
        title: the finding, if there is one to be told.
    """

    name: str
    png: bytes
    caption: str
    title: str = ""


class Section(NamedTuple):
    """What was measured besides.

    Fields:
        name: its key in metrics.json.
        title: its title in the report.
        figures: what stands under the key: dictionaries, lists and plain values.
        parts: tables and plots, in order.
    """

    name: str
    title: str
    figures: dict[str, Any]
    parts: Sequence[Table | Plot]


@runtime_checkable
class MeasuresSection(Protocol):
    """A callback that measures something of its own."""

    def test_section(self, trainer: Trainer, pl_module: LightningModule, budget: Budget) -> Section | None:
        """The section, or None where there is nothing to measure. Called on rank 0 alone.

        Args:
            trainer: with its datamodule.
            pl_module: with the SAEs.
            budget: says how much time is left, if that is limited, and is told what was cut.
        """


def measure_sections(trainer: Trainer, pl_module: LightningModule, budget: Budget) -> Iterator[Section]:
    """The sections of the trainer's callbacks, in their order."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, MeasuresSection):
            section = callback.test_section(trainer, pl_module, budget)
            if section is not None:
                yield section

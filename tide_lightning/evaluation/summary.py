"""What a terminal shows of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from tide_lightning.evaluation import headlines
from tide_lightning.terminal import console, print_table, say


def print_summary(metrics: Mapping[str, Any], written: Sequence[Path], target: Console | None = None) -> None:
    """Print the headline figures, what is to be said of them, and where the files lie."""
    target = target or console()
    overview = headlines.overview(metrics)
    print_table(target, overview.head, overview.rows, overview.note)
    for line in headlines.faults(metrics):
        say(target, line, "to be explained")
    for line in headlines.reservations(metrics):
        say(target, line)
    for line in headlines.cuts(metrics):
        say(target, line, "cut to fit the budget")
    for path in written:
        say(target, f"written  {path}")

"""What a terminal shows of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tide_lightning.evaluation.budget import cut_lines
from tide_lightning.evaluation.figures import number
from tide_lightning.intervene.splicing import ALL

_HEADS = ("EV", "beyond\nknown", "FVU\nknown", "FVU\nPCA 2k", "loss\nincrease", "known\nalone", "alive", "L0")


def print_summary(metrics: Mapping[str, Any], written: Sequence[Path], console: Console | None = None) -> None:
    """Print a table of the headline figures, faults, and where the files lie."""
    if console is None:
        console = Console()
        if not console.is_terminal:  # a log file has no width
            console = Console(width=120)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("site", overflow="fold")
    for head in _HEADS:
        table.add_column(head, justify="right", no_wrap=True)
    fidelity = metrics.get("fidelity", {})
    for site, found in metrics.get("sites", {}).items():
        floors, loss = metrics.get("floors", {}).get(site, {}), fidelity.get("sites", {}).get(site, {})
        table.add_row(
            escape(site),
            number(found.get("explained_variance")),
            number(found.get("explained_variance_beyond_known")),
            number(floors.get("known", {}).get("fvu")),
            number(floors.get("pca_2k", {}).get("fvu")),
            number(loss.get("loss_increase"), "+.1%"),
            number(loss.get("loss_increase_known"), "+.1%"),
            number(found.get("alive_fraction"), ".1%"),
            number(found.get("l0"), ".1f"),
        )
    if ALL in fidelity:
        changes = [number(fidelity[ALL].get(key), "+.1%") for key in ("loss_increase", "loss_increase_known")]
        table.add_row("all sites spliced", *[""] * 4, *changes, "", "")
    console.print(table)
    cases = {**fidelity.get("sites", {}), **({"all sites": fidelity[ALL]} if ALL in fidelity else {})}
    for name, found in cases.items():
        if "fault" in found:
            console.print(f"[bold]to be explained[/bold]  {escape(name)}: {escape(found['fault'])}", soft_wrap=True)
    for site, reason in fidelity.get("absent", {}).items():
        console.print(f"not spliced  {escape(site)}: {escape(reason)}", soft_wrap=True)
    for note in sorted({found.get("alive_fraction_note", "") for found in metrics.get("sites", {}).values()} - {""}):
        console.print(f"alive {note}", soft_wrap=True)
    for line in cut_lines(metrics.get("budget", {})):
        console.print(f"[bold]cut to fit the budget[/bold]  {line}", soft_wrap=True)
    for path in written:
        console.print(f"written  {escape(str(path))}", soft_wrap=True)


def time_left(seconds: float, done: int, total: int) -> str:
    """Minutes and seconds that the rest will take."""
    return clock(seconds / max(done, 1) * max(total - done, 0))


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    return f"{minutes}:{rest:02}"

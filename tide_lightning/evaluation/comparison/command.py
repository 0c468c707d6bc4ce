"""The command: a table in the terminal, and where wanted a page and a file with everything."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tide_lightning.errors import UserError
from tide_lightning.evaluation.comparison.figures import (
    ALL_SITES,
    Row,
    Spread,
    compare_figures,
    mean_over_sites,
    unequal_amounts,
    written,
)
from tide_lightning.evaluation.comparison.report import comparison_page
from tide_lightning.evaluation.comparison.reproducibility import MEASURES, reproducibility
from tide_lightning.evaluation.comparison.runs import Group, group_runs, read_run, setting_differences
from tide_lightning.evaluation.files import write_bytes, write_json

SCHEMA = 1

_MANY_SITES = 4  # from which on a terminal shows means over sites


def compare(*runs: str, out: str | None = None, root: str = "runs") -> None:
    """Set tested runs beside each other; those that differ in their seeds alone count as one, with mean and spread.

    Args:
        *runs: run folders, or names of runs below --root; one or more.
        out: a folder for a page (index.html) and all figures (compare.json).
        root: folder of all runs.
    """
    tested = {run.folder: run for run in (read_run(name, root) for name in runs)}
    if len(tested) < len(runs):
        raise UserError("compare: the same run is named more than once")
    groups = group_runs(list(tested.values()))
    rows, differences = compare_figures(groups), setting_differences(groups)
    console = Console()
    if not console.is_terminal:  # a log file has no width
        console = Console(width=max(120, 40 + 22 * len(groups)))
    found = {
        group.name: reproducibility(group, lambda line: console.print(f"compare  {escape(line)}", soft_wrap=True))
        for group in groups
    }
    _print_groups(console, groups)
    _print_differences(console, groups, differences)
    _print_figures(console, groups, rows)
    _print_reproducibility(console, found)
    for line in unequal_amounts(groups):
        console.print(f"[bold]not measured alike[/bold]  {line}", soft_wrap=True)
    if out is not None:
        folder = Path(out)
        page = comparison_page(groups, rows, differences, found)
        content = _as_json(groups, rows, differences, found)
        for path in (write_json(folder / "compare.json", content), write_bytes(folder / "index.html", page.encode())):
            console.print(f"written  {escape(str(path))}", soft_wrap=True)


def _print_groups(console: Console, groups: Sequence[Group]) -> None:
    for group in groups:
        seeds = [run.seeds.get("seed_everything", "?") for run in group.runs]
        what = f"{len(group.runs)} runs, seeds {', '.join(seeds)}" if len(group.runs) > 1 else "1 run"
        console.print(f"[bold]{escape(group.name)}[/bold]  {what}", soft_wrap=True)
        for run in group.runs:
            console.print(f"  {escape(str(run.folder))}", soft_wrap=True, style="dim")


def _print_differences(console: Console, groups: Sequence[Group], differences: Sequence[Sequence[str]]) -> None:
    if not differences:
        return
    table = _table("differences in configuration", [group.name for group in groups])
    for name, *values in differences:
        table.add_row(escape(name), *map(escape, values))
    console.print(table)


def _print_figures(console: Console, groups: Sequence[Group], rows: Sequence[Row]) -> None:
    sites = {row.site for row in rows} - {ALL_SITES}
    shown = mean_over_sites(rows) if len(sites) > _MANY_SITES else rows
    for site, some in groupby(shown, key=lambda row: row.site):
        table = _table(site, [group.name for group in groups])
        for row in some:
            best = row.best()
            cells = [escape(written(spread, row.figure.form)) for spread in row.spreads]
            cells = [f"[bold]{cell}[/bold]" if place in best else cell for place, cell in enumerate(cells)]
            table.add_row(row.figure.name, *cells)
        console.print(table)
    if any(len(group.runs) > 1 for group in groups):
        console.print("± is half the range over seeds", style="dim")


def _print_reproducibility(console: Console, found: dict[str, dict[str, dict[str, Spread]]]) -> None:
    if not any(found.values()):
        return
    head = ["highest cosine", "by chance", "matched above 0.7", "by chance"]
    for group, by_site in found.items():
        if by_site:
            table = _table(f"features found again by other seeds: {group}", head)
            for site, measures in by_site.items():
                forms = {name: "%" if name.startswith("matched") else ".3f" for name in MEASURES}
                table.add_row(escape(site), *(written(measures[name], form) for name, form in forms.items()))
            console.print(table)


def _table(first: str, columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(escape(first), overflow="fold")
    for column in columns:
        table.add_column(escape(column), justify="right")
    return table


def _as_json(
    groups: Sequence[Group],
    rows: Sequence[Row],
    differences: Sequence[Sequence[str]],
    found: dict[str, dict[str, dict[str, Spread]]],
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "groups": [
            {
                "name": group.name,
                "runs": [{"folder": str(run.folder), "seeds": run.seeds} for run in group.runs],
                "settings": {name: values[place] for name, *values in differences},
                "figures": [
                    {"site": row.site, "figure": row.figure.name, **spread._asdict()}
                    for row in rows
                    if (spread := row.spreads[place]) is not None
                ],
                "reproducibility": {
                    site: {name: spread._asdict() for name, spread in measures.items()}
                    for site, measures in found[group.name].items()
                },
            }
            for place, group in enumerate(groups)
        ],
    }

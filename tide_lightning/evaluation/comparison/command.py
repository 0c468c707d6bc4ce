"""The command: tables in the terminal, and where wanted a page and a file with everything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tide_lightning.errors import UserError
from tide_lightning.evaluation.bootstrap import BRACKETS
from tide_lightning.evaluation.comparison.compared import compare_figures, unequal_amounts
from tide_lightning.evaluation.comparison.report import Comparison, comparison_page, tables
from tide_lightning.evaluation.comparison.reproducibility import reproducibility
from tide_lightning.evaluation.comparison.runs import group_runs, read_run, setting_differences
from tide_lightning.files import check_writable, write_bytes, write_json
from tide_lightning.terminal import console, print_table, say

SCHEMA = 2  # means have intervals and no half ranges


def compare(*runs: str, out: str | None = None, root: str = "runs") -> None:
    """Set tested runs beside each other; those that differ in their seeds alone count as one, with mean and interval.

    Args:
        *runs: run folders, or names of runs below --root; one or more.
        out: a folder for a page (index.html) and all figures (compare.json).
        root: folder of all runs.
    """
    if out is not None:
        check_writable(Path(out), is_folder=True)
    tested = {run.folder: run for run in (read_run(name, root) for name in runs)}
    if len(tested) < len(runs):
        raise UserError("compare: the same run is named more than once")
    groups = group_runs(list(tested.values()))
    target = console(width=max(120, 40 + 22 * len(groups)))
    for group in groups:
        seeds = ", ".join(run.seeds.get("seed_everything", "?") for run in group.runs)
        say(target, f"{len(group.runs)} runs, seeds {seeds}" if len(group.runs) > 1 else "1 run", group.name)
        for run in group.runs:
            say(target, f"  {run.folder}")
    found = {group.name: reproducibility(group, lambda line: say(target, f"compare  {line}")) for group in groups}
    comparison = Comparison(groups, compare_figures(groups), setting_differences(groups), found)
    for title, table in tables(comparison, many_sites=4):
        print_table(target, [title, *table.head[1:]], table.rows)
    say(target, f"{BRACKETS}; ★ the best mean")
    for line in unequal_amounts(groups):
        say(target, line, "not measured alike")
    if out is not None:
        folder = Path(out)
        page = comparison_page(comparison)
        content = {"schema": SCHEMA, "groups": [_as_json(comparison, place) for place in range(len(groups))]}
        for path in (write_json(folder / "compare.json", content), write_bytes(folder / "index.html", page.encode())):
            say(target, f"written  {path}")


def _as_json(comparison: Comparison, place: int) -> dict[str, Any]:
    group = comparison.groups[place]
    return {
        "name": group.name,
        "runs": [{"folder": str(run.folder), "seeds": run.seeds} for run in group.runs],
        "settings": {name: values[place] for name, *values in comparison.differences},
        "figures": [
            {"site": row.site, "figure": row.figure.name, **value._asdict()}
            for row in comparison.rows
            if (value := row.values[place]) is not None
        ],
        "reproducibility": {
            site: {name: value._asdict() for name, value in measures.items()}
            for site, measures in comparison.reproducibility[group.name].items()
        },
    }

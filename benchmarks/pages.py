"""Figures over seeds: the JSON files that keep them, their tables, and the pages those stand in."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tide_lightning.evaluation import bootstrap

Columns = Mapping[str, tuple[str, str]]
"""What a column is called and how its numbers are written, by the figure's key."""


def averaged(values: Sequence[float], form: str, intervals: Sequence[tuple[float, float] | None] = ()) -> str:
    """The mean over seeds and, in brackets, its interval by bootstrap over them; `%` is `.1%`.

    Args:
        values: one for each seed.
        form: how numbers are written.
        intervals: each seed's own, over its samples, prompts or images, where they are known.
    """
    return bootstrap.over_seeds(values, intervals).written(form) if values else "-"


def over_seeds(
    seeds: Mapping[str, Mapping[str, Mapping[str, Any]]], names: Sequence[str], columns: Columns, called: str
) -> str:
    """A table of `cells`.

    Args:
        seeds: figures by seed and name.
        names: in order.
        columns: in order.
        called: the head of the first column.
    """
    head, lines = cells(seeds, names, columns)
    return markdown([called, *head], lines)


def cells(
    seeds: Mapping[str, Mapping[str, Mapping[str, Any]]], names: Sequence[str], columns: Columns
) -> tuple[list[str], list[list[str]]]:
    """Heads, and a line for each of the names that some seed has, in columns that some of them have."""

    def values(name: str, key: str) -> list[Any]:
        return [rows[name][key] for rows in seeds.values() if key in rows.get(name, {})]

    def cell(name: str, key: str, form: str) -> str:
        there = [rows[name] for rows in seeds.values() if key in rows.get(name, {})]
        return averaged(values(name, key), form, [row.get(f"{key}_interval") for row in there])

    there = [name for name in names if any(name in rows for rows in seeds.values())]
    kept = {key: column for key, column in columns.items() if any(values(name, key) for name in there)}
    lines = [[name, *(cell(name, key, form) for key, (_, form) in kept.items())] for name in there]
    return [head for head, _ in kept.values()], lines


def paired(seeds: Mapping[str, Mapping[str, dict[str, Any]]], key: str, beside: str) -> None:
    """Add to each row how many times the figure of `beside` its own is, by the same seed, as `<key>_times`."""
    for rows in seeds.values():
        own = rows.get(beside, {}).get(key)
        for row in rows.values():
            if own and key in row:
                row[f"{key}_times"] = row[key] / own


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines)


def write_csv(path: Path, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table that is too wide for a page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([head, *rows])


def write(path: Path, mark: str, text: str) -> None:
    """Replace what stands between `<!-- mark -->` and `<!-- /mark -->`."""
    before, rest = path.read_text(encoding="utf-8").split(f"<!-- {mark} -->", 1)
    after = rest.split(f"<!-- /{mark} -->", 1)[1]
    path.write_text(f"{before}<!-- {mark} -->\n{text}\n<!-- /{mark} -->{after}", encoding="utf-8")


def read(path: Path) -> dict[str, Any]:
    """A JSON file's content; nothing where there is none."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file: a line for each innermost group of figures, in six digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_written(content) + "\n", encoding="utf-8")


def _written(content: Any, indent: str = "") -> str:
    if isinstance(content, float):
        return f"{content:.6g}"
    if not isinstance(content, Mapping):
        return json.dumps(content)
    if not any(isinstance(part, Mapping) for part in content.values()):
        return "{" + ", ".join(f"{json.dumps(name)}: {_written(part)}" for name, part in content.items()) + "}"
    inner = indent + " "
    parts = [f"{inner}{json.dumps(name)}: {_written(part, inner)}" for name, part in content.items()]
    return "{\n" + ",\n".join(parts) + f"\n{indent}}}"

"""Figures over seeds: the JSON files that keep them, their tables, and the pages those stand in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Columns = Mapping[str, tuple[str, str]]
"""What a column is called and how its numbers are written, by the figure's key."""


def averaged(values: Sequence[float], form: str) -> str:
    """Mean and, behind ±, half the range, where there are several; `%` is `.1%`."""
    if not values:
        return "-"
    form = ".1%" if form == "%" else form
    mean, half = sum(values) / len(values), (max(values) - min(values)) / 2
    return f"{mean:{form}} ± {half:{form}}" if len(values) > 1 else f"{mean:{form}}"


def over_seeds(
    seeds: Mapping[str, Mapping[str, Mapping[str, float]]], names: Sequence[str], columns: Columns, called: str
) -> str:
    """A line for each of the names that some seed has, in columns that some of them have.

    Args:
        seeds: figures by seed and name.
        names: in order.
        columns: in order.
        called: the head of the first column.
    """

    def values(name: str, key: str) -> list[float]:
        return [rows[name][key] for rows in seeds.values() if key in rows.get(name, {})]

    there = [name for name in names if any(name in rows for rows in seeds.values())]
    kept = {key: column for key, column in columns.items() if any(values(name, key) for name in there)}
    lines = [[name, *(averaged(values(name, key), form) for key, (_, form) in kept.items())] for name in there]
    return markdown([called, *(head for head, _ in kept.values())], lines)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines)


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

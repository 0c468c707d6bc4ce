"""Tables of figures over seeds, and the pages they stand in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def averaged(values: Sequence[float], form: str) -> str:
    """Mean and, behind ±, half the range, where there are several; `%` is `.1%`."""
    if not values:
        return "-"
    form = ".1%" if form == "%" else form
    mean, half = sum(values) / len(values), (max(values) - min(values)) / 2
    return f"{mean:{form}} ± {half:{form}}" if len(values) > 1 else f"{mean:{form}}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines)


def write(path: Path, mark: str, text: str) -> None:
    """Replace what stands between `<!-- mark -->` and `<!-- /mark -->`."""
    before, rest = path.read_text(encoding="utf-8").split(f"<!-- {mark} -->", 1)
    after = rest.split(f"<!-- /{mark} -->", 1)[1]
    path.write_text(f"{before}<!-- {mark} -->\n{text}\n<!-- /{mark} -->{after}", encoding="utf-8")

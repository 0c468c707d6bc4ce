"""Plain figures for metrics.json: only what was measured, and ratios of sums."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def measured(value: Any) -> Any:
    """The same tree of dictionaries and lists without NaN and infinities, which stand for what was not measured."""
    if isinstance(value, dict):
        kept = {key: measured(part) for key, part in value.items()}
        return {key: part for key, part in kept.items() if part is not None}
    if isinstance(value, list):
        return [measured(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def ratio(numerator: float, denominator: float) -> float:
    """A quotient; NaN where the denominator is 0."""
    return numerator / denominator if denominator else float("nan")


def bin_edges(index: int, num_bins: int) -> dict[str, float]:
    """The edges of a bin of t, as they stand in metrics.json."""
    return {"low": index / num_bins, "high": (index + 1) / num_bins}


def mean_over_bins(bins: Sequence[Mapping[str, Any]], key: str) -> float:
    """A figure's mean over equal bins of t, whatever their samples or losses; NaN where there are none."""
    values = [row[key] for row in bins if key in row and math.isfinite(row[key])]
    return ratio(sum(values), len(values))


def number(value: Any, style: str = ".4f") -> str:
    """A figure for people; a dash where it was not measured."""
    if value is None:
        return "-"
    if style == ".4f" and value and (abs(value) < 1e-3 or abs(value) >= 1e4):
        style = ".3g"
    return format(value, style)


def with_interval(figures: Mapping[str, Any], key: str, style: str = ".4f") -> str:
    """A figure and, in brackets, the interval that stands beside it as `<key>_interval`."""
    value, ends = figures.get(key), figures.get(f"{key}_interval")
    if value is None or not ends or None in ends:
        return number(value, style)
    return f"{number(value, style)} ({number(ends[0], style)} to {number(ends[1], style)})"

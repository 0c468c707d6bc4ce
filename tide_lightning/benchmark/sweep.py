"""Success against what else changes, over a sweep of pushes.

A push can be made to reach any value if nothing else matters. So methods are compared at the same cost: how often the
target is reached, beyond chance, by the time a share of the other factors' readings has changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

LIMIT = 0.1
"""The share of other factors' readings that may change."""


class Point(NamedTuple):
    """How often a push of a strength reaches the target beyond chance, and how many other readings it changes."""

    strength: float
    success: float
    changed: float


def beyond_chance(success: float, chance: float) -> float:
    """0 where a target is reached as often as without a push, 1 where it always is."""
    return (success - chance) / (1 - chance) if chance < 1 else 0.0


def success_at(points: Sequence[Point], limit: float = LIMIT) -> float:
    """The highest success, on the way from no push to ever stronger ones, while at most `limit` has changed.

    Between two strengths both numbers are taken to move in a straight line.
    """
    best = 0.0
    before = Point(0.0, 0.0, 0.0)
    for point in sorted(points):
        if point.changed <= limit:
            best = max(best, point.success)
        if (before.changed - limit) * (point.changed - limit) < 0:
            part = (limit - before.changed) / (point.changed - before.changed)
            best = max(best, before.success + part * (point.success - before.success))
        before = point
    return best


def curves(strengths: Sequence[float], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entry `sweep`: for each method its points, means over targets, and its success at the limit.

    Args:
        strengths: of the pushes.
        rows: for each target its figures by method: `none`, and for the others one for each strength.
    """
    found: dict[str, Any] = {"limit": LIMIT}
    for method in (name for name in rows[0] if name != "none"):
        points = []
        for at, strength in enumerate(strengths):
            success = [beyond_chance(row[method][at]["success"], row["none"]["success"]) for row in rows]
            changed = [1 - row[method][at]["stability_mean"] for row in rows]
            points.append(Point(strength, sum(success) / len(rows), sum(changed) / len(rows)))
        found[method] = {"points": [point._asdict() for point in points], "success": success_at(points)}
    return found

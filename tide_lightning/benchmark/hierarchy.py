"""The paper's hierarchy as numbers: when, and at which site, layout, class and finer meaning become readable.

A concept is readable from the time on, going from noise to image, at which a probe reaches a share of the best that
any site reaches at any time; both are counted from chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from tide_lightning.benchmark.readout import BEYOND, IOU
from tide_lightning.grounds import Factor, Level

SHARE = 0.9
"""Of the way from chance to the best, from which on a concept is readable."""

READERS = {"codes": "latents_20", "dense": "dense"}
"""Who reads: the SAE's latents, twenty for a factor value; and beside them the whole activation."""

CHANCE = 0.5
"""Of an AUROC."""

Curve = Sequence[tuple[float, float]]
"""Times and scores, in any order."""


def measure_hierarchy(
    factors: Mapping[str, Factor], meaning: Mapping[str, Any], readout: Mapping[str, Any]
) -> dict[str, Any]:
    """The entry `hierarchy`: for each reader every concept, and the mean time of each level.

    Meaning and read-out are the benchmark's figures by site; maps and masks are layout.
    """
    found: dict[str, Any] = {"share": SHARE}
    for reader, probe in READERS.items():
        concepts: dict[str, Any] = {}
        for name, level, curves, chance in (
            *_of_maps(reader, readout),
            *((name, factor.level, _factor(name, probe, meaning), CHANCE) for name, factor in factors.items()),
        ):
            if one := readable(curves, chance):
                concepts[name] = {"level": level, **one}
        times = {
            level: [one["first"]["t"] for one in concepts.values() if one["level"] == level]
            for level in get_args(Level)
        }
        levels = {level: sum(some) / len(some) for level, some in times.items() if some}
        found[reader] = {"concepts": concepts, "levels": levels}
    return found


def over_time(found: Mapping[str, Any], path: Sequence[str]) -> Curve:
    """Middles of the bins of t, and what stands at a path of each, where it is a number."""
    points = []
    for row in found["by_timestep"]:
        score: Any = row
        for key in path:
            score = score.get(key, {})
        if isinstance(score, float) and math.isfinite(score):
            points.append(((row["low"] + row["high"]) / 2, score))
    return points


def readable(curves: Mapping[str, Curve], chance: float) -> dict[str, Any]:
    """When a concept becomes readable: at each site, and first of all; nothing where it is never above chance.

    `curves` are scores over time, by site; `chance` is the score of one who knows nothing.
    """
    curves = {site: curve for site, curve in curves.items() if curve}
    best = max((score for curve in curves.values() for _, score in curve), default=chance)
    if best <= chance:
        return {}
    threshold = chance + SHARE * (best - chance)
    at = {site: t for site, curve in curves.items() if (t := _first_time(curve, threshold)) is not None}
    first = max(at, key=lambda site: at[site])
    maxima = {site: max(score for _, score in curve) for site, curve in curves.items()}
    return {
        "best": best,
        "threshold": threshold,
        "maximum": maxima,
        "readable_from": at,
        "first": {"site": first, "t": at[first]},
    }


def _first_time(curve: Curve, threshold: float) -> float | None:
    """Where a curve crosses a threshold for the first time on the way from t = 1, between two times linearly."""
    before: tuple[float, float] | None = None
    for t, score in sorted(curve, reverse=True):
        if score >= threshold:
            if before is None:
                return t
            t_before, score_before = before
            return t_before + (t - t_before) * (threshold - score_before) / (score - score_before)
        before = t, score
    return None


def _factor(name: str, probe: str, meaning: Mapping[str, Any]) -> dict[str, Curve]:
    return {site: over_time(found, ("factors", name, "auroc", probe)) for site, found in meaning.items()}


def _of_maps(reader: str, readout: Mapping[str, Any]) -> Iterator[tuple[str, Level, dict[str, Curve], float]]:
    """Maps from what their mean knows, masks from what the place alone knows."""
    for figure in next(iter(readout.values())):
        if figure.endswith((BEYOND, IOU)):
            known = [found[figure]["position"] for found in readout.values()]
            chance = 0.0 if figure.endswith(BEYOND) else sum(known) / len(known)
            curves = {site: over_time(found, (figure, reader)) for site, found in readout.items()}
            yield figure.removesuffix(BEYOND).removesuffix(IOU), "layout", curves, chance

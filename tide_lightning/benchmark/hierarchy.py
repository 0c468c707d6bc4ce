"""The paper's hierarchy as numbers: when, and at which site, layout, class and finer meaning become readable.

A concept is readable from the time on, going from noise to image, at which a probe reaches a share of the best that
any site reaches at any time; both are counted from chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SHARE = 0.9
"""Of the way from chance to the best, from which on a concept is readable."""

LEVELS: dict[str, tuple[str, ...]] = {
    "layout": ("depth", "mask", "size", "place", "distance"),
    "class": ("shape",),
    "semantics": ("colour", "wall", "light"),
}
"""The levels of the hierarchy, and what is read at each."""

READERS = {"codes": "latents_20", "dense": "dense"}
"""Who reads: the SAE's latents, twenty for a factor value; and beside them the whole activation."""

_READOUTS = {"depth": "depth_r2_beyond_position", "mask": "mask_iou"}
_CHANCE_AUROC = 0.5

Curve = Sequence[tuple[float, float]]
"""Times and scores, in any order."""


def measure_hierarchy(meaning: Mapping[str, Any], readout: Mapping[str, Any]) -> dict[str, Any]:
    """The entry `hierarchy`: for each reader every concept, and the mean time of each level.

    Args:
        meaning: the benchmark's figures of factors, by site.
        readout: its figures of depth and mask, by site.
    """
    found: dict[str, Any] = {"share": SHARE}
    for reader in READERS:
        concepts = {}
        for level, names in LEVELS.items():
            for name in names:
                curves = {site: _curve(name, reader, meaning[site], readout[site]) for site in meaning}
                one = readable({site: curve for site, curve in curves.items() if curve}, _chance(name, readout))
                if one:
                    concepts[name] = {"level": level, **one}
        levels = {
            level: sum(times) / len(times)
            for level, names in LEVELS.items()
            if (times := [concepts[name]["first"]["t"] for name in names if name in concepts])
        }
        found[reader] = {"concepts": concepts, "levels": levels}
    return found


def readable(curves: Mapping[str, Curve], chance: float) -> dict[str, Any]:
    """When a concept becomes readable: at each site, and first of all; nothing where it is never above chance.

    Args:
        curves: scores over time, by site.
        chance: the score of one who knows nothing.
    """
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


def _curve(name: str, reader: str, meaning: Mapping[str, Any], readout: Mapping[str, Any]) -> list[tuple[float, float]]:
    points = []
    for row in (readout if name in _READOUTS else meaning)["by_timestep"]:
        if name in _READOUTS:
            score = row.get(_READOUTS[name], {}).get(reader)
        else:
            score = row["factors"].get(name, {}).get("auroc", {}).get(READERS[reader])
        if score is not None and score == score:
            points.append(((row["low"] + row["high"]) / 2, score))
    return points


def _chance(name: str, readout: Mapping[str, Any]) -> float:
    """One half for factors; for depth what its mean knows; for the mask what the place alone knows."""
    if name == "depth":
        return 0.0
    if name == "mask":
        known = [found["mask_iou"]["position"] for found in readout.values()]
        return float(sum(known) / len(known))
    return _CHANCE_AUROC

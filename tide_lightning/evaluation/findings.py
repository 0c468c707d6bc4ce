"""What each plot of the report shows, in a sentence: the plot's title."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tide_lightning.drawing import curve
from tide_lightning.evaluation.headlines import ALL_SITES, fidelity_cases


def finding(name: str, metrics: Mapping[str, Any]) -> str:
    """The finding of a plot, by the plot's name; "" where there is none to be told."""
    return _FINDINGS[name](metrics) if name in _FINDINGS else ""


def _explained(metrics: Mapping[str, Any]) -> str:
    worst = _extreme(metrics.get("sites", {}), "explained_variance", min)
    if worst is None:
        return ""
    site, t, value = worst
    return f"Least is explained at t = {t:.2f} of {site}: {value:.3f} of the variance"


def _loss_increase(metrics: Mapping[str, Any]) -> str:
    cases = {name: found for name, found in fidelity_cases(metrics).items() if name != ALL_SITES}
    worst, least = (_extreme(cases, "loss_increase", which) for which in (max, min))
    if worst is None or least is None:
        return ""
    (_, when, most), (_, then, fewest) = worst, least
    return f"The denoiser loses most at t = {when:.2f} ({most:+.0%}) and least at t = {then:.2f} ({fewest:+.1%})"


def _l0(metrics: Mapping[str, Any]) -> str:
    most, fewest = (_extreme(metrics.get("sites", {}), "l0", which) for which in (max, min))
    if most is None or fewest is None:
        return ""
    if most[2] - fewest[2] < 1:
        return f"Every time has {most[2]:.0f} active latents a token"
    (_, when, many), (_, then, few) = most, fewest
    return f"Most latents of a token are active at t = {when:.2f} ({many:.0f}), fewest at t = {then:.2f} ({few:.0f})"


def _firing(metrics: Mapping[str, Any]) -> str:
    alive = {
        name: found["alive_fraction"] for name, found in metrics.get("sites", {}).items() if "alive_fraction" in found
    }
    if not alive:
        return ""
    site = min(alive, key=lambda name: alive[name])
    return (
        "Hardly a latent is dead" if alive[site] >= 0.99 else f"{1 - alive[site]:.0%} of the latents of {site} are dead"
    )


_FINDINGS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "explained_variance": _explained,
    "loss_increase": _loss_increase,
    "l0": _l0,
    "firing_frequency": _firing,
}


def _extreme(
    by_name: Mapping[str, Any], figure: str, which: Callable[..., tuple[float, str, float]]
) -> tuple[str, float, float] | None:
    """The site, time and value at which a figure is highest or lowest."""
    points = [
        (value, name, t)
        for name, found in by_name.items()
        for t, value in zip(*curve(found.get("by_timestep", ()), figure), strict=True)
    ]
    if not points:
        return None
    value, name, t = which(points)
    return name, t, value

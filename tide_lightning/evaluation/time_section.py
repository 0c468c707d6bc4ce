"""The part of metrics.json and of the report about time: lifetimes of features, and features that are followed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from tide_lightning.drawing import panels
from tide_lightning.evaluation.figures import number
from tide_lightning.evaluation.lifetimes import lives_in
from tide_lightning.evaluation.sections import Plot, Section, Table
from tide_lightning.saes.bins import centres

_MAX_ROWS = 600  # of a map of features


def time_section(lifetimes: Mapping[str, Any], rates: Mapping[str, Tensor], tracking: dict[str, Any] | None) -> Section:
    """Figures, tables and plots of each site's lifetimes and firing rates [F, T].

    `tracking` is what following features along trajectories gave, if images were sampled.
    """
    figures: dict[str, Any] = {"lifetimes": dict(lifetimes)}
    parts: list[Table | Plot] = [
        _lifetimes(lifetimes),
        Plot(
            "feature_times",
            _maps(rates),
            "When features fire: one row a latent, by its mean t; brightness is its firing rate over its highest.",
            _live(lifetimes),
        ),
    ]
    if tracking:
        figures["tracking"] = tracking
        parts.append(_steps(tracking["over_time"]))
        caption = (
            "Of what fires on a token at one time (row), how much still fires on it at another (column), the same "
            "latent on the same token of real trajectories."
        )
        parts.append(Plot("feature_stays", _stays(tracking["over_time"]), caption, _stay(tracking["over_time"])))
        if tracking["over_blocks"]:
            parts.append(_blocks(tracking["over_blocks"]))
    return Section("time", "Time: how features live along the trajectory", figures, parts)


def _live(lifetimes: Mapping[str, Any]) -> str:
    """For how long a latent fires, at the sites where that is shortest and longest."""
    shares = {site: found["lifetime"] for site, found in lifetimes.items() if _is_known(found.get("lifetime"))}
    if not shares:
        return ""
    ends = sorted({min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)}, key=shares.__getitem__)
    said = ", for ".join(f"{shares[site]:.0%} of all times at {site}" for site in ends)
    return f"In the mean a latent lives for {said}"


def _stay(over_time: Mapping[str, Any]) -> str:
    """How much of what fires in the noise still fires in the image, beside chance, at the site where that is most."""
    found = [
        (one["stays"][0][-1], one["chance"][0][-1], site)
        for site, one in over_time.items()
        if one["stays"] and _is_known(one["stays"][0][-1]) and _is_known(one["chance"][0][-1])
    ]
    if not found:
        return ""
    stays, chance, site = max(found)
    return f"Of what fires on a token at first, {stays:.0%} still fires at last, {chance:.0%} by chance ({site})"


def _lifetimes(lifetimes: Mapping[str, Any]) -> Table:
    rows = [
        [
            site,
            f"{found['latents']:,}",
            *(number(found.get(name), ".2f") for name in ("born_at", "dies_at", "mean_t", "lifetime")),
            number(found.get("lives_throughout"), ".1%"),
        ]
        for site, found in lifetimes.items()
    ]
    head = ["features", "latents counted", "born at t", "die at t", "mean t", "lifetime", "live throughout"]
    note = (
        "Along a trajectory t falls from 1 (noise) to 0 (image). A latent lives where its firing rate is at least half "
        "of its highest. Births and deaths are medians, lifetime is the mean share of all times."
    )
    columns = {
        "latents counted": "those that fire often enough to tell when",
        "born at t": "from which time on the median latent lives",
        "die at t": "until which time",
        "mean t": "the mean time at which a latent fires",
        "lifetime": "the share of all times at which a latent lives, in the mean",
        "live throughout": "share of latents that live at every time",
    }
    return Table(head, rows, note, columns)


def _steps(over_time: Mapping[str, Any]) -> Table:
    rows = []
    for site, found in over_time.items():
        steps, stays, chance = found["steps"], found["stays"], found["chance"]
        rows.append(
            [
                site,
                number(_mean([step.get("jaccard_itself") for step in steps]), ".3f"),
                number(_mean([step.get("stays_itself") for step in steps]), ".1%"),
                number(_mean([step.get("cosine_of_successor") for step in steps]), ".3f"),
                number(stays[0][-1] if stays else None, ".1%"),
                number(chance[0][-1] if chance else None, ".1%"),
            ]
        )
    head = [
        "from step to step",
        "Jaccard with itself",
        "best match is itself",
        "cosine of a successor",
        "fires from first to last",
        "by chance",
    ]
    note = (
        "On the same tokens of real trajectories, between neighbouring times looked at. Where a latent's best match is "
        "another one, that is its successor; the cosine is that of their directions."
    )
    columns = {
        "Jaccard with itself": "tokens at which a latent fires at both times, over those at which it does at either",
        "best match is itself": "share of latents for which no other latent at the next time overlaps more",
        "cosine of a successor": "of the directions of a latent and of another that takes over from it",
        "fires from first to last": "of what fires on a token at the first step, what still fires at the last",
        "by chance": "the same for tokens of other images",
    }
    return Table(head, rows, note, columns)


def _blocks(over_blocks: list[dict[str, Any]]) -> Table:
    rows = [
        [
            f"{found['from']} → {found['to']}",
            f"{found['latents']:,}",
            *(number(found.get(name), ".3f") for name in ("cosine", "cosine_chance", "jaccard", "jaccard_chance")),
            *(number(found.get(name), ".1%") for name in ("same_direction", "agree")),
        ]
        for found in over_blocks
    ]
    head = [
        "from block to block",
        "latents matched",
        "best cosine",
        "by chance",
        "best Jaccard",
        "by chance",
        "cosine above 0.7",
        "both name the same",
    ]
    note = (
        "Each latent's best match in the next site: by the direction that it adds, and by firing on the same tokens. "
        "Chance: random directions; the other site's codes on other tokens."
    )
    columns = {
        "latents matched": "those that fire often enough",
        "best cosine": "of a latent's direction with that of its best match in the next site",
        "by chance": "the figure to its left for random directions, or other tokens",
        "best Jaccard": "tokens at which a latent and its best match fire, over those at which either does",
        "cosine above 0.7": "share of latents whose best match points the same way",
        "both name the same": "share of latents whose best match by direction is also the best by tokens",
    }
    return Table(head, rows, note, columns)


def _maps(rates: Mapping[str, Tensor]) -> bytes:
    def draw(axes: Axes, site: str) -> None:
        fires = rates[site][rates[site].sum(1) > 0]
        order = (fires @ torch.linspace(0, 1, fires.shape[1]) / fires.sum(1)).argsort(descending=True)
        some = order[torch.linspace(0, max(len(order) - 1, 0), min(_MAX_ROWS, len(order))).long()]
        shown = fires[some] / fires[some].amax(1, keepdim=True)
        axes.imshow(shown.numpy(), aspect="auto", extent=(0, 1, 1, 0), cmap="magma", vmin=0, vmax=1)
        alive = lives_in(fires).double().mean(0).numpy()
        label = "share that lives (bottom 0, top 1)"
        axes.plot(centres(len(alive)).numpy(), 1 - alive, color="#5cc8ff", linewidth=1.5, label=label)
        axes.set_yticks([])
        axes.set_ylim(1, 0)

    return panels(rates, draw)


def _stays(over_time: Mapping[str, Any]) -> bytes:
    def draw(axes: Axes, site: str) -> None:
        times = over_time[site]["times"]
        axes.imshow(np.array(over_time[site]["stays"], dtype=float), cmap="magma", vmin=0, vmax=1)
        shown = range(0, len(times), max(1, len(times) // 4))
        names = [f"{times[place]:.2f}" for place in shown]
        axes.set_xticks(list(shown), names)
        axes.set_yticks(list(shown), names)
        axes.set(xlabel="fires at t as well", ylabel="of what fires at t")

    return panels(over_time, draw, is_over_time=False)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if _is_known(value)]
    return sum(known) / len(known) if known else None


def _is_known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)

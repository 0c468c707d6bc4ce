"""The plot of `benchmarks/pareto.py`."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

Pieces = dict[str, dict[str, dict[str, dict[str, float]]]]
"""Rows by piece (size and k), seed and variant."""

LOSS = "loss_increase_even"
PANELS = {
    "latents_cosine": "Final latents, centred cosine",
    "f1": "Factor F1 of the best latents",
    "steering_beyond_chance": "Steering by one latent, beyond chance",
}
"""What the loss increase is plotted against, where there are such figures: more is better."""

_KINDS = {
    "-known": "about our known part",
    "-metric": "with our metric and budget as well",
    "-pursuit": "with our pursuit as well",
}
"""The endings of names, and what a rival with each was given, besides what stands before it."""
_LOOKS = {"": ("o", "#8a8a8a"), "-known": ("o", "#d95f02"), "-metric": ("s", "#1f78b4"), "-pursuit": ("^", "#33a02c")}
_WIDTH = 5.2  # inches: on a phone's 390 pixels, type of 10 points is as high as the page's own


def plot(
    seeds: Mapping[str, Mapping[str, Mapping[str, Any]]], ours: str, aside: Collection[str], title: str, path: Path
) -> None:
    """Loss increase against each of `PANELS`, and the frontier: SAEs beside which none is better in both.

    Named are those on the frontier, and ours.

    Args:
        seeds: a piece's rows by seed and name.
        ours: the name of the SAE that all are set beside.
        aside: those that the title does not compare: of another L0, or no dictionaries.
        title: of size and L0.
        path: a PNG.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot, ticker

    names = list(dict.fromkeys(name for rows in seeds.values() for name in rows))
    losses = {name: value for name in names if (value := mean(seeds, name, LOSS)) is not None}
    panels = {key: label for key, label in PANELS.items() if mean(seeds, ours, key) is not None}
    said = textwrap.wrap(f"{finding({name: losses[name] for name in losses if name not in aside}, ours)} ({title})", 52)
    size = (_WIDTH, 3.1 * len(panels) + 0.22 * len(said) + 1.5)
    figure, axes = pyplot.subplots(len(panels), 1, figsize=size, sharex=True, squeeze=False, layout="constrained")
    for axis, (key, label) in zip(axes[:, 0], panels.items(), strict=True):
        points = {name: (loss, y) for name, loss in losses.items() if (y := mean(seeds, name, key)) is not None}
        edge = _frontier(points)
        axis.plot(*zip(*(points[name] for name in edge), strict=True), color="#8a8a8a", linewidth=1, zorder=0)
        for name, (x, y) in points.items():
            marker, colour = ("*", "black") if name == ours else _LOOKS[parts(name)[1]]
            filling = colour if name == ours or parts(name)[1] else "white"
            axis.plot(x, y, marker, markersize=15 if name == ours else 7, color=colour, markerfacecolor=filling)
        for number, name in enumerate(dict.fromkeys([ours, *edge])):
            place: dict[str, Any] = {"xytext": (-10, -4), "ha": "right", "weight": "bold"}
            if name != ours:
                place = {"xytext": (0, 10), "ha": "center"} if number % 2 else {"xytext": (10, -4), "ha": "left"}
            axis.annotate(parts(name)[0], points[name], textcoords="offset points", **place)
        axis.set_title(label, loc="left", fontsize=11)
        axis.margins(x=0.17, y=0.22)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 3) if max(losses.values()) < 30 else (1,)))
        axis.xaxis.set_major_formatter(lambda value, _: _percent(value))
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        axis.grid(alpha=0.3)
    axes[-1, 0].set_xlabel("loss increase when spliced, even in t: left is better")
    for kind, words in {"": "as in its paper, or no dictionary", **_KINDS}.items():
        marker, colour = _LOOKS[kind]
        axes[-1, 0].plot([], [], marker, color=colour, markerfacecolor=colour if kind else "white", label=words)
    axes[-1, 0].plot([], [], color="#8a8a8a", linewidth=1, label="the frontier")
    figure.legend(*axes[-1, 0].get_legend_handles_labels(), loc="outside lower left", frameon=False)
    figure.suptitle("\n".join(said), x=0.02, ha="left", fontsize=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def finding(losses: Mapping[str, float], ours: str) -> str:
    """The increase of the loss by our SAE and by the best of each kind of rival, in words."""
    said = []
    for kind, words in {"": "as in its paper", **_KINDS}.items():
        if of_kind := [loss for name, loss in losses.items() if name != ours and parts(name)[1] == kind]:
            said.append(f"{words} {_percent(min(of_kind))}")
    return f"{ours} adds {_percent(losses[ours])} to the loss; the best rival {', '.join(said)}"


def _percent(share: float) -> str:
    return f"{100 * share:,.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def _frontier(points: Mapping[str, tuple[float, float]]) -> Sequence[str]:
    ordered = sorted(points, key=lambda name: (points[name][0], -points[name][1]))
    edge: list[str] = []
    for name in ordered:
        if not edge or points[name][1] > points[edge[-1]][1]:
            edge.append(name)
    return edge


def parts(name: str) -> tuple[str, str]:
    """A rival's own name, and the ending that says what it was given."""
    kind = next((suffix for suffix in _KINDS if name.endswith(suffix)), "")
    return name.removesuffix(kind), kind


def mean(seeds: Mapping[str, Mapping[str, Mapping[str, Any]]], name: str, key: str) -> float | None:
    found = [rows[name][key] for rows in seeds.values() if key in rows.get(name, {})]
    return sum(found) / len(found) if found else None

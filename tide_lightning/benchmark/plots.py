"""The benchmark's plots, as PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tide_lightning.benchmark.causality import Example
from tide_lightning.benchmark.hierarchy import over_time
from tide_lightning.benchmark.readout import BEYOND, IOU, label
from tide_lightning.drawing import literal, panels, saved, shade, tidy
from tide_lightning.grounds import Ground

METHOD_NAMES = {
    "none": "no steering",
    "latent": "one latent",
    "random": "random latents",
    "dense": "difference of means",
    "dense_beyond_known": "same, beyond known",
    "supervised": "logistic regression",
    "prompt": "changed prompt",
}

_SAE, _KNOWN, _DENSE, _FLOOR = "#c2255c", "#d9822b", "#2f6fd0", "#9aa5b1"
_STYLE: dict[str, Any] = {"marker": "o", "markersize": 3, "linewidth": 1.6}
_MEANING = {
    "latents_20": ("20 latents", _SAE, "-"),
    "best_latent": ("best latent", _SAE, "--"),
    "dense": ("dense probe", _DENSE, "-"),
    "best_channel": ("best channel", _DENSE, "--"),
    "known": ("known part", _KNOWN, "-"),
    "position": ("position only", _FLOOR, "-"),
}
_READERS = {
    "codes": ("codes", _SAE, "-"),
    "dense": ("dense activation", _DENSE, "-"),
    "known": ("known part", _KNOWN, "-"),
    "position": ("position only", _FLOOR, "-"),
}
_FACTOR_COLOURS = ("#c2255c", "#d9822b", "#2b8a3e", "#1098ad", "#2f6fd0", "#7048e8", "#495057", "#a0522d")
_METHOD_COLOURS = {
    "none": _FLOOR,
    "latent": _SAE,
    "random": "#e8a0b8",
    "dense": "#8fb4e8",
    "dense_beyond_known": _DENSE,
    "supervised": "#1b3f7a",
    "prompt": "#2b8a3e",
}


def draw_plots(ground: Ground, figures: Mapping[str, Any]) -> dict[str, bytes]:
    """Every plot that the figures allow: PNG by what it shows."""
    meaning, readout = figures["meaning"], figures["readout"]
    maps = {
        f"{site}: {label(figure)}": (site, figure)
        for figure in next(iter(readout.values()))
        if figure.endswith((BEYOND, IOU))
        for site in readout
    }

    def predictors(axes: Axes, site: str) -> None:
        for name, (words, colour, line) in _MEANING.items():
            _curve(axes, meaning[site], ("mean", "auroc", name), words, colour, line)
        axes.set(ylabel="AUROC", ylim=(0.45, 1.02))

    def factors(axes: Axes, site: str) -> None:
        for factor, colour in zip(ground.factors, cycle(_FACTOR_COLOURS), strict=False):
            _curve(axes, meaning[site], ("factors", factor, "auroc", "best_latent"), factor, colour, "-")
        axes.set(ylabel="AUROC of the best latent", ylim=(0.45, 1.02))

    def readers(axes: Axes, name: str) -> None:
        site, figure = maps[name]
        for reader, (words, colour, line) in _READERS.items():
            _curve(axes, readout[site], (figure, reader), words, colour, line)
        axes.set_ylim(-0.05, 1.02)

    plots = {"meaning": panels(meaning, predictors), "factors": panels(meaning, factors)}
    if maps:
        plots["readout"] = panels(maps, readers)
    if figures["hierarchy"]["codes"]["concepts"]:
        plots["hierarchy"] = _hierarchy(figures["hierarchy"]["codes"]["concepts"], list(meaning))
    if "mean" in figures.get("steering", {}):
        plots["steering"] = _steering(figures["steering"])
    return plots


def draw_examples(examples: Sequence[Example]) -> bytes:
    """Each target's image without and with its latent raised, side by side."""
    pairs = {example.target: torch.cat(list(example.images), dim=-1) for example in examples}

    def pair(axes: Axes, target: str) -> None:
        axes.imshow(((pairs[target] + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
        axes.set_axis_off()

    return panels(pairs, pair, size=(2.6, 1.5), is_over_time=False)


def _hierarchy(concepts: Mapping[str, Any], sites: list[str]) -> bytes:
    figure = Figure(figsize=(6.4, 0.32 * len(concepts) + 1.4), layout="constrained")
    axes = figure.subplots()
    colours = [shade(number, len(sites)) for number in range(len(sites))]
    for row, found in enumerate(concepts.values()):
        axes.axhline(row, color="#d9dee4", linewidth=0.8, zorder=0)
        for site, colour in zip(sites, colours, strict=True):
            if site in found["readable_from"]:
                axes.plot(found["readable_from"][site], row, "o", color=colour)
    axes.set_yticks(range(len(concepts)), [f"{found['level']}: {name}" for name, found in concepts.items()], fontsize=8)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="readable from t on (1 is pure noise)")
    tidy(axes)
    handles = [Line2D([], [], marker="o", linestyle="", color=colour) for colour in colours]
    figure.legend(handles, map(literal, sites), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return saved(figure)


def _steering(steering: Mapping[str, Any]) -> bytes:
    figure = Figure(figsize=(5.2, 4), layout="constrained")
    axes = figure.subplots()
    targets = [found["methods"] for values in steering["targets"].values() for found in values.values()]
    for name, mean in steering["mean"].items():
        colour = _METHOD_COLOURS[name]
        for one in (methods[name] for methods in targets if name in methods):
            axes.plot(one["success"], one["stability_mean"], "o", color=colour, alpha=0.3, markersize=4)
        axes.plot(mean["success"], mean["stability_mean"], "D", color=colour, markersize=8, label=METHOD_NAMES[name])
    axes.set(
        xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="target reached (first judge)", ylabel="other factors stable"
    )
    tidy(axes)
    axes.legend(fontsize=8, frameon=False, title="diamonds: means over targets", title_fontsize=8)
    return saved(figure)


def _curve(axes: Axes, found: Mapping[str, Any], path: tuple[str, ...], words: str, colour: str, line: str) -> None:
    if points := over_time(found, path):
        t, values = zip(*points, strict=True)
        axes.plot(t, values, color=colour, linestyle=line, label=words, **_STYLE)

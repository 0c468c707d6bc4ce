"""The benchmark's plots, as PNG bytes. No figure is registered anywhere, so nothing needs closing."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from itertools import cycle
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tide_lightning.benchmark.hierarchy import over_time
from tide_lightning.benchmark.readout import BEYOND, IOU, label
from tide_lightning.grounds import Ground

METHOD_NAMES = {
    "none": "no steering",
    "latent": "one latent",
    "random": "random latents",
    "dense": "difference of means",
    "dense_beyond_known": "same, beyond known",
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
    "prompt": "#2b8a3e",
}


def draw_plots(ground: Ground, figures: Mapping[str, Any]) -> dict[str, bytes]:
    """Every plot that the figures allow: PNG by what it shows."""
    meaning, readout = figures["meaning"], figures["readout"]
    maps = [figure for figure in next(iter(readout.values())) if figure.endswith((BEYOND, IOU))]

    def predictors(axes: Axes, site: str) -> None:
        for name, (words, colour, line) in _MEANING.items():
            _curve(axes, meaning[site], ("mean", "auroc", name), words, colour, line)
        axes.set_ylabel("AUROC")

    def factors(axes: Axes, site: str) -> None:
        for factor, colour in zip(ground.factors, cycle(_FACTOR_COLOURS), strict=False):
            _curve(axes, meaning[site], ("factors", factor, "auroc", "best_latent"), factor, colour, "-")
        axes.set_ylabel("AUROC of the best latent")

    def reader(figure: str) -> Callable[[Axes, str], None]:
        def draw(axes: Axes, site: str) -> None:
            for name, (words, colour, line) in _READERS.items():
                _curve(axes, readout[site], (figure, name), words, colour, line)
            axes.set_ylabel(label(figure))

        return draw

    plots = {
        "meaning": _panels(list(meaning), [predictors], (0.45, 1.02)),
        "factors": _panels(list(meaning), [factors], (0.45, 1.02)),
    }
    if maps:
        plots["readout"] = _panels(list(readout), [reader(figure) for figure in maps], (-0.05, 1.02))
    if figures["hierarchy"]["codes"]["concepts"]:
        plots["hierarchy"] = _hierarchy(figures["hierarchy"]["codes"]["concepts"], list(meaning))
    if "mean" in figures.get("steering", {}):
        plots["steering"] = _steering(figures["steering"])
    return plots


def _hierarchy(concepts: Mapping[str, Any], sites: list[str]) -> bytes:
    figure = Figure(figsize=(6.4, 0.32 * len(concepts) + 1.4), layout="constrained")
    axes = figure.subplots()
    colours = [colormaps["viridis"](0.85 * number / max(len(sites) - 1, 1)) for number in range(len(sites))]
    for row, found in enumerate(concepts.values()):
        axes.axhline(row, color="#d9dee4", linewidth=0.8, zorder=0)
        for site, colour in zip(sites, colours, strict=True):
            if site in found["readable_from"]:
                axes.plot(found["readable_from"][site], row, "o", color=colour)
    axes.set_yticks(range(len(concepts)), [f"{found['level']}: {name}" for name, found in concepts.items()], fontsize=8)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="readable from t on (1 is pure noise)")
    _tidy(axes)
    handles = [Line2D([], [], marker="o", linestyle="", color=colour) for colour in colours]
    names = [site.replace("$", r"\$") for site in sites]
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return _saved(figure)


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
    _tidy(axes)
    axes.legend(fontsize=8, frameon=False, title="diamonds: means over targets", title_fontsize=8)
    return _saved(figure)


def _panels(sites: list[str], rows: list[Callable[[Axes, str], None]], limits: tuple[float, float]) -> bytes:
    columns = min(4, len(sites))
    lines = math.ceil(len(sites) / columns)
    figure = Figure(figsize=(3.9 * columns, 2.9 * lines * len(rows) + 0.5), layout="constrained")
    grid = figure.subplots(lines * len(rows), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)
    for kind, draw in enumerate(rows):
        for place, site in enumerate(sites):
            axes = grid[kind * lines + place // columns][place % columns]
            axes.set_visible(True)
            draw(axes, site)
            axes.set(xlabel="t (1 is pure noise)", ylim=limits)
            axes.set_title(site.replace("$", r"\$"), fontsize=9)
            _tidy(axes)
    handles, labels = grid[0][0].get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return _saved(figure)


def _curve(axes: Axes, found: Mapping[str, Any], path: tuple[str, ...], words: str, colour: str, line: str) -> None:
    if points := over_time(found, path):
        t, values = zip(*points, strict=True)
        axes.plot(t, values, color=colour, linestyle=line, label=words, **_STYLE)


def _tidy(axes: Axes) -> None:
    axes.grid(alpha=0.25, linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _saved(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()

"""The report's plots, as PNG bytes. No figure is registered anywhere, so nothing needs closing."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from einops import rearrange
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from PIL import Image
from torch import Tensor

from tide_lightning.evaluation.floors import FLOORS
from tide_lightning.intervene.splicing import ALL

_COLOURS = ("#9aa5b1", "#7b8794", "#52606d", "#d9822b", "#8fb4e8", "#2f6fd0")
_SAE = "#c2255c"
_STYLE: dict[str, Any] = {"marker": "o", "markersize": 3, "linewidth": 1.6}

FLOOR_NAMES = {
    "mean": "mean",
    "mean_t": "mean(t)",
    "mean_t_position": "mean(t, position)",
    "known": "known part alone",
    "pca_k": "PCA, k",
    "pca_2k": "PCA, 2k",
}
"""What the floors are called in plots and tables."""


def draw_plots(metrics: Mapping[str, Any]) -> dict[str, bytes]:
    """Every plot that the metrics allow: PNG by name."""
    sites = metrics.get("sites", {})
    plots: dict[str, bytes] = {}
    if sites:
        floors = metrics.get("floors", {})

        def explained(axes: Axes, site: str) -> None:
            _explained(axes, sites[site], floors.get(site))

        plots["explained_variance"] = _per_site(sites, explained)
        plots["l0"] = _over_t(sites, "l0", "active latents a token")
        plots["firing_frequency"] = _per_site(sites, lambda axes, site: _firing(axes, sites[site]))
    fidelity = metrics.get("fidelity", {})
    cases = {**fidelity.get("sites", {}), **({ALL: fidelity[ALL]} if ALL in fidelity else {})}
    if cases:
        named = {"all sites" if case == ALL else case: figures for case, figures in cases.items()}
        plots["loss_increase"] = _per_site(named, lambda axes, case: _loss_increase(axes, named[case]))
    return plots


def image_strip(images_CPCHW: Tensor, max_side: int = 192) -> list[bytes]:
    """One PNG a prompt, its cases side by side.

    Args:
        images_CPCHW: [cases, prompts, 3, H, W] in [-1, 1].
        max_side: larger images are scaled down to this.
    """
    framed = torch.nn.functional.pad(images_CPCHW, (0, 2, 0, 0), value=1.0)  # a white line between cases
    rows = rearrange(framed, "case prompt c h w -> prompt h (case w) c")
    side = images_CPCHW.shape[-2]
    strips = []
    for row in ((rows + 1) * 127.5).round().clamp(0, 255).byte().numpy():
        picture = Image.fromarray(row)
        if side > max_side:
            size = (picture.width * max_side // side, picture.height * max_side // side)
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        strips.append(_encoded(picture))
    return strips


def image_grid(images_CPCHW: Tensor) -> Tensor:
    """All images in one, a row a prompt and a column a case [3, prompts * H, cases * W] in [0, 1]."""
    grid = rearrange(images_CPCHW, "case prompt c h w -> c (prompt h) (case w)")
    return (grid / 2 + 0.5).clamp(0, 1)


def save_image(image_CHW: Tensor) -> bytes:
    """An image in [0, 1] as PNG."""
    pixels = rearrange(image_CHW * 255, "c h w -> h w c").round().byte().numpy()
    return _encoded(Image.fromarray(pixels))


def _explained(axes: Axes, figures: Mapping[str, Any], floors: Mapping[str, Any] | None) -> None:
    for name, colour in zip(FLOORS, _COLOURS, strict=True):
        if floors and name in floors:
            t, value = _curve(floors[name]["by_timestep"], "explained_variance")
            axes.plot(t, value, color=colour, label=FLOOR_NAMES[name], **_STYLE)
    t, value = _curve(figures["by_timestep"], "explained_variance")
    axes.plot(t, value, color=_SAE, label="SAE", **{**_STYLE, "linewidth": 2.4})
    axes.set_ylim(max(min(-0.1, *value), -1) - 0.02, 1.02)
    axes.set_ylabel("explained variance")


def _loss_increase(axes: Axes, figures: Mapping[str, Any]) -> None:
    lowest, highest = 0.0, 0.1
    for name, label, colour in (
        ("loss_increase_known", "known part alone", _COLOURS[3]),
        ("loss_increase", "SAE", _SAE),
    ):
        t, value = _curve(figures["by_timestep"], name)
        lowest, highest = min(lowest, *value), max(highest, *value)
        axes.plot(t, value, color=colour, label=label, **_STYLE)
    axes.axhline(0, color="#52606d", linewidth=0.8)
    axes.set_yscale("symlog", linthresh=0.1)
    axes.set_ylim(1.2 * lowest - 0.02, 1.5 * highest)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.0%}"))
    axes.set_ylabel("loss increase")


def _firing(axes: Axes, figures: Mapping[str, Any]) -> None:
    histogram = figures["firing_frequency"]
    low, high, latents = histogram["log10_low"], histogram["log10_high"], histogram["latents"]
    edges = [low + (high - low) * number / len(latents) for number in range(len(latents) + 1)]
    axes.stairs(latents, edges, fill=True, color=_SAE, alpha=0.8)
    axes.axvline(-5, color="#52606d", linewidth=0.8, linestyle="--")
    never = figures["never_fired_fraction"]
    axes.set_xlim(low, high)
    axes.set_xlabel(f"log10 of the share of tokens ({never:.1%} never fired)")
    axes.set_ylabel("latents")


def _over_t(sites: Mapping[str, Any], name: str, label: str) -> bytes:
    figure = Figure(figsize=(6.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for number, (site, figures) in enumerate(sites.items()):
        t, value = _curve(figures["by_timestep"], name)
        axes.plot(t, value, label=_literal(site), color=_shade(number, len(sites)), **_STYLE)
    _finish(axes)
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7, ncols=max(1, len(sites) // 10))
    return _save(figure)


def _per_site(sites: Iterable[str], draw: Callable[[Axes, str], None]) -> bytes:
    names = list(sites)
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        _finish(axes)
        draw(axes, name)
        axes.set_title(_literal(name), fontsize=9)
    for axes in list(grid.flat)[len(names) :]:
        axes.set_visible(False)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return _save(figure)


def _curve(rows: Iterable[Mapping[str, Any]], name: str) -> tuple[list[float], list[float]]:
    found = [((row["low"] + row["high"]) / 2, row[name]) for row in rows if name in row]
    return [t for t, _ in found], [value for _, value in found]


def _finish(axes: Axes) -> None:
    axes.set_xlabel("t (1 is pure noise)")
    axes.set_xlim(0, 1)
    axes.grid(alpha=0.25, linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _shade(number: int, count: int) -> tuple[float, float, float]:
    """From blue for early to red for late."""
    mix = number / max(count - 1, 1)
    early, late = (0.18, 0.44, 0.82), (0.76, 0.15, 0.36)
    r, g, b = (a + mix * (z - a) for a, z in zip(early, late, strict=True))
    return r, g, b


def _literal(text: str) -> str:
    """Text that is not read as a formula."""
    return text.replace("$", r"\$")


def _save(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _encoded(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()

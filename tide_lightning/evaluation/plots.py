"""The report's plots and images, as PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from einops import rearrange
from matplotlib.axes import Axes
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tide_lightning.drawing import curve, encoded, panels, percent, shade, single
from tide_lightning.evaluation.floors import FLOORS
from tide_lightning.evaluation.headlines import FLOOR_NAMES, fidelity_cases

_COLOURS = ("#9aa5b1", "#7b8794", "#52606d", "#d9822b", "#8fb4e8", "#2f6fd0")
_SAE = "#c2255c"
_STYLE: dict[str, Any] = {"marker": "o", "markersize": 3, "linewidth": 1.6}


def draw_plots(metrics: Mapping[str, Any]) -> dict[str, bytes]:
    """Every plot that the metrics allow: PNG by name."""
    sites, floors, cases = metrics.get("sites", {}), metrics.get("floors", {}), fidelity_cases(metrics)
    plots: dict[str, bytes] = {}
    if sites:
        plots["explained_variance"] = panels(sites, lambda axes, site: _explained(axes, sites[site], floors.get(site)))
        plots["l0"] = single(lambda axes: _l0(axes, sites))
        plots["firing_frequency"] = panels(sites, lambda axes, site: _firing(axes, sites[site]), is_over_time=False)
    if cases:
        plots["loss_increase"] = panels(cases, lambda axes, case: _loss_increase(axes, cases[case]))
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
        strips.append(encoded(picture))
    return strips


def image_grid(images_CPCHW: Tensor) -> Tensor:
    """All images in one, a row a prompt and a column a case [3, prompts * H, cases * W] in [0, 1]."""
    grid = rearrange(images_CPCHW, "case prompt c h w -> c (prompt h) (case w)")
    return (grid / 2 + 0.5).clamp(0, 1)


def save_image(image_CHW: Tensor) -> bytes:
    """An image in [0, 1] as PNG."""
    return encoded(Image.fromarray(pixels_of(image_CHW)))


def pixels_of(image_CHW: Tensor) -> NDArray[np.uint8]:
    """An image in [0, 1] as height, width, RGB."""
    pixels: NDArray[np.uint8] = rearrange(image_CHW * 255, "c h w -> h w c").round().byte().numpy()
    return pixels


def _explained(axes: Axes, figures: Mapping[str, Any], floors: Mapping[str, Any] | None) -> None:
    for name, colour in zip(FLOORS, _COLOURS, strict=True):
        if floors and name in floors:
            line = curve(floors[name]["by_timestep"], "explained_variance")
            axes.plot(*line, color=colour, label=FLOOR_NAMES[name], **_STYLE)
    t, value = curve(figures["by_timestep"], "explained_variance")
    axes.plot(t, value, color=_SAE, label="SAE", **{**_STYLE, "linewidth": 2.4})
    axes.set_ylim(max(min(-0.1, *value), -1) - 0.02, 1.02)
    axes.set_ylabel("explained variance")


def _loss_increase(axes: Axes, figures: Mapping[str, Any]) -> None:
    lowest, highest = 0.0, 0.1
    for name, label, colour in (
        ("loss_increase_known", "known part alone", _COLOURS[3]),
        ("loss_increase", "SAE", _SAE),
    ):
        t, value = curve(figures["by_timestep"], name)
        lowest, highest = min(lowest, *value), max(highest, *value)
        axes.plot(t, value, color=colour, label=label, **_STYLE)
    percent(axes)
    axes.set_ylim(1.2 * lowest - 0.02, 1.5 * highest)
    axes.set_ylabel("loss increase")


def _firing(axes: Axes, figures: Mapping[str, Any]) -> None:
    histogram = figures["firing_frequency"]
    low, high, latents = histogram["log10_low"], histogram["log10_high"], histogram["latents"]
    edges = [low + (high - low) * number / len(latents) for number in range(len(latents) + 1)]
    axes.stairs(latents, edges, fill=True, color=_SAE, alpha=0.8)
    axes.axvline(-5, color="#52606d", linewidth=0.8, linestyle="--")
    never = figures["never_fired_fraction"]
    axes.set(xlim=(low, high), xlabel=f"log10 of the share of tokens ({never:.1%} never fired)", ylabel="latents")


def _l0(axes: Axes, sites: Mapping[str, Any]) -> None:
    for number, (site, figures) in enumerate(sites.items()):
        axes.plot(*curve(figures["by_timestep"], "l0"), label=site, color=shade(number, len(sites)), **_STYLE)
    axes.set_ylabel("active latents a token")
    axes.set_ylim(bottom=0)

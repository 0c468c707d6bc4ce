"""What the monitor draws: RGB arrays, as TensorBoard takes them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from einops import rearrange
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image as Pictures
from torch import Tensor

from tide_lightning.drawing import Curve, literal, percent, saved, shade, single

Image = NDArray[np.uint8]
"""Height, width, RGB."""


def draw_explained_variance(saes: Mapping[str, Curve], known: Mapping[str, Curve]) -> Image:
    """Each site's explained variance over the timestep, dashed that of its known part alone."""

    def draw(axes: Axes) -> None:
        for number, site in enumerate(saes):
            colour = shade(number, len(saes))
            axes.plot(*saes[site], color=colour, marker=".", label=literal(site))
            axes.plot(*known[site], color=colour, linestyle="--", linewidth=1)
        axes.set_ylim(top=1.01)
        axes.set_ylabel("explained variance (dashed: known part alone)")
        _say_worst(axes, saes, lowest=True, form=".3f")

    return _pixels(single(draw))


def draw_loss_increase(sites: Mapping[str, Curve]) -> Image:
    """Each site's loss increase over the timestep."""

    def draw(axes: Axes) -> None:
        for number, (site, curve) in enumerate(sites.items()):
            axes.plot(*curve, color=shade(number, len(sites)), marker=".", label=literal(site))
        percent(axes)
        axes.set_ylabel("increase of the denoising loss by splicing")
        _say_worst(axes, sites, lowest=False, form="+.0%")

    return _pixels(single(draw))


def draw_profiles(rate: Tensor, site: str, max_rows: int = 400) -> Image:
    """When each latent fires: one row a latent, those of noisy times at the bottom; at most so many, evenly taken.

    `rate` is the share of tokens on which each fires, by bin of t [F, bins].
    """
    fires = rate[rate.sum(1) > 0].cpu().numpy()
    centres = (np.arange(fires.shape[1]) + 0.5) / fires.shape[1]
    order = np.argsort(fires @ centres / fires.sum(1))
    order = order[np.linspace(0, len(order) - 1, min(max_rows, len(order))).round().astype(int)]
    shares = fires[order] / fires[order].max(axis=1, keepdims=True) if len(fires) else np.zeros((1, len(centres)))

    def draw(axes: Axes) -> None:
        axes.set_title(literal(f"{site}: {len(fires)} of {len(rate)} latents fire"), fontsize=9)
        drawn = axes.imshow(shares, aspect="auto", extent=(0, 1, 1, 0), cmap="magma", vmin=0, vmax=1)
        axes.set_yticks([])
        axes.set_ylabel("latents, by their mean t")
        axes.figure.colorbar(drawn, ax=axes, label="firing rate / its maximum")

    return _pixels(single(draw))


def draw_images(rows: Mapping[str, Tensor]) -> Image:
    """A row of images a case, [N, 3, H, W] in [-1, 1], with its name."""
    names, num_images = list(rows), len(next(iter(rows.values())))
    figure = Figure(figsize=(1.4 * num_images + 0.3, 1.5 * len(names)), layout="constrained")
    grid = figure.subplots(len(names), num_images, squeeze=False)
    for name, row in zip(names, grid, strict=True):
        pictures: Any = rearrange((rows[name].clamp(-1, 1) + 1) * 127.5, "n c h w -> n h w c").byte().cpu().numpy()
        for axes, picture in zip(row, pictures, strict=True):
            axes.imshow(picture)
            axes.set_axis_off()
        row[0].set_title(literal(name), fontsize=8, loc="left")
    return _pixels(saved(figure))


def _say_worst(axes: Axes, sites: Mapping[str, Curve], lowest: bool, form: str) -> None:
    """Let the title say where a figure is worst."""
    points = [(value, t, site) for site, curve in sites.items() for t, value in zip(*curve, strict=True)]
    if points:
        value, t, site = min(points) if lowest else max(points)
        which = "least" if lowest else "most"
        axes.set_title(literal(f"{which} at {site}, t = {t:.2f}: {value:{form}}"), fontsize=9)


def _pixels(png: bytes) -> Image:
    return np.asarray(Pictures.open(io.BytesIO(png)).convert("RGB"))

"""What the monitor draws: figures as RGB arrays, by matplotlib's objects and without its global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

Image = NDArray[np.uint8]
"""Height, width, RGB."""

Curve = tuple[Sequence[float], Sequence[float]]
"""Times t and values."""


def draw_explained_variance(saes: Mapping[str, Curve], known: Mapping[str, Curve]) -> Image:
    """Each site's explained variance over the timestep, dashed that of its known part alone."""
    figure, axes = _over_time("explained variance (dashed: known part alone)")
    for colour, site in zip(_colours(len(saes)), saes, strict=True):
        axes.plot(*saes[site], color=colour, marker=".", label=site)
        axes.plot(*known[site], color=colour, linestyle="--", linewidth=1)
    axes.set_ylim(top=1.01)
    _legend(axes, len(saes))
    return _pixels(figure)


def draw_loss_increase(sites: Mapping[str, Curve]) -> Image:
    """Each site's loss increase over the timestep, on a scale that shows both 1 % and 1000 %."""
    figure, axes = _over_time("increase of the denoising loss by splicing, %")
    for colour, (site, (t, values)) in zip(_colours(len(sites)), sites.items(), strict=True):
        axes.plot(t, [100 * value for value in values], color=colour, marker=".", label=site)
    axes.set_yscale("symlog", linthresh=10)
    axes.axhline(0, color="black", linewidth=0.8)
    _legend(axes, len(sites))
    return _pixels(figure)


def draw_profiles(rate: Tensor, site: str, max_rows: int = 400) -> Image:
    """When each latent fires: one row a latent, those of noisy times at the bottom.

    Args:
        rate: share of tokens on which each latent fires, by bin of t [F, bins].
        site: for the title.
        max_rows: of so many latents, evenly taken from all that fire.
    """
    fires = rate[rate.sum(1) > 0].cpu().numpy()
    centres = (np.arange(fires.shape[1]) + 0.5) / fires.shape[1]
    order = np.argsort(fires @ centres / fires.sum(1))
    order = order[np.linspace(0, len(order) - 1, min(max_rows, len(order))).round().astype(int)]
    figure, axes = _over_time("latents, by their mean t")
    axes.set_title(f"{site}: {len(fires)} of {len(rate)} latents fire", fontsize=9)
    shares = fires[order] / fires[order].max(axis=1, keepdims=True) if len(fires) else np.zeros((1, len(centres)))
    drawn = axes.imshow(shares, aspect="auto", extent=(0, 1, 1, 0), cmap="magma", vmin=0, vmax=1)
    axes.set_yticks([])
    axes.grid(False)
    figure.colorbar(drawn, ax=axes, label="firing rate / its maximum")
    return _pixels(figure)


def draw_images(rows: Mapping[str, Tensor]) -> Image:
    """A row of images a case, [N, 3, H, W] in [-1, 1], with its name."""
    names, num_images = list(rows), len(next(iter(rows.values())))
    figure = Figure(figsize=(1.4 * num_images + 0.3, 1.5 * len(names)), dpi=100, layout="constrained")
    grid = figure.subplots(len(names), num_images, squeeze=False)
    for name, row in zip(names, grid, strict=True):
        for axes, image in zip(row, rows[name], strict=True):
            axes.imshow(((image.clamp(-1, 1) + 1) * 127.5).byte().permute(1, 2, 0).cpu().numpy())
            axes.set_axis_off()
        row[0].set_title(name, fontsize=8, loc="left")
    return _pixels(figure)


def _over_time(label: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(6.4, 4.0), dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel("t (1 is pure noise)")
    axes.set_ylabel(label)
    axes.set_xlim(0, 1)
    axes.grid(alpha=0.3)
    return figure, axes


def _colours(count: int) -> Any:
    return colormaps["viridis"](np.linspace(0.0, 0.85, max(1, count)))[:count]


def _legend(axes: Any, count: int) -> None:
    if 0 < count <= 10:
        axes.legend(fontsize=7)


def _pixels(figure: Figure) -> Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]

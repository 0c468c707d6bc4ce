"""Plots by matplotlib's objects: no figure is registered anywhere, so nothing needs closing."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from PIL import Image

Curve = tuple[Sequence[float], Sequence[float]]
"""Times t and values."""


def panels(
    names: Iterable[str],
    draw: Callable[[Axes, str], None],
    size: tuple[float, float] = (4.1, 3.2),
    is_over_time: bool = True,
) -> bytes:
    """A panel for each name, up to three beside each other, under one legend: that of the first."""
    names = list(names)
    columns = max(1, min(3, len(names)))
    rows = max(1, math.ceil(len(names) / columns))
    figure = Figure(figsize=(size[0] * columns, size[1] * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        draw(axes, name)
        axes.set_title(literal(name), fontsize=9)
        if is_over_time:
            over_time(axes)
    for axes in list(grid.flat)[len(names) :]:
        axes.set_visible(False)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return saved(figure)


def single(draw: Callable[[Axes], None], size: tuple[float, float] = (6.5, 3.8)) -> bytes:
    """One plot over the timestep, with its legend inside where it has a few lines."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    draw(axes)
    over_time(axes)
    if 0 < len(axes.get_legend_handles_labels()[1]) <= 20:
        axes.legend(fontsize=7)
    return saved(figure)


def over_time(axes: Axes) -> None:
    """Let the horizontal axis be the timestep."""
    axes.set(xlabel="t (1 is pure noise)", xlim=(0, 1))
    tidy(axes)


def tidy(axes: Axes) -> None:
    """A faint grid, unless an image covers it; no frame above and at the right."""
    if not axes.images:
        axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def curve(bins: Iterable[Mapping[str, Any]], name: str) -> Curve:
    """A figure of metrics.json by bin of t, over the bins' centres; bins without it are left out."""
    found = [((row["low"] + row["high"]) / 2, row[name]) for row in bins if name in row]
    return [t for t, _ in found], [value for _, value in found]


def percent(axes: Axes, threshold: float = 0.1) -> None:
    """Per cents on a scale that shows both 1 % and 1000 %: linear up to a threshold, logarithmic beyond."""
    axes.set_yscale("symlog", linthresh=threshold)
    axes.axhline(0, color="#52606d", linewidth=0.8)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.0%}"))


def shade(number: int, count: int) -> Any:
    """The colour of one of several."""
    return colormaps["viridis"](0.85 * number / max(count - 1, 1))


def literal(text: str) -> str:
    """Text that is not read as a formula."""
    return text.replace("$", r"\$")


def saved(figure: Figure) -> bytes:
    """As PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """A picture as a file of a kind."""
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()

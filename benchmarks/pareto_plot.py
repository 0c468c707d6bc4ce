"""The plot of `benchmarks/pareto.py`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

Pieces = dict[str, dict[str, dict[str, dict[str, float]]]]
"""Rows by piece (size and k), seed and variant."""

PLOTTED = {"f1": "factor F1 of the best latents", "steering_success": "share of images that one latent turns"}
"""What the loss increase may be plotted against."""

_MARKERS = {"-known": "o", "-metric": "s", "-pursuit": "^"}


def plot(pieces: Mapping[tuple[float, int], Mapping[str, Mapping[str, Any]]], column: str, path: Path) -> None:
    """Loss increase against one of `PLOTTED`, a row a size, a column a k, where there are such figures.

    Hollow are SAEs as in their papers, filled those with some of our equipment.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot, ticker

    names = list(dict.fromkeys(name for seeds in pieces.values() for rows in seeds.values() for name in rows))
    rivals = sorted({_rival(name) for name in names} - {"tide"})
    colours = {"tide": "black"} | dict(zip(rivals, pyplot.get_cmap("tab10").colors, strict=False))  # type: ignore[attr-defined]
    found = {
        piece: points
        for piece, seeds in pieces.items()
        if (points := {name: both for name in names if (both := _both(seeds, name, column))})
    }
    sizes, ks = (sorted(set(each)) for each in zip(*found, strict=True))
    shape: dict[str, Any] = {"figsize": (1.5 + 4.5 * len(ks), 3.8 * len(sizes)), "sharey": True, "squeeze": False}
    figure, axes = pyplot.subplots(len(sizes), len(ks), **shape)
    for (size, k), points in found.items():
        axis = axes[sizes.index(size)][ks.index(k)]
        for name, (losses, scores) in points.items():
            rival, ours = _rival(name), name == "tide"
            x, y = sum(losses) / len(losses), sum(scores) / len(scores)
            axis.errorbar(
                x,
                y,
                xerr=[[x - min(losses)], [max(losses) - x]],
                yerr=[[y - min(scores)], [max(scores) - y]],
                fmt=_MARKERS.get(name.removeprefix(rival), "*" if ours else "o"),
                markersize=14 if ours else 7,
                color=colours[rival],
                markerfacecolor=colours[rival] if ours or rival != name else "white",
                elinewidth=1,
                label=None if rival != name else rival,
            )
        axis.set(xscale="log", title=f"{size:g}x k={k}", xlabel="loss increase when spliced (left is better)")
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 3)))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        axis.grid(alpha=0.3)
    for axis in axes.flat:
        axis.set_visible(axis.has_data())
    for row in axes:
        row[0].set_ylabel(PLOTTED[column])
    key = "hollow: as in its paper\ncircle: with our known part\nsquare: and metric, budget\ntriangle: and pursuit"
    shown = [axis.get_legend_handles_labels() for axis in axes.flat]
    markers = {label: handle for handles, labels in shown for handle, label in zip(handles, labels, strict=True)}
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.02, 0.5)}
    axes[0][-1].legend(markers.values(), markers.keys(), fontsize=8, title=key, title_fontsize=8, **place)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _rival(name: str) -> str:
    return next((name.removesuffix(suffix) for suffix in _MARKERS if name.endswith(suffix)), name)


def _both(seeds: Mapping[str, Mapping[str, Any]], name: str, column: str) -> tuple[list[float], list[float]] | None:
    rows = [rows[name] for rows in seeds.values() if {"loss_increase", column} <= rows.get(name, {}).keys()]
    return ([row["loss_increase"] for row in rows], [row[column] for row in rows]) if rows else None

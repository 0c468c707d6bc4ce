"""The table and the plot of `benchmarks/pareto.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.tables import averaged, markdown

Pieces = dict[str, dict[str, dict[str, dict[str, Any]]]]
"""Rows by piece (size and k), seed and variant."""

COLUMNS = {
    "l0": ("L0", ".1f"),
    "explained_variance": ("explained variance", ".3f"),
    "loss_increase": ("loss increase", ".0%"),
    "alive_fraction": ("alive", ".2f"),
    "f1": ("factor F1", ".3f"),
    "matched_share": ("found by other seeds", ".2f"),
    "steering_success": ("steering", ".0%"),
}


PLOTTED = {"f1": "factor F1 of the best latents", "steering_success": "share of images that one latent turns"}
"""What the loss increase may be plotted against."""


def values(piece: dict[str, dict[str, dict[str, Any]]], name: str, column: str) -> list[float]:
    """One figure of a variant over the seeds that have it."""
    return [rows[name][column] for rows in piece.values() if column in rows.get(name, {})]


def numbers(title: str) -> tuple[float, int]:
    """The size and the k that a piece is called by."""
    factor, k = title.split("x k=")
    return float(factor), int(k)


def table(pieces: Pieces, names: list[str]) -> str:
    """Markdown, one table a piece."""
    parts = []
    for title in sorted(pieces, key=numbers):
        piece = pieces[title]
        columns = {key: column for key, column in COLUMNS.items() if any(values(piece, name, key) for name in names)}
        lines = []
        for name in names:
            seeds = len(values(piece, name, "l0"))
            if seeds:
                cells = (averaged(values(piece, name, key), form) for key, (_, form) in columns.items())
                lines.append([name, str(seeds), *cells])
        head = ["SAE", "seeds", *(title for title, _ in columns.values())]
        parts.append(f"### {title}\n\n" + markdown(head, lines))
    return "\n\n".join(parts)


def plot(pieces: Pieces, names: list[str], column: str, path: Path) -> None:
    """Loss increase against one of `PLOTTED`, a row a size, a column a k, where there are such figures.

    Hollow are SAEs as in their papers, filled those with the known part.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot, ticker

    rivals = [name for name in names if f"{name}-known" in names]
    [ours] = [name for name in names if name.removesuffix("-known") not in rivals]
    colours: dict[str, Any] = {ours: "black"}
    colours |= dict(zip(rivals, pyplot.get_cmap("tab10").colors, strict=False))  # type: ignore[attr-defined]
    pieces = {title: piece for title, piece in pieces.items() if any(values(piece, name, column) for name in names)}
    sizes, ks = (sorted(set(values)) for values in zip(*map(numbers, pieces), strict=True))
    shape: dict[str, Any] = {"figsize": (1.5 + 4.5 * len(ks), 3.8 * len(sizes)), "sharey": True, "squeeze": False}
    figure, axes = pyplot.subplots(len(sizes), len(ks), **shape)
    for title, piece in pieces.items():
        size, k = numbers(title)
        axis = axes[sizes.index(size)][ks.index(k)]
        for name in names:
            losses, scores = values(piece, name, "loss_increase"), values(piece, name, column)
            if not losses or not scores:
                continue
            rival = name.removesuffix("-known")
            colour, filled = colours[rival], rival != name or name == ours
            x, y = sum(losses) / len(losses), sum(scores) / len(scores)
            axis.errorbar(
                x,
                y,
                xerr=[[x - min(losses)], [max(losses) - x]],
                yerr=[[y - min(scores)], [max(scores) - y]],
                fmt="*" if name == ours else "o",
                markersize=14 if name == ours else 7,
                color=colour,
                markerfacecolor=colour if filled else "white",
                elinewidth=1,
                label=None if rival != name else rival,
            )
        axis.set(xscale="log", title=title, xlabel="loss increase when spliced (left is better)")
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 3)))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        axis.grid(alpha=0.3)
    for axis in axes.flat:
        axis.set_visible(axis.has_data())
    for row in axes:
        row[0].set_ylabel(PLOTTED[column])
    key = "hollow: as in its paper\nfilled: with our known part"
    shown = [axis.get_legend_handles_labels() for axis in axes.flat]
    markers = {label: handle for handles, labels in shown for handle, label in zip(handles, labels, strict=True)}
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.02, 0.5)}
    axes[0][-1].legend(markers.values(), markers.keys(), fontsize=8, title=key, title_fontsize=8, **place)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)

"""The plot of `benchmarks/pareto.py`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

Pieces = dict[str, dict[str, dict[str, dict[str, float]]]]
"""Rows by piece (size and k), seed and variant."""

LOSS = "loss_increase_even"
PANELS = {
    "latents_cosine": "final latents with the block spliced, centred cosine",
    "f1": "factor F1 of the best latents",
    "steering_beyond_chance": "one latent's steering, success beyond chance",
}
"""What the loss increase is plotted against, where there are such figures."""

_KINDS = {"-known": "about the same known part", "-metric": "and its metric and budget", "-pursuit": "and its pursuit"}
_MARKERS = {"": "o", "-known": "o", "-metric": "s", "-pursuit": "^"}


def plot(
    seeds: Mapping[str, Mapping[str, Mapping[str, Any]]], ours: str, aside: Collection[str], title: str, path: Path
) -> None:
    """Loss increase against each of `PANELS`, and the frontier: SAEs beside which none is better in both.

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
    losses = {name: value for name in names if (value := _mean(seeds, name, LOSS)) is not None}
    rivals = sorted({_parts(name)[0] for name in losses} - {ours})
    colours = {ours: "black"} | dict(zip(rivals, pyplot.get_cmap("tab10").colors, strict=False))  # type: ignore[attr-defined]
    panels = {key: label for key, label in PANELS.items() if _mean(seeds, ours, key) is not None}
    figure, axes = pyplot.subplots(1, len(panels), figsize=(2.2 + 4.6 * len(panels), 4.6), squeeze=False)
    for axis, (key, label) in zip(axes[0], panels.items(), strict=True):
        points = {name: (loss, y) for name, loss in losses.items() if (y := _mean(seeds, name, key)) is not None}
        for name, (x, y) in points.items():
            rival, kind = _parts(name)
            axis.plot(
                x,
                y,
                "*" if name == ours else _MARKERS[kind],
                markersize=15 if name == ours else 7,
                color=colours[rival],
                markerfacecolor=colours[rival] if kind or name == ours else "white",
                label=rival if name == next(each for each in points if _parts(each)[0] == rival) else None,
            )
        edge = _frontier(points)
        axis.plot(*zip(*(points[name] for name in edge), strict=True), color="grey", linewidth=1, zorder=0)
        axis.set(xscale="log", xlabel="loss increase when spliced, even in t (left is better)", ylabel=label)
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 3) if max(losses.values()) < 30 else (1,)))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        axis.grid(alpha=0.3)
    key_text = (
        "hollow: as in its paper\ncircle: about our known part\nsquare: and metric, budget\ntriangle: and pursuit"
    )
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.02, 0.5)}
    axes[0][-1].legend(fontsize=8, title=f"{key_text}\nline: the frontier", title_fontsize=8, **place)
    figure.suptitle(f"{title}: {finding({name: losses[name] for name in losses if name not in aside}, ours)}")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def finding(losses: Mapping[str, float], ours: str) -> str:
    """The increase of the loss by our SAE and by the best of each kind of rival, in words."""
    said = []
    for kind, words in {"": "as in its paper", **_KINDS}.items():
        if of_kind := [loss for name, loss in losses.items() if name != ours and _parts(name)[1] == kind]:
            said.append(f"{words} {min(of_kind):.0%}")
    return f"{ours} adds {losses[ours]:.0%} to the loss; the best rival {', '.join(said)}"


def _frontier(points: Mapping[str, tuple[float, float]]) -> Sequence[str]:
    ordered = sorted(points, key=lambda name: (points[name][0], -points[name][1]))
    edge: list[str] = []
    for name in ordered:
        if not edge or points[name][1] > points[edge[-1]][1]:
            edge.append(name)
    return edge


def _parts(name: str) -> tuple[str, str]:
    """A rival's own name, and the ending that says what it was given."""
    kind = next((suffix for suffix in _KINDS if name.endswith(suffix)), "")
    return name.removesuffix(kind), kind


def _mean(seeds: Mapping[str, Mapping[str, Mapping[str, Any]]], name: str, key: str) -> float | None:
    found = [rows[name][key] for rows in seeds.values() if key in rows.get(name, {})]
    return sum(found) / len(found) if found else None

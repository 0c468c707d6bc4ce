"""The page of a comparison: tables and plots, in one file."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FuncFormatter

from tide_lightning.evaluation.comparison.figures import ALL_SITES, Row, Spread, unequal_amounts, written
from tide_lightning.evaluation.comparison.reproducibility import MEASURES
from tide_lightning.evaluation.comparison.runs import Group
from tide_lightning.evaluation.page import Block, html_page, html_plot, html_table

Reproducibility = Mapping[str, Mapping[str, Mapping[str, Spread]]]

_HEADLINES = ("explained variance", "loss increase", "alive", "best latent, AUROC")
_SPREAD = "± is half the range over the runs of a group; the best mean has a star."


def comparison_page(
    groups: Sequence[Group], rows: Sequence[Row], differences: Sequence[Sequence[str]], found: Reproducibility
) -> str:
    """The whole page."""
    names = [group.name for group in groups]
    sites = list(dict.fromkeys(row.site for row in rows if row.site != ALL_SITES))
    runs = [
        [group.name, run.name, ", ".join(f"{name} {seed}" for name, seed in run.seeds.items() if "." not in name)]
        for group in groups
        for run in group.runs
    ]
    unequal = "".join(f"<li>{escape(line)}</li>" for line in unequal_amounts(groups))
    blocks = [
        Block("Not measured alike: read the figures with care", f"<ul>{unequal}</ul>" if unequal else "", True),
        Block("Runs", html_table(["group", "run", "seeds"], runs)),
        Block("Settings: where the groups differ", html_table(["setting", *names], differences)),
        Block("Headlines", _headlines(names, rows, sites)),
        *(Block(site, _figures(names, [row for row in rows if row.site == site])) for site in [ALL_SITES, *sites]),
        Block("Over the timestep", _over_time(groups, sites)),
        Block("Reproducibility: do other seeds find the same features?", _reproducibility(found)),
    ]
    return html_page(" · ".join(names), f"{sum(len(group.runs) for group in groups)} tested runs", blocks)


def _figures(names: Sequence[str], rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        best = row.best()
        cells = [written(spread, row.figure.form) + " ★" * (place in best) for place, spread in enumerate(row.spreads)]
        lines.append([row.figure.name, *cells])
    return html_table(["figure", *names], lines, _SPREAD)


def _reproducibility(found: Reproducibility) -> str:
    lines = [
        [f"{group}: {site}"]
        + [written(measures[name], "%" if name.startswith("matched") else ".3f") for name in MEASURES]
        for group, by_site in found.items()
        for site, measures in by_site.items()
    ]
    note = (
        "Directions of latents that fire, between all pairs of a group's runs: the mean of each one's highest cosine, "
        "and the share of pairs above 0.7 when every latent has one partner and the cosines add up to the most. By "
        "chance: the same against as many random directions."
    )
    return html_table(["site", "highest cosine", "by chance", "matched above 0.7", "by chance"], lines, note)


def _headlines(names: Sequence[str], rows: Sequence[Row], sites: Sequence[str]) -> str:
    shown = {name: [row for row in rows if row.figure.name == name and row.site in sites] for name in _HEADLINES}
    shown = {name: some for name, some in shown.items() if some}
    drawing = Drawing(figsize=(3.6 * len(shown), 1.2 + 0.22 * len(sites) * (len(names) + 1)), layout="constrained")
    panels = drawing.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axes, (name, some) in zip(panels, shown.items(), strict=True):
        for row in some:
            for place, spread in enumerate(row.spreads):
                if spread is not None:
                    height = sites.index(row.site) + 0.8 * (place + 0.5) / len(names) - 0.4
                    style: dict[str, Any] = {"color": _colour(place, len(names)), "markersize": 5}
                    axes.errorbar(spread.mean, height, xerr=spread.half_range, fmt="o", **style)
        axes.set_title(name, fontsize=9)
        if some[0].figure.form == "%":
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        _tidy(axes)
    panels[0].set_yticks(range(len(sites)), [_literal(site) for site in sites], fontsize=8)
    panels[0].invert_yaxis()
    handles = [panels[0].plot([], [], "o", color=_colour(place, len(names)))[0] for place in range(len(names))]
    drawing.legend(handles, [_literal(name) for name in names], loc="outside lower center", ncols=4, fontsize=8)
    return html_plot(_saved(drawing), "Means over each group's runs, with their range.")


def _over_time(groups: Sequence[Group], sites: Sequence[str]) -> str:
    def explained(metrics: Mapping[str, Any], site: str) -> Any:
        return metrics["sites"].get(site, {}), "explained_variance"

    def loss(metrics: Mapping[str, Any], site: str) -> Any:
        return metrics.get("fidelity", {}).get("sites", {}).get(site, {}), "loss_increase"

    plots = (
        (explained, "explained variance", None, "Explained variance by timestep, a line a run."),
        (loss, "loss increase", 0.1, "Increase of the denoising loss by timestep, a line a run (log above 10 %)."),
    )
    return "".join(
        html_plot(_panels(groups, sites, read, label, threshold), caption) for read, label, threshold, caption in plots
    )


def _panels(
    groups: Sequence[Group],
    sites: Sequence[str],
    read: Callable[[Mapping[str, Any], str], Any],
    label: str,
    threshold: float | None,
) -> bytes:
    columns = min(3, len(sites))
    drawing = Drawing(figsize=(4.0 * columns, 3.0 * math.ceil(len(sites) / columns) + 0.4), layout="constrained")
    grid = drawing.subplots(math.ceil(len(sites) / columns), columns, squeeze=False)
    for axes, site in zip(grid.flat, sites, strict=False):
        for place, group in enumerate(groups):
            for number, run in enumerate(group.runs):
                figures, name = read(run.metrics, site)
                rows = [row for row in figures.get("by_timestep", ()) if name in row]
                axes.plot(
                    [(row["low"] + row["high"]) / 2 for row in rows],
                    [row[name] for row in rows],
                    color=_colour(place, len(groups)),
                    linewidth=1.4,
                    label=None if number else _literal(group.name),
                )
        if threshold is not None:
            axes.set_yscale("symlog", linthresh=threshold)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.0%}"))
        axes.set(xlim=(0, 1), xlabel="t (1 is pure noise)", ylabel=label)
        axes.set_title(_literal(site), fontsize=9)
        _tidy(axes)
    for axes in list(grid.flat)[len(sites) :]:
        axes.set_visible(False)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return _saved(drawing)


def _colour(place: int, count: int) -> Any:
    return colormaps["viridis"](0.85 * place / max(count - 1, 1))


def _tidy(axes: Axes) -> None:
    axes.grid(alpha=0.25, linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _literal(text: str) -> str:
    """Text that is not read as a formula."""
    return text.replace("$", r"\$")


def _saved(drawing: Drawing) -> bytes:
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()

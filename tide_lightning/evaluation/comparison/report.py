"""A comparison's tables, and its page: the tables and plots, in one file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FuncFormatter

from tide_lightning.drawing import curve, literal, panels, percent, saved, shade, tidy
from tide_lightning.evaluation.bootstrap import BRACKETS, Estimate
from tide_lightning.evaluation.comparison.compared import (
    ALL_SITES,
    Row,
    mean_over_sites,
    unequal_amounts,
)
from tide_lightning.evaluation.comparison.reproducibility import MEASURES
from tide_lightning.evaluation.comparison.runs import Group
from tide_lightning.evaluation.page import Block, html_list, html_page, html_part
from tide_lightning.evaluation.sections import Plot, Table

_HEADLINES = ("explained variance", "loss increase, even in t", "alive", "best latent, AUROC")


class Comparison(NamedTuple):
    """Runs beside each other.

    Fields:
        groups: runs that differ in their seeds alone.
        rows: every figure of every group.
        differences: settings that are not the same everywhere, each with its value in each group.
        reproducibility: of each group, at each site, how far its runs found the same features.
    """

    groups: Sequence[Group]
    rows: Sequence[Row]
    differences: Sequence[Sequence[str]]
    reproducibility: Mapping[str, Mapping[str, Mapping[str, Estimate]]]

    @property
    def names(self) -> list[str]:
        """Of the groups."""
        return [group.name for group in self.groups]

    @property
    def sites(self) -> list[str]:
        """In order."""
        return list(dict.fromkeys(row.site for row in self.rows if row.site != ALL_SITES))


def tables(comparison: Comparison, many_sites: int | None = None) -> Iterator[tuple[str, Table]]:
    """Everything in tables, by title; from more sites than `many_sites` on with means over them."""
    yield "Settings: where the groups differ", Table(["setting", *comparison.names], comparison.differences)
    is_short = many_sites is not None and len(comparison.sites) > many_sites
    shown = mean_over_sites(comparison.rows) if is_short else comparison.rows
    note = f"{BRACKETS}; the best mean has a star."
    for site, rows in groupby(shown, key=lambda row: row.site):
        lines = [[row.figure.name, *row.cells()] for row in rows]
        yield site, Table(["figure", *comparison.names], lines, note)
    lines = [
        [f"{group}: {site}", *(measures[name].written(form) for name, form in MEASURES.items())]
        for group, by_site in comparison.reproducibility.items()
        for site, measures in by_site.items()
    ]
    note = (
        "Directions of latents that fire, between all pairs of a group's runs: the mean of each one's highest cosine, "
        "and the share of pairs above 0.7 when every latent has one partner and the cosines add up to the most. By "
        "chance: the same against as many random directions."
    )
    head = ["site", "highest cosine", "by chance", "matched above 0.7", "by chance"]
    yield "Reproducibility: do other seeds find the same features?", Table(head, lines, note)


def comparison_page(comparison: Comparison) -> str:
    """The whole page."""
    runs = [
        [group.name, run.name, ", ".join(f"{name} {seed}" for name, seed in run.seeds.items() if "." not in name)]
        for group in comparison.groups
        for run in group.runs
    ]
    unequal = html_list(unequal_amounts(comparison.groups))
    blocks = [
        Block("Not measured alike: read the figures with care", unequal, is_warning=True),
        Block("Runs", html_part(Table(["group", "run", "seeds"], runs))),
        Block("Headlines", html_part(_headlines(comparison))),
        *(Block(title, html_part(table)) for title, table in tables(comparison)),
        Block("Over the timestep", "".join(map(html_part, _over_time(comparison)))),
    ]
    return html_page(" · ".join(comparison.names), f"{len(runs)} tested runs", blocks)


def _headlines(comparison: Comparison) -> Plot:
    names, sites = comparison.names, comparison.sites
    shown = {
        name: some
        for name in _HEADLINES
        if (some := [row for row in comparison.rows if row.figure.name == name and row.site in sites])
    }
    drawing = Drawing(figsize=(3.6 * len(shown), 1.2 + 0.22 * len(sites) * (len(names) + 1)), layout="constrained")
    grid = drawing.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axes, (name, some) in zip(grid, shown.items(), strict=True):
        for row in some:
            for place, value in enumerate(row.values):
                if value is not None:
                    height = sites.index(row.site) + 0.8 * (place + 0.5) / len(names) - 0.4
                    style: dict[str, Any] = {"color": shade(place, len(names)), "markersize": 5}
                    axes.errorbar(
                        value.mean,
                        height,
                        xerr=[[max(0.0, value.mean - value.low)], [max(0.0, value.high - value.mean)]],
                        fmt="o",
                        **style,
                    )
        axes.set_title(name, fontsize=9)
        if some[0].figure.form == "%":
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        tidy(axes)
    grid[0].set_yticks(range(len(sites)), [literal(site) for site in sites], fontsize=8)
    grid[0].invert_yaxis()
    handles = [grid[0].plot([], [], "o", color=shade(place, len(names)))[0] for place in range(len(names))]
    drawing.legend(handles, [literal(name) for name in names], loc="outside lower center", ncols=4, fontsize=8)
    title = _leader(comparison, "loss increase, even in t") or _leader(comparison, "explained variance")
    return Plot("headlines", saved(drawing), "Means over each group's runs, with their range.", title)


def _leader(comparison: Comparison, name: str) -> str:
    """Which group has the best mean over sites of a figure, and the next; "" where none is to be told."""
    means = [row for row in mean_over_sites(comparison.rows) if row.figure.name == name and row.site != ALL_SITES]
    if not means or len(set(means[0].values)) < 2:
        return ""
    row = means[0]
    known = [(value, group) for value, group in zip(row.values, comparison.names, strict=True) if value is not None]
    (first, group), (second, other), *_ = sorted(known, key=lambda one: -row.figure.better * one[0].mean)
    told = "; the intervals overlap" if first.low <= second.high and second.low <= first.high else ""
    best = "Most" if row.figure.better > 0 else "Least"
    form = row.figure.form
    return f"{best} {name}: {group} with {first.written(form)}, then {other} with {second.written(form)}{told}"


def _over_time(comparison: Comparison) -> Iterator[Plot]:
    def lines(axes: Axes, site: str, name: str) -> None:
        for place, group in enumerate(comparison.groups):
            for number, run in enumerate(group.runs):
                of = run.metrics if name == "explained_variance" else run.metrics.get("fidelity", {})
                bins = of.get("sites", {}).get(site, {}).get("by_timestep", ())
                label = None if number else literal(group.name)
                axes.plot(*curve(bins, name), color=shade(place, len(comparison.groups)), linewidth=1.4, label=label)
        axes.set_ylabel(name.replace("_", " "))

    def losses(axes: Axes, site: str) -> None:
        lines(axes, site, "loss_increase")
        percent(axes)

    explained = panels(comparison.sites, lambda axes, site: lines(axes, site, "explained_variance"))
    caption = "Explained variance by timestep, a line a run."
    yield Plot("explained_variance", explained, caption, _leader(comparison, "explained variance"))
    caption = "Increase of the denoising loss by timestep, a line a run (log above 10 %)."
    yield Plot(
        "loss_increase", panels(comparison.sites, losses), caption, _leader(comparison, "loss increase, even in t")
    )

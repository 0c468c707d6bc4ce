"""What of metrics.json is set beside each other, and the mean of repetitions with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tide_lightning.evaluation.bootstrap import Estimate, over_seeds
from tide_lightning.evaluation.comparison.runs import Group, TestedRun

ALL_SITES = "all sites"


class Figure(NamedTuple):
    """A figure that runs are compared by.

    Fields:
        name: for people.
        path: to it in metrics.json, * for the site, GROUND for whichever ground was measured on.
        form: how it is written.
        better: 1 if more is better, -1 if less is, 0 if neither.
    """

    name: str
    path: str
    form: str
    better: int


OF_SITES = (
    Figure("explained variance", "sites/*/explained_variance", ".4f", 1),
    Figure("beyond known", "sites/*/explained_variance_beyond_known", ".3f", 1),
    Figure("known part alone", "floors/*/known/explained_variance", ".4f", 0),
    Figure("loss increase, even in t", "fidelity/sites/*/loss_increase_even", "%", -1),
    Figure("loss increase, as trained", "fidelity/sites/*/loss_increase_as_trained", "%", -1),
    Figure("loss increase", "fidelity/sites/*/loss_increase", "%", -1),
    Figure("loss increase, known alone", "fidelity/sites/*/loss_increase_known", "%", 0),
    Figure("alive", "sites/*/alive_fraction", "%", 1),
    Figure("L0", "sites/*/l0", ".1f", 0),
    Figure("L0, even in t", "sites/*/l0_even", ".1f", 0),
    Figure("L0 in the bin of t with most", "sites/*/l0_largest", ".1f", 0),
    Figure("numbers besides latents", "sites/*/numbers_besides_latents", ".0f", 0),
    Figure("encoder products a token", "sites/*/encoder_products", ".2f", 0),
    Figure("MSE of final latents", "fidelity/end_to_end/sites/*/mse", ".4f", -1),
    Figure("centred cosine of final latents", "fidelity/end_to_end/sites/*/cosine_centred", ".3f", 1),
    Figure("mean lifetime of features", "time/lifetimes/*/lifetime", ".3f", 0),
    Figure("best latent, AUROC", "GROUND/meaning/*/mean/auroc/best_latent", ".3f", 1),
    Figure("best latent, F1", "GROUND/meaning/*/mean/f1/best_latent", ".3f", 1),
    Figure("20 latents, AUROC", "GROUND/meaning/*/mean/auroc/latents_20", ".3f", 1),
    Figure("depth beyond position, R²", "GROUND/readout/*/depth_r2_beyond_position/codes", ".3f", 1),
    Figure("mask, IoU", "GROUND/readout/*/mask_iou/codes", ".3f", 1),
)
"""Measured at each site."""

OF_RUNS = (
    Figure("loss increase, all spliced, even in t", "fidelity/all/loss_increase_even", "%", -1),
    Figure("loss increase, all spliced, as trained", "fidelity/all/loss_increase_as_trained", "%", -1),
    Figure("loss increase, all spliced", "fidelity/all/loss_increase", "%", -1),
    Figure("loss increase, known parts alone", "fidelity/all/loss_increase_known", "%", 0),
    Figure("centred cosine of final latents", "fidelity/end_to_end/all/cosine_centred", ".3f", 1),
    Figure("unrelated images", "fidelity/end_to_end/unrelated/cosine_centred", ".3f", 0),
    Figure("Fréchet distance, originals", "fidelity/end_to_end/original/frechet", ".2f", 0),
    Figure("Fréchet distance, all spliced", "fidelity/end_to_end/all/frechet", ".2f", -1),
    Figure("CLIP score, originals", "fidelity/end_to_end/original/clip_score", ".2f", 0),
    Figure("CLIP score, all spliced", "fidelity/end_to_end/all/clip_score", ".2f", 1),
    Figure("steering: target reached", "GROUND/steering/mean/latent/success", "%", 1),
    Figure("steering: other factors stable", "GROUND/steering/mean/latent/stability_mean", "%", 1),
    Figure("steering: by chance", "GROUND/steering/mean/none/success", "%", 0),
)
"""Measured once a run."""


AMOUNTS = {
    "held-out tokens a site": "sites/*/tokens",
    "samples spliced for fidelity": "fidelity/samples",
    "images sampled": "fidelity/end_to_end/images",
    "labelled images": "GROUND/settings/test_images",
}
"""What figures rest on."""


class Row(NamedTuple):
    """A figure of one site, or of all: each group's value, None where it was not measured."""

    site: str
    figure: Figure
    values: list[Estimate | None]

    def cells(self) -> list[str]:
        """As text; the best means have a star, where some are better than others."""
        scores = [value and value.mean * self.figure.better for value in self.values]
        known = [score for score in scores if score is not None]
        best = max(known) if len(set(known)) > 1 else None
        return [
            "-" if value is None else value.written(self.figure.form) + " ★" * (score == best)
            for value, score in zip(self.values, scores, strict=True)
        ]


def compare_figures(groups: Sequence[Group]) -> list[Row]:
    """Every figure that at least one group has, by site and then of all sites together."""
    sites = list(dict.fromkeys(site for group in groups for run in group.runs for site in run.metrics["sites"]))
    places = [(site, figure) for site in sites for figure in OF_SITES] + [(ALL_SITES, figure) for figure in OF_RUNS]
    rows = [Row(site, figure, [over_runs(group.runs, figure, site) for group in groups]) for site, figure in places]
    return [row for row in rows if any(row.values)]


def mean_over_sites(rows: Sequence[Row]) -> list[Row]:
    """The same rows, with those of single sites replaced by their means over the sites that all groups share."""
    shared = {
        figure: [row.values for row in rows if row.figure == figure and row.site != ALL_SITES and all(row.values)]
        for figure in OF_SITES
    }
    means = [
        Row(f"mean of {len(values)} sites", figure, [_over_sites(column) for column in zip(*values, strict=True)])
        for figure, values in shared.items()
        if values
    ]
    return means + [row for row in rows if row.site == ALL_SITES]


def over_runs(runs: Sequence[TestedRun], figure: Figure, site: str) -> Estimate | None:
    """A figure of several runs; None where none has it."""
    there = [run.metrics for run in runs if value_at(run.metrics, figure.path, site) is not None]
    values = [value for metrics in there if (value := value_at(metrics, figure.path, site)) is not None]
    return over_seeds(values, [interval_at(metrics, figure.path, site) for metrics in there]) if values else None


def value_at(metrics: Mapping[str, Any], path: str, site: str) -> float | None:
    """The number that stands at a path, if it does."""
    found = _at(metrics, path, site)
    return float(found) if isinstance(found, int | float) else None


def interval_at(metrics: Mapping[str, Any], path: str, site: str) -> tuple[float, float] | None:
    """The interval of the number at a path: beside it as `<key>_interval`, or in a group of that name."""
    above, _, key = path.rpartition("/")
    for place in (f"{path}_interval", f"{above}_interval/{key}"):
        found = _at(metrics, place, site)
        if isinstance(found, list) and None not in found:
            return float(found[0]), float(found[1])
    return None


def _at(metrics: Mapping[str, Any], path: str, site: str) -> Any:
    grounds = (name for name, part in metrics.items() if isinstance(part, Mapping) and "meaning" in part)
    meant = {"*": site, "GROUND": next(grounds, "")}
    found: Any = metrics
    for key in path.split("/"):
        found = found.get(meant.get(key, key)) if isinstance(found, Mapping) else None
    return found


def unequal_amounts(groups: Sequence[Group]) -> list[str]:
    """In what runs were not measured alike, in sentences."""
    runs = [run for group in groups for run in group.runs]
    lines = []
    for name, path in AMOUNTS.items():
        found = [value_at(run.metrics, path, next(iter(run.metrics["sites"]))) for run in runs]
        amounts = [amount for amount in found if amount is not None]
        if len(set(amounts)) > 1:
            lines.append(f"{name}: {min(amounts):,.0f} to {max(amounts):,.0f}")
    if len({run.metrics.get("test_source", "noise") for run in runs}) > 1:
        lines.append("held-out tokens: of noised samples and of trajectories")
    return lines


def _over_sites(values: Sequence[Estimate | None]) -> Estimate | None:
    """The mean of the sites' means and of their intervals' ends: sites of one run are not drawn anew."""
    known = [value for value in values if value is not None]
    mean, low, high = (sum(value[at] for value in known) / len(known) for at in range(3))
    return Estimate(mean, low, high, min(value.number for value in known))

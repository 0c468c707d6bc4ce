"""Meaning: which factor value a latent stands for, by AUROC, F1 and sparse probes, beside floors and controls.

Everything that is chosen (latents, signs, thresholds, weights) is chosen on training images and measured on others.

Shapes: U units, F latents, V factor values, N images, R draws of the bootstrap over images, P predictors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tide_lightning.benchmark.examples import Examples, groups, questions
from tide_lightning.benchmark.probes import fit_logistic
from tide_lightning.benchmark.reading import SOURCES
from tide_lightning.evaluation.bootstrap import drawn, interval
from tide_lightning.evaluation.scores import auroc, auroc_paired, best_threshold, f1_counts
from tide_lightning.grounds import Factor

PROBE_SIZES = (1, 5, 20)
"""How many latents a sparse probe reads."""

PREDICTORS = (
    "best_latent",
    "best_latent_amount",
    *(f"latents_{size}" for size in PROBE_SIZES),
    *(f"random_{size}" for size in PROBE_SIZES),
    "best_channel",
    "dense",
    "known",
    "position",
    "always_yes",
)
"""What is measured, and what stands beside it.

`best_latent_amount` reads values in the unit that moves activations as far at every t, so that one threshold may serve
for all; `always_yes` says of every unit that it has the value.
"""

MIN_TRAIN, MIN_TEST = 8, 4
"""Units with, and units without a value that it takes to measure it."""

Pooled = Mapping[str, Tensor]
"""Each source's pooled features [N, U, channels], and the unit of the codes [N, 1, 1]."""


def joined(parts: Sequence[Pooled]) -> Pooled:
    """The features of several bins of t, one after another."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


class Question(NamedTuple):
    """One factor value's figures: how many test units have it, its best latent, AUROC and F1 by predictor."""

    positives: int
    units: int
    latent: int
    auroc: dict[str, float]
    f1: dict[str, float]


def measure_meaning(
    train: tuple[Examples, Pooled], test: tuple[Examples, Pooled], repeats: int, seed: int
) -> dict[str, Any]:
    """All factor values' figures and their means, as they stand in metrics.json.

    Chosen is on `train` and measured on `test`: images with their pooled features, which repeat where these hold
    several bins of t, one after another. The seed is that of random latents.
    """
    values: dict[str, dict[str, Any]] = {}
    draws: dict[str, list[Tensor]] = {}
    counts_RN = drawn(range(len(test[0])), seed)
    for group in groups(train[0].ground.factors):
        (train_features, train_labels, _), (test_features, test_labels, image_U) = (
            _units(examples, pooled, group, repeats) for examples, pooled in (train, test)
        )
        enough = (_least(train_labels) >= MIN_TRAIN) & (_least(test_labels) >= MIN_TEST)
        kept = enough.nonzero().squeeze(1)
        if not len(kept):
            continue
        by_image = partial(_by_image, counts_RN, image_U)
        found, f1_RPV = _measure(
            train_features, train_labels[:, kept], test_features, test_labels[:, kept], by_image, seed
        )
        for number, figures, f1_RP in zip(kept.tolist(), found, f1_RPV.unbind(2), strict=True):
            factor, value = questions(group)[number]
            values.setdefault(factor, {})[value] = figures._asdict()
            draws.setdefault(factor, []).append(f1_RP)
    factors = {factor: _means(list(found.values())) for factor, found in values.items()}
    mean = _means(list(factors.values()))
    if draws:
        mean_RP = torch.stack([torch.stack(each).mean(0) for each in draws.values()]).mean(0)
        mean["f1_interval"] = {name: list(interval(mean_RP[:, at])) for at, name in enumerate(PREDICTORS)}
    return {"mean": mean, "factors": factors, "values": values}


def best_latents(codes_UF: Tensor, labels_UV: Tensor) -> Tensor:
    """The latent of the highest AUROC for each value [V]; a latent stands for what it fires at, never for the rest."""
    return auroc(codes_UF, labels_UV).argmax(1)


def _measure(
    train: dict[str, Tensor],
    train_labels: Tensor,
    test: dict[str, Tensor],
    test_labels: Tensor,
    redrawn: Callable[[Tensor], Tensor],
    seed: int,
) -> tuple[list[Question], Tensor]:
    """Each value's figures, and its F1 by predictor in each draw of the test images [R, P, V].

    `redrawn` makes of numbers of test units [U, V] their sums in each draw [R, V].
    """
    ranking = auroc(train["codes"], train_labels)
    best = ranking.argmax(1)
    # A probe may read a latent that falls silent as well as one that fires.
    order = (ranking - 0.5).abs().argsort(dim=1, descending=True, stable=True)
    scores = {"best_latent": (train["codes"][:, best], test["codes"][:, best])}
    amounts = [part["codes"] / part["unit"] for part in (train, test)]
    best_amount = best_latents(amounts[0], train_labels)
    scores["best_latent_amount"] = amounts[0][:, best_amount], amounts[1][:, best_amount]
    scores["always_yes"] = (
        torch.ones_like(train_labels, dtype=torch.double),
        torch.ones_like(test_labels, dtype=torch.double),
    )
    alive = (train["codes"] > 0).any(0).nonzero().squeeze(1).cpu()
    shuffled = torch.stack([_shuffled(alive, seed, v) for v in range(len(best))]).to(order.device)
    for name, chosen in (("latents", order), ("random", shuffled)):
        for size in PROBE_SIZES:
            columns = chosen[:, :size]
            features = [part["codes"][:, columns].transpose(0, 1) for part in (train, test)]
            probe = fit_logistic(features[0], train_labels.T.unsqueeze(2))
            fitted, measured = (probe(part).squeeze(2).T for part in features)
            scores[f"{name}_{size}"] = fitted, measured
    channels = auroc(train["dense"], train_labels)
    channel = (channels - 0.5).abs().argmax(1)
    sign = (channels.gather(1, channel[:, None]).squeeze(1) - 0.5).sign()
    scores["best_channel"] = train["dense"][:, channel] * sign, test["dense"][:, channel] * sign
    for name in SOURCES[1:]:
        probe = fit_logistic(train[name][None], train_labels[None])
        scores[name] = probe(train[name][None])[0], probe(test[name][None])[0]
    aurocs = {name: auroc_paired(measured, test_labels).tolist() for name, (_, measured) in scores.items()}
    drawn_f1s = []
    for name in PREDICTORS:
        fitted, measured = scores[name]
        hits, said = f1_counts(measured, best_threshold(fitted, train_labels), test_labels)
        drawn_f1s.append(2 * redrawn(hits) / redrawn(said).clamp(min=1))
    f1_RPV = torch.stack(drawn_f1s, 1)
    f1s = dict(zip(PREDICTORS, f1_RPV[0].tolist(), strict=True))  # the first draw takes every image once
    positives = test_labels.sum(0).tolist()
    questions_V = [
        Question(
            positives[v],
            len(test_labels),
            int(best[v]),
            {name: aurocs[name][v] for name in PREDICTORS},
            {name: f1s[name][v] for name in PREDICTORS},
        )
        for v in range(len(best))
    ]
    return questions_V, f1_RPV


def _units(
    examples: Examples, pooled: Pooled, group: Mapping[str, Factor], repeats: int
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Features and labels of the units that a group is read from, and which image each lies in [U]."""
    units, labels = examples.units(group, repeats)
    num_units = pooled["position"].shape[1]
    flat = {name: value.expand(-1, num_units, -1).flatten(0, 1) for name, value in pooled.items()}
    return {name: value[units] for name, value in flat.items()}, labels, units // num_units % len(examples)


def _by_image(counts_RN: Tensor, image_U: Tensor, values_UV: Tensor) -> Tensor:
    """Sums of units' values in each draw of their images [R, V]."""
    sums_NV = values_UV.new_zeros(counts_RN.shape[1], values_UV.shape[1]).index_add_(0, image_U, values_UV)
    return counts_RN @ sums_NV.cpu()


def _least(labels: Tensor) -> Tensor:
    return torch.minimum(labels.sum(0), (~labels).sum(0))


def _shuffled(alive: Tensor, seed: int, value: int) -> Tensor:
    """Latents that fire at all, in random order; with too few of them some come twice."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + value)
    order = alive[torch.randperm(len(alive), generator=generator)]
    return order.repeat(-(-max(PROBE_SIZES) // max(len(order), 1)))[: max(PROBE_SIZES)]


def _means(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        kind: {name: sum(part[kind][name] for part in parts) / len(parts) for name in PREDICTORS}
        for kind in ("auroc", "f1")
        if parts
    }

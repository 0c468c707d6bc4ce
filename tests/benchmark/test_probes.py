"""Probes find rules that are known, and reach the optimum that they claim."""

from __future__ import annotations

import torch

from tide_lightning.benchmark.probes import L2, Probe, fit_logistic, fit_ridge
from tide_lightning.evaluation.scores import auroc_paired


def drawn(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def logistic_loss(probe: Probe, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    loss = torch.nn.functional.binary_cross_entropy_with_logits(probe(features), labels.double(), reduction="none")
    return loss.mean((0, 1)).sum() + L2 / 2 * probe.weight[:, :-1].square().sum()


def test_a_logistic_probe_learns_a_rule_and_ignores_what_does_not_matter() -> None:
    features = drawn(2, 400, 6)
    features[..., 4] = 3.0  # constant
    rule = features[..., 0] - 2 * features[..., 1] > 0.5
    probe = fit_logistic(features[:, :300], rule[:, :300, None])
    scores = probe(features[:, 300:]).squeeze(2)
    assert (auroc_paired(scores.T, rule[:, 300:].T) > 0.99).all()
    assert ((scores > 0) == rule[:, 300:]).double().mean() > 0.95
    assert (probe.weight[:, 2:6].abs() < 0.3 * probe.weight[:, :1].abs()).all()
    assert (probe.weight[:, 4] == 0).all()


def test_a_logistic_probe_is_at_the_minimum() -> None:
    features = drawn(1, 200, 12) * torch.logspace(-3, 3, 12, dtype=torch.float64)
    labels = drawn(1, 200, 3, seed=1) + features[..., :1] * 1e3 > 1.2
    probe = fit_logistic(features, labels)
    with torch.enable_grad():
        weight = probe.weight.clone().requires_grad_()
        logistic_loss(probe._replace(weight=weight), features, labels).backward()
    assert weight.grad is not None
    assert weight.grad.abs().max() < 1e-5


def test_a_single_target_is_fitted_to_the_minimum_however_hard_it_is() -> None:
    """Separable, nearly so, rare or as good as random; features far from standard, twice the same, or constant."""
    features = drawn(5, 120, 8) * torch.logspace(-3, 3, 8, dtype=torch.float64)
    features[..., 6], features[..., 7] = features[..., 5], 2.0
    scores = features[..., 5] / features[..., 5].std() * torch.tensor([[1e6], [5.0], [0.0], [1e6], [1.0]])
    labels = scores + drawn(5, 120, seed=1) > torch.tensor([[0.0], [0.0], [0.0], [2e6], [2.0]])
    probe = fit_logistic(features, labels[..., None])
    with torch.enable_grad():
        weight = probe.weight.clone().requires_grad_()
        features_, labels_ = features, labels[..., None].double()
        fit = probe._replace(weight=weight)(features_)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(fit, labels_, reduction="none").mean(1).sum()
        (loss + L2 / 2 * weight[:, :-1].square().sum()).backward()
    assert weight.grad is not None
    assert weight.grad.abs().max() < 1e-8
    alone = fit_logistic(features[:1], labels[:1, :, None]).weight[0]
    torch.testing.assert_close(probe.weight[0], alone)


def test_many_probes_at_once_are_the_same_as_one_by_one() -> None:
    features, labels = drawn(3, 50, 4), drawn(3, 50, 1, seed=1) > 0
    together = fit_logistic(features, labels).weight
    for number in range(3):
        alone = fit_logistic(features[number : number + 1], labels[number : number + 1]).weight[0]
        torch.testing.assert_close(together[number], alone)


def test_a_probe_of_constant_features_says_the_base_rate() -> None:
    labels = torch.arange(40).remainder(4).eq(0).reshape(1, 40, 1)
    probe = fit_logistic(torch.ones(1, 40, 3), labels)
    torch.testing.assert_close(probe(torch.ones(1, 1, 3)).sigmoid().squeeze(), torch.tensor(0.25, dtype=torch.float64))


def test_ridge_finds_a_linear_rule() -> None:
    features = drawn(1, 300, 5)
    targets = features @ drawn(1, 5, 2, seed=1) + 7
    probe = fit_ridge(features, targets, l2=1e-9)
    torch.testing.assert_close(probe(features), targets, rtol=0, atol=1e-6)
    shrunk = fit_ridge(features, targets, l2=1.0)
    assert shrunk.weight[:, :-1].norm() < probe.weight[:, :-1].norm()

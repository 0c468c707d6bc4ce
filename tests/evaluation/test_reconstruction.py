from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.evaluation.constructed import make_output, make_sae, make_tokens
from tide_lightning.evaluation import SiteReconstruction
from tide_lightning.evaluation.reconstruction import CentredCosine, token_key
from tide_lightning.saes import SAEOutput
from tide_lightning.tokens import TokenBatch


def figures(tokens: TokenBatch, output: SAEOutput, num_bins: int = 10, parts: int = 1) -> dict[str, float]:
    metric = SiteReconstruction(make_sae(d_in=tokens.x.shape[1]), num_bins)
    for rows in torch.arange(len(tokens)).chunk(parts):
        some = output._replace(x_hat=output.x_hat[rows], known=output.known[rows], code=output.code.select(rows))
        metric.update(tokens.select(rows), some)
    return metric.compute()


def normal(num_tokens: int, mean: float = 0.0, seed: int = 0) -> Tensor:
    return torch.randn(num_tokens, 6, generator=torch.Generator().manual_seed(seed)) + mean


def test_a_perfect_reconstruction() -> None:
    tokens = make_tokens(normal(400, mean=3))
    found = figures(tokens, make_output(tokens, tokens.x.clone()))
    assert found["mse"] == found["nmse"] == found["fvu"] == 0
    assert found["explained_variance"] == found["explained_variance_beyond_known"] == 1
    assert found["cosine"] == pytest.approx(1)
    assert found["cosine_centred"] == pytest.approx(1)


def test_the_mean_alone_explains_nothing_whatever_the_raw_cosine() -> None:
    tokens = make_tokens(normal(400, mean=5))
    mean = tokens.x.double().mean(0).float().expand(400, 6)
    found = figures(tokens, make_output(tokens, mean, known=mean))
    assert found["fvu"] == pytest.approx(1, abs=1e-6)
    assert found["explained_variance_beyond_known"] == pytest.approx(0, abs=1e-6)
    assert found["cosine"] > 0.95


def test_normal_with_mean_one_predicted_as_zero_has_an_fvu_of_two() -> None:
    tokens = make_tokens(normal(40_000, mean=1))
    found = figures(tokens, make_output(tokens, torch.zeros(40_000, 6)))
    assert found["fvu"] == pytest.approx(2, abs=0.02)
    assert found["nmse"] == 1
    exact = make_tokens(torch.tensor([0.0, 2.0]).repeat(8).unsqueeze(1).expand(16, 6))  # mean 1, variance 1
    assert figures(exact, make_output(exact, torch.zeros(16, 6)))["fvu"] == 2


def test_reconstructions_of_other_tokens_are_worth_less_than_the_mean() -> None:
    tokens = make_tokens(normal(4000))
    found = figures(tokens, make_output(tokens, tokens.x.roll(1, 0)))
    assert found["fvu"] == pytest.approx(2, abs=0.05)
    assert found["cosine_centred"] == pytest.approx(0, abs=0.03)


def test_a_reconstruction_of_half_the_size() -> None:
    tokens = make_tokens(normal(400))
    tokens.x.sub_(tokens.x.mean(0))
    found = figures(tokens, make_output(tokens, tokens.x / 2))
    assert found["fvu"] == pytest.approx(0.25)
    assert found["cosine_centred"] == pytest.approx(1)
    assert found["mse"] == pytest.approx(float(tokens.x.square().mean()) / 4)


def test_latents_count_only_where_their_value_is_above_zero() -> None:
    tokens = make_tokens(normal(400))
    values = torch.stack([torch.ones(400), torch.zeros(400)], 1)  # the second is selected, and never fires
    found = figures(tokens, make_output(tokens, tokens.x, values=values))
    assert found["l0"] == 1
    assert found["alive_fraction"] == pytest.approx(1 / 12)
    assert found["never_fired_fraction"] == pytest.approx(11 / 12)
    assert "from 400 tokens" in str(found["alive_fraction_note"])


def test_a_latent_that_fires_too_seldom_is_not_alive() -> None:
    num_tokens = 1_000_000
    tokens = make_tokens(torch.zeros(num_tokens, 1))
    values = torch.zeros(num_tokens, 2)
    values[:10, 0] = 1  # 1e-5 of the tokens is not more than 1e-5
    values[:11, 1] = 1
    output = make_output(tokens, tokens.x, values=values, d_sae=2)
    metric = SiteReconstruction(make_sae(k=1, d_in=1), 10)
    metric.update(tokens, output)
    found = metric.compute()
    assert found["alive_fraction"] == 0.5
    assert "alive_fraction_note" not in found
    assert found["explained_variance"] == 1  # zeros, and reconstructed as such
    assert sum(found["firing_frequency"]["latents"]) == 2


def test_bins_have_their_own_means_and_add_up() -> None:
    tokens = make_tokens(normal(400))
    tokens.x.add_(10 * (tokens.t > 0.5).float().unsqueeze(1))
    found = figures(tokens, make_output(tokens, tokens.x * 0.9), num_bins=2)
    bins: list[dict[str, float]] = found["by_timestep"]  # type: ignore[assignment]
    assert [(row["low"], row["high"]) for row in bins] == [(0, 0.5), (0.5, 1)]
    assert sum(row["tokens"] for row in bins) == found["tokens"] == 400
    for row, chosen in zip(bins, (tokens.t < 0.5, tokens.t >= 0.5), strict=True):
        x = tokens.x[chosen].double()
        spread = (x - x.mean(0)).square().sum()
        assert row["fvu"] == pytest.approx(float((0.1 * x).square().sum() / spread), rel=1e-4)
        a, b = x - x.mean(0), 0.9 * x - x.mean(0)
        expected = torch.nn.functional.cosine_similarity(a, b, dim=1).mean()
        assert row["cosine_centred"] == pytest.approx(float(expected), abs=1e-5)


def test_figures_do_not_depend_on_how_tokens_are_batched() -> None:
    tokens = make_tokens(normal(400, mean=2))
    output = make_output(tokens, tokens.x + 0.1 * normal(400, seed=1))
    once, often = figures(tokens, output), figures(tokens, output, parts=7)
    for name, value in once.items():
        if isinstance(value, float):
            assert often[name] == pytest.approx(value, rel=1e-12), name


def test_tokens_kept_for_the_cosine_do_not_depend_on_their_order() -> None:
    tokens = make_tokens(normal(4000))
    shuffled = torch.randperm(4000, generator=torch.Generator().manual_seed(3))
    found = []
    for order in (torch.arange(4000), shuffled):
        metric = CentredCosine(6, num_bins=4, num_kept=100)
        for rows in order.split(90):
            metric.update(tokens.select(rows), tokens.x[rows] + normal(4000, seed=1)[rows])
        assert isinstance(metric.pairs, list)
        assert sum(map(len, metric.pairs)) <= 200
        found.append(metric.compute())
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    assert 0.5 < found[0][0] < 0.9
    assert not any(math.isnan(value) for value in found[0][1])


def test_token_keys_are_spread_out() -> None:
    keys = token_key(make_tokens(normal(4000)))
    assert len(keys.unique()) == 4000
    assert int(keys.min()) >= 0
    assert float((keys > 2**62).double().mean()) == pytest.approx(0.5, abs=0.05)

"""Features over time and over blocks, where the answer was planted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.evaluation.constructed import SHAPE, make_output, make_tokens
from tests.saes import synthetic
from tide_lightning.evaluation.lifetimes import MIN_FIRINGS, Lifetimes, lifetime_figures
from tide_lightning.evaluation.matching import (
    Firings,
    best_by_direction,
    best_by_firing,
    directions,
    random_like,
)
from tide_lightning.evaluation.tracking import over_blocks, over_time
from tide_lightning.intervene.amounts import full_amounts
from tide_lightning.saes import KnownStatistics, SparseCode, TideSAE


def firings(dense_NF: Tensor) -> Firings:
    token, latent = dense_NF.nonzero(as_tuple=True)
    return Firings(token, latent, dense_NF.shape[1])


def coins(num_tokens: int, num_latents: int, share: float, seed: int) -> Tensor:
    return torch.rand(num_tokens, num_latents, generator=torch.Generator().manual_seed(seed)) < share


def test_births_and_deaths() -> None:
    rates = torch.tensor(
        [
            [0.0, 0.0, 0.0, 0.4],  # of the noise alone
            [0.4, 0.1, 0.0, 0.0],  # of the image alone; a quarter of the highest rate is no life
            [0.2, 0.2, 0.3, 0.3],  # throughout
            [0.0, 0.3, 0.6, 0.0],  # the middle
        ]
    )
    found = lifetime_figures(rates)
    assert [(row["alive"], row["born"], row["died"]) for row in found["by_timestep"]] == [
        (2, 1, 2),
        (2, 0, 1),
        (2, 1, 0),
        (2, 2, 1),
    ]
    assert found["lives_throughout"] == 0.25
    assert found["lifetime"] == pytest.approx((1 + 1 + 4 + 2) / 16)
    assert lifetime_figures(rates[:0]) == {"latents": 0}


def test_firings_are_counted_by_bin_and_rare_latents_left_out() -> None:
    tokens = make_tokens(torch.zeros(4000, 6))
    values = torch.zeros(4000, 2)
    values[:, 0] = (tokens.t > 0.5).float()
    values[: MIN_FIRINGS - 1, 1] = 1
    lifetimes = Lifetimes(12, 4, torch.device("cpu"))
    for rows in torch.arange(4000).split(900):
        lifetimes.update(
            tokens.select(rows),
            make_output(tokens, tokens.x, values=values)._replace(
                code=make_output(tokens, tokens.x, values=values).code.select(rows)
            ),
        )
    found, rates = lifetimes.compute()
    assert found["tokens"] == 4000
    assert found["latents"] == 1
    assert rates[0].tolist() == [0, 0, 1, 1]
    assert (found["born_at"], found["dies_at"]) == (1, 0.5)


def test_a_permuted_dictionary_is_matched_in_full() -> None:
    rows = random_like(torch.zeros(64, 16), seed=1)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(2))
    by_direction = best_by_direction(rows, rows[order])
    assert torch.equal(order[by_direction.partner], torch.arange(64))
    assert by_direction.score.min() > 0.999
    fires = coins(3000, 64, 0.1, seed=3)
    by_firing = best_by_firing(firings(fires), firings(fires[:, order]))
    assert torch.equal(order[by_firing.partner], torch.arange(64))
    assert by_firing.score.min() == 1
    found = over_blocks(firings(fires), firings(fires[:, order]), rows, rows[order])
    assert found["latents"] == 64
    assert found["agree"] == found["same_direction"] == found["jaccard"] == 1
    assert found["jaccard_chance"] < 0.15
    assert found["cosine_chance"] < 0.75


def test_unrelated_dictionaries_match_as_chance_does() -> None:
    a, b = (random_like(torch.zeros(256, 64), seed=seed) for seed in (4, 5))
    fires = firings(coins(3000, 256, 0.1, 6)), firings(coins(3000, 256, 0.1, 7))
    found = over_blocks(*fires, a, b)
    assert found["cosine"] == pytest.approx(found["cosine_chance"], abs=0.02)
    assert found["jaccard"] == pytest.approx(found["jaccard_chance"], abs=0.01)
    assert found["same_direction"] == 0
    assert found["agree"] < 0.05


def test_jaccard_by_hand() -> None:
    a = torch.tensor([[1, 0], [1, 1], [0, 1], [1, 0]])
    b = torch.tensor([[1, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 0]])
    found = best_by_firing(firings(a), firings(b))
    assert found.score.tolist() == pytest.approx([2 / 4, 2 / 3])
    assert found.partner.tolist() == [0, 0]
    silent = best_by_firing(firings(a), firings(torch.zeros(4, 3)))
    assert silent.score.tolist() == [0, 0]
    assert silent.partner.tolist() == [-1, -1]


def test_features_that_stay_and_features_that_hand_over() -> None:
    fires = coins(4000, 32, 0.1, seed=8)
    swapped = fires.roll(1, 1)  # what latent 3 was, latent 4 is
    rows = random_like(torch.zeros(32, 16), seed=9)
    stay = over_time({0.9: firings(fires), 0.5: firings(fires)}, rows)
    assert stay["stays"] == [[1, 1], [1, 1]]
    assert stay["chance"][0][1] == pytest.approx(0.1, abs=0.01)
    assert stay["steps"][0]["stays_itself"] == stay["steps"][0]["jaccard_itself"] == 1
    assert "cosine_of_successor" in stay["steps"][0]
    hand_over = over_time({0.9: firings(fires), 0.5: firings(swapped)}, rows)
    assert hand_over["stays"][0][1] == pytest.approx(hand_over["chance"][0][1], abs=0.01)
    step = hand_over["steps"][0]
    assert step["stays_itself"] == 0
    assert step["jaccard_best"] == 1
    expected = (rows * rows.roll(-1, 0)).sum(1).mean()
    assert step["cosine_of_successor"] == pytest.approx(float(expected), abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("arguments", [{}, {"modulation": "adaln", "unmodulate": True}, {"fidelity_weight": 0.5}])
def test_directions_are_what_a_latent_adds(arguments: dict[str, object]) -> None:
    torch.manual_seed(0)
    sae = TideSAE(replace(SHAPE, d_in=6), expansion_factor=2, k=2, **arguments)  # type: ignore[arg-type]
    if sae.metric is not None:
        sensitivity = torch.diag(torch.arange(1.0, 7))
        sae.fit_sensitivity(synthetic.at_all_times(sensitivity), make_tokens(torch.randn(400, 6)))
    found = directions(sae.eval())
    assert found.norm(dim=1) == pytest.approx(torch.ones(12), abs=1e-5)
    tokens = make_tokens(torch.randn(50, 6))
    tokens.t.fill_(0.5)
    output = sae(tokens)
    raised = output.code.with_values(output.code.values + (output.code.indices == 3))
    moved = sae.decode(raised, tokens.context) - output.x_hat
    moved = moved[(output.code.indices == 3).any(1)]
    assert len(moved)
    assert torch.nn.functional.cosine_similarity(moved, found[3:4]) == pytest.approx(torch.ones(len(moved)), abs=1e-4)
    if not arguments:  # nothing bends the decoder's rows
        torch.testing.assert_close(found, sae.W_dec)


@pytest.mark.parametrize("scale_by_timestep", [False, True])
@pytest.mark.parametrize("fidelity_weight", [0.0, 0.9])
def test_a_full_amount_moves_a_token_by_what_tokens_hold_besides_the_known_part(
    fidelity_weight: float, scale_by_timestep: bool
) -> None:
    batch = synthetic.tokens(4_000, mean=1.0, input=1.0, rest=0.5)
    sae = TideSAE(synthetic.SHAPE, 2, 4, scale_by_timestep=scale_by_timestep, fidelity_weight=fidelity_weight).eval()
    statistics = KnownStatistics(sae.known)
    statistics.update(batch)
    statistics.fit()
    draw = torch.randn(24, 24, generator=torch.Generator().manual_seed(0))
    sae.fit_sensitivity(synthetic.at_all_times(draw @ draw.mT), batch)
    rest = (batch.x - sae.known(batch.context)).square().sum(1).mean().sqrt()
    amounts = full_amounts(sae)
    first = batch.select(slice(0, 1))
    for latent in (0, 5, 47):
        value = amounts[latent] * sae.unit_at(first.t)
        one = SparseCode(value.reshape(1, 1), torch.tensor([[latent]]), sae.d_sae)
        moved = sae.added(one, first.context).norm()
        torch.testing.assert_close(moved, rest, rtol=0.06, atol=0)  # the scale is a quarter of the tokens'

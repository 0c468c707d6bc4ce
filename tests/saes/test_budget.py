"""A budget shared over a batch, and codes corrected by what they left over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.saes.synthetic import tokens
from tests.saes.test_tide import calibrated, small_sae
from tide_lightning.errors import UserError
from tide_lightning.saes import TideSAE
from tide_lightning.saes.latent_budget import BudgetOverTime
from tide_lightning.tokens import Sensitivity


def uneven(num_tokens: int, seed: int) -> tuple[TideSAE, torch.Tensor]:
    """An SAE that has seen batches whose second half says nothing, and the mean l0 of each half of another."""
    sae = small_sae(budget="batch", modulation="none", known_part="mean").train()
    for step in range(20):
        batch = tokens(num_tokens, seed=seed + step, mean=1.0, rest=1.0)
        batch.x[num_tokens // 2 :] = sae.known.by_time[0]
        output = sae(batch)
        assert output.code.l0().double().mean() == pytest.approx(sae.k, rel=0.05)
        sae.follow(batch, output)
    batch = tokens(num_tokens, seed=seed + 100, mean=1.0, rest=1.0)
    batch.x[num_tokens // 2 :] = sae.known.by_time[0]
    l0 = sae.eval()(batch).code.l0().double()
    return sae, torch.stack([l0[: num_tokens // 2].mean(), l0[num_tokens // 2 :].mean()])


def test_a_shared_budget_goes_where_there_is_something_to_say() -> None:
    sae, (full, empty) = uneven(400, seed=7)
    assert empty == 0
    assert full == pytest.approx(2 * sae.k, rel=0.1)


def test_after_training_a_token_needs_no_batch() -> None:
    sae, _ = uneven(400, seed=7)
    batch = tokens(30, seed=9, mean=1.0, rest=1.0)
    whole = sae.encode(batch.x, batch.context)
    alone = batch.select(slice(4, 5))
    torch.testing.assert_close(whole.to_dense()[4:5], sae.encode(alone.x, alone.context).to_dense())


def test_a_threshold_is_saved_with_the_sae(tmp_path: Path) -> None:
    sae, _ = uneven(400, seed=7)
    loaded = TideSAE.from_pretrained(sae.save_pretrained(tmp_path / "sae"))
    batch = tokens(30, seed=9, mean=1.0, rest=1.0)
    assert torch.equal(loaded(batch).x_hat, sae(batch).x_hat)
    assert loaded.config == sae.config


def over_time(tmp_path: Path | None, **arguments: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean l0 of tokens before and after t = .5, where errors cost nine times as much before; as measured later."""
    sae = small_sae(budget="batch", modulation="none", known_part="mean", num_bins=20, **arguments).train()
    cost = torch.full((20,), 1.0, dtype=torch.float64)
    cost[:10] = 9.0
    sae.fit_sensitivity(Sensitivity(torch.eye(24, dtype=torch.float64), cost), tokens(400, seed=1, rest=1.0))
    for step in range(20):
        batch = tokens(400, seed=step, rest=1.0)
        output = sae(batch)
        assert output.code.l0().double().mean() == pytest.approx(sae.k, rel=0.1)
        sae.follow(batch, output)
    if tmp_path is not None:
        sae = TideSAE.from_pretrained(sae.save_pretrained(tmp_path / "sae"))
    batch = tokens(1000, seed=100, rest=1.0)
    code = sae.eval()(batch).code
    torch.testing.assert_close(code.to_dense(), sae.encode(batch.x, batch.context).to_dense())
    l0 = code.l0().double()
    assert l0.mean() == pytest.approx(sae.k, rel=0.1)
    return l0[batch.t < 0.45].mean(), l0[batch.t > 0.55].mean()


@pytest.mark.parametrize("arguments", [{}, {"refinements": 1}, {"refinements": 1, "pursuits": 2}])
def test_more_latents_go_to_times_at_which_errors_are_dear(tmp_path: Path, arguments: dict[str, int]) -> None:
    early, late = over_time(None, **arguments)
    assert float(early / late) == pytest.approx(1, abs=0.15)
    early, late = over_time(tmp_path, budget_over_time=0.5, **arguments)
    assert early > 1.5 * late


def test_weights_of_time_are_roots_of_what_errors_cost() -> None:
    budget = BudgetOverTime(0.25, 4)
    budget.fit(torch.tensor([6.0, torch.nan, 1.0, 2.0], dtype=torch.float64), torch.tensor([3.0]))
    expected = torch.tensor([1.25, 1.0, 0.75 + 0.25 / 3, 0.75 + 0.25 * 2 / 3]).sqrt()
    torch.testing.assert_close(budget(torch.tensor([0.0, 0.375, 0.625, 1.0])), expected)
    torch.testing.assert_close(budget(torch.tensor([0.25])), expected[:2].mean(0, keepdim=True))
    budget.fit(torch.full((4,), torch.nan, dtype=torch.float64), torch.ones(1))
    assert torch.equal(budget.curve, torch.ones(4))


def test_errors_that_are_scaled_by_time_cost_by_their_scale() -> None:
    """An error of u is s(t) times as large in the activation: here 2, 1, 1 and 0 times."""
    budget = BudgetOverTime(1.0, 4)
    budget.fit(torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64), torch.tensor([2.0, 1.0, 1.0, 0.0]))
    cost = torch.tensor([4.0, 2.0, 4.0, 0.0])
    torch.testing.assert_close(budget.curve, (cost / cost.mean()).sqrt())


def test_a_budget_by_cost_does_not_depend_on_how_errors_are_scaled() -> None:
    """With nothing but the cost, tokens get the same weight in the activation's units, whichever the SAE works in."""
    batch = tokens(4000, seed=1, mean=1.0, rest=1.0)
    batch.x.mul_(1 + 3 * batch.t.unsqueeze(1))
    cost = Sensitivity(torch.eye(24, dtype=torch.float64), torch.linspace(9, 1, 20, dtype=torch.float64))
    in_units = []
    for by_timestep in (False, True):
        sae = small_sae(budget="batch", budget_over_time=1.0, num_bins=20, scale_by_timestep=by_timestep)
        calibrated(sae, batch).fit_sensitivity(cost, batch)
        assert sae.budget_over_time is not None
        curve = sae.budget_over_time.curve / sae.known.scale
        in_units.append(curve / curve.mean())
    torch.testing.assert_close(*in_units, rtol=1e-4, atol=0)


def test_what_never_fires_teaches_no_threshold() -> None:
    sae = small_sae(budget="batch")
    assert sae.threshold is not None
    sae.threshold.follow(torch.zeros(5))
    sae.threshold.follow(torch.zeros(0))
    assert not sae.threshold.is_known()
    sae.threshold.follow(torch.tensor([0.0, 3.0, 2.0]))
    assert sae.threshold.value == 2.0


def test_a_refined_code_leaves_less_over() -> None:
    batch = tokens(500, seed=8, mean=1.0, time=1.0, input=0.5, rest=1.0)
    errors = []
    for refinements in (0, 1, 2):
        output = small_sae(refinements=refinements, encoder_norm=0.5)(batch)
        assert (output.code.l0() <= 5).all()
        errors.append((output.u - output.u_hat).square().mean().item())
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("budget", ["token", "batch"])
def test_refined_codes_are_the_same_from_encode_and_forward(budget: str) -> None:
    sae = small_sae(refinements=1, budget=budget)
    batch = tokens(50, seed=8, mean=1.0, rest=1.0)
    code = sae.encode(batch.x, batch.context)
    torch.testing.assert_close(sae.decode(code, batch.context), sae(batch).x_hat)
    assert len(sae(batch.select(slice(0, 0))).x_hat) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": "image"}, "there is no 'image'"),
        ({"budget_over_time": 0.5}, "budget_over_time = 0.5: .* with budget: token only 0"),
        ({"budget": "batch", "budget_over_time": 1.5}, "budget_over_time = 1.5"),
        ({"refinements": -1}, "refinements = -1"),
        ({"encoder_norm": 0.0}, "encoder_norm = 0.0"),
    ],
)
def test_mistakes_are_told(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        small_sae(**arguments)

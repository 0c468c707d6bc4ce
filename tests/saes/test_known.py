from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch

from tests.saes.synthetic import SHAPE, knowing, tokens
from tide_lightning.errors import UserError
from tide_lightning.saes import HELD_OUT, KnownPart, KnownStatistics, Rung
from tide_lightning.saes.known_statistics import _is_held_out
from tide_lightning.saes.regression import BinnedRegression
from tide_lightning.tokens import TokenBatch, TokenContext


def fitted(rung: Rung, batch: TokenBatch, num_bins: int = 20) -> KnownPart:
    known = KnownPart(SHAPE, rung, num_bins)
    statistics = KnownStatistics(known)
    for part in range(4):  # streamed, not at once
        statistics.update(batch.select(slice(part, None, 4)))
    statistics.fit()
    return known


def unexplained(known: KnownPart, batch: TokenBatch) -> float:
    residual = batch.x - known(batch.context)
    return float(residual.square().sum() / (batch.x - batch.x.mean(0)).square().sum())


@pytest.mark.parametrize(
    ("rung", "ingredients"),
    [
        ("mean_t", {"mean": 1.0, "time": 2.0}),
        ("mean_t_position", {"mean": 1.0, "time": 2.0, "place": 1.0}),
        ("input_token", {"mean": 1.0, "place": 1.0, "input": 1.0}),
        ("noise_token", {"mean": 1.0, "place": 1.0, "noise": 1.0}),
        ("previous_step", {"mean": 1.0, "place": 1.0, "noise": 1.0}),
    ],
)
def test_a_rung_explains_what_its_name_says(rung: Rung, ingredients: dict[str, float]) -> None:
    known = fitted(rung, tokens(20_000, seed=0, **ingredients))
    assert unexplained(known, tokens(5_000, seed=1, **ingredients)) < 0.02


def test_each_rung_of_the_ladder_explains_more_than_the_one_below() -> None:
    ingredients = {"mean": 1.0, "time": 2.0, "place": 1.0, "input": 0.5, "noise": 0.5, "rest": 0.5}
    train, test = tokens(20_000, seed=0, **ingredients), tokens(5_000, seed=1, **ingredients)
    left = {rung: unexplained(fitted(rung, train), test) for rung in get_args(Rung)}
    assert left["mean"] > left["mean_t"] > left["mean_t_position"]
    assert left["mean_t_position"] > left["previous_step"] > left["noise_token"]
    assert left["mean_t_position"] > left["input_token"]


def test_the_mean_is_the_mean() -> None:
    batch = tokens(3_000, mean=1.0, rest=1.0)
    torch.testing.assert_close(fitted("mean", batch)(), batch.x.mean(0, keepdim=True), atol=2e-3, rtol=1e-3)


def test_scale_is_the_root_mean_square_of_the_residual() -> None:
    batch = tokens(20_000, mean=1.0, place=1.0, rest=0.3)
    known = fitted("mean_t_position", batch)
    residual = batch.x - known(batch.context)
    assert float(known.scale) == pytest.approx(float(residual.square().mean().sqrt()), rel=0.01)


def test_scale_is_that_of_tokens_that_the_fit_has_not_seen() -> None:
    """Of few tokens a fit explains much by chance; what it leaves of others is more than there was."""
    ingredients = {"mean": 1.0, "rest": 1.0}
    known = KnownPart(SHAPE, "input_token", num_bins=4)
    statistics = KnownStatistics(known)
    seen = tokens(200, seed=0, **ingredients)
    statistics.update(seen)
    statistics.fit()
    on_its_own = (seen.x - known(seen.context)).square().mean().sqrt()
    others = tokens(20_000, seed=1, **ingredients)
    on_others = (others.x - known(others.context)).square().mean().sqrt()
    assert on_its_own < 0.95 < 1.05 < on_others
    assert float(known.scale) == pytest.approx(float(on_others), rel=0.15)


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_each_rank_holds_out_a_quarter_of_its_samples(ranks: int) -> None:
    every = tokens(64 * 16).sample
    for rank in range(ranks):
        mine = every[every % ranks == rank]
        assert _is_held_out(mine).float().mean() == pytest.approx(1 / HELD_OUT, abs=0.01)
    assert (_is_held_out(every).view(-1, HELD_OUT).sum(1) == 1).all()  # even of four samples one


def test_a_fit_by_ranks_is_the_fit_of_all() -> None:
    """Sums of any parts of the tokens give the same, and those held out count in the end."""
    batch = tokens(4_000, mean=1.0, place=1.0, input=1.0, rest=0.3)
    known = fitted("input_token", batch)
    other = KnownPart(SHAPE, "input_token")
    statistics = KnownStatistics(other, scales=False)
    statistics.update(batch)
    statistics.fit()
    for name in ("by_time", "by_place", "weight"):
        torch.testing.assert_close(getattr(known, name), getattr(other, name), rtol=1e-4, atol=1e-5)
    few = KnownStatistics(KnownPart(SHAPE, "mean"))
    few.update(tokens(3))
    with pytest.raises(UserError, match="num_calibration_samples"):
        few.fit()


def test_off_trajectories_the_input_stands_in_for_the_previous_step() -> None:
    """As it does for single tokens of a batch; and noised tokens do not change what trajectories taught."""
    walked = tokens(20_000, noise=1.0)
    known = fitted("previous_step", walked)
    batch = tokens(2_000, seed=1, noise=1.0)
    off = knowing(batch, trajectory_noise=None)
    assert unexplained(known, batch) < 0.02 < unexplained(known, off) < 0.6  # half of the input is noise
    mixed = TokenBatch.concatenate([batch.select(slice(0, 900)), off.select(slice(900, 2_000))])
    expected = torch.cat([known(batch.context)[:900], known(off.context)[900:]])
    torch.testing.assert_close(known(mixed.context), expected, atol=0, rtol=0)
    noised = knowing(tokens(20_000, seed=2, noise=9.0), trajectory_noise=None)
    again = KnownStatistics(KnownPart(SHAPE, "previous_step"))
    for part in range(4):
        again.update(TokenBatch.concatenate([walked.select(slice(part, None, 4)), noised.select(slice(part, None, 4))]))
        again.update(noised)
    again.fit()
    for ours, theirs in zip(again.known[0].buffers(), known.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_regression_equals_a_dense_least_squares_in_float64() -> None:
    batch = tokens(600, place=1.0, input=1.0, rest=0.5)
    place = batch.position[:, 0] * SHAPE.grid[1] + batch.position[:, 1]
    curves = torch.tensor([[1.0, 0.0], [0.4, 0.6], [0.0, 1.0]])
    regression = BinnedRegression(curves, 12, SHAPE.d_input, SHAPE.d_in)
    inputs = batch.context.input
    assert inputs is not None
    for rows in torch.arange(600).split(123):
        regression.update(batch.t[rows], place[rows], inputs[rows], batch.x[rows])
    fit = regression.solve(ridge=0.0, shrinkage=1e-7)
    third = torch.nn.functional.one_hot((batch.t * 3).long(), 3).double()
    places = torch.nn.functional.one_hot(place, 12).double()
    features = torch.einsum("bk,bf->bkf", third, inputs.double()).flatten(1)
    by_curve = [(third @ curves.double())[:, [h]] * places for h in (0, 1)]
    design = torch.cat([third, features, *by_curve], 1)  # of lower rank: what is the same for all places is told twice
    expected = torch.linalg.lstsq(design, batch.x.double(), driver="gelsd").solution
    predicted = third @ fit.by_time + features @ fit.weight.flatten(0, 1)
    predicted += sum(place_weights @ fit.by_place[h] for h, place_weights in enumerate(by_curve))
    torch.testing.assert_close(predicted, design @ expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        fit.weight, expected[3 : 3 + 3 * SHAPE.d_input].unflatten(0, (3, -1)), rtol=1e-5, atol=1e-6
    )


def test_bins_without_tokens_take_their_neighbours_estimate() -> None:
    batch = tokens(8_000, mean=1.0, time=1.0)
    four_steps = knowing(batch, t=(batch.t * 4).floor() / 4 + 0.125)
    known = fitted("mean_t", four_steps)
    assert known(TokenContext(torch.linspace(0, 1, 50))).isfinite().all()
    x_hat = known(TokenContext(four_steps.t))
    means = torch.stack([four_steps.x[four_steps.t == t].mean(0) for t in four_steps.t.unique()])
    spread = (means - means.mean(0)).square().mean()
    got = torch.stack([x_hat[four_steps.t == t].mean(0) for t in four_steps.t.unique()])
    assert (got - means).square().mean() < 0.01 * spread


def test_what_is_missing_is_named() -> None:
    batch = tokens(50)
    with pytest.raises(UserError, match="no rung 'nonsense'"):
        KnownPart(SHAPE, "nonsense")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="noise of image tokens; a text"):
        KnownPart(replace(SHAPE, grid=(12,)), "previous_step")
    with pytest.raises(ValueError, match="time"):
        KnownPart(SHAPE, "mean_t")()
    with pytest.raises(ValueError, match="position"):
        KnownPart(SHAPE, "mean_t_position")(TokenContext(batch.t))
    with pytest.raises(ValueError, match="noise"):
        KnownPart(SHAPE, "noise_token")(batch.context._replace(noise=None))
    with pytest.raises(ValueError, match="input"):
        KnownPart(SHAPE, "previous_step")(batch.context._replace(input=None, trajectory_noise=None))
    statistics = KnownStatistics(KnownPart(SHAPE, "noise_token"))
    with pytest.raises(UserError, match="noise"):
        statistics.update(knowing(batch, noise=None))
    never = KnownStatistics(KnownPart(SHAPE, "previous_step"))
    never.update(knowing(batch, trajectory_noise=None))
    with pytest.raises(UserError, match=r"use data\.source denoise or both"):
        never.fit()

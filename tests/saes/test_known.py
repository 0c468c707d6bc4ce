from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch

from tests.saes.synthetic import SHAPE, knowing, tokens
from tide_lightning.errors import UserError
from tide_lightning.saes import KnownPart, KnownStatistics, Rung
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
    regression = BinnedRegression(2, 12, SHAPE.d_input, SHAPE.d_in)
    inputs = batch.context.input
    assert inputs is not None
    regression.update(batch.t, place, inputs, batch.x)
    fit = regression.solve(ridge=0.0, shrinkage=0.0)
    for half in range(2):
        rows = (batch.t * 2).long() == half
        places = torch.nn.functional.one_hot(place[rows], 12)
        design = torch.cat([places, inputs[rows]], 1).double()
        expected = torch.linalg.lstsq(design, batch.x[rows].double()).solution
        torch.testing.assert_close(fit.intercept[half], expected[:12])
        torch.testing.assert_close(fit.weight[half], expected[12:])
        error = (batch.x[rows].double() - design @ expected).square().mean()
        torch.testing.assert_close(fit.residual_variance[half], error)


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

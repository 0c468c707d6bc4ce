"""Intervals by bootstrap against what is known of shares."""

from __future__ import annotations

import math

import pytest
import torch

from tide_lightning.evaluation.bootstrap import NUM_DRAWS, drawn, interval, interval_of_ratio, over_seeds


def test_the_interval_of_a_share_is_that_of_the_binomial() -> None:
    hits = (torch.arange(400) % 4 == 0).double()
    low, high = interval_of_ratio(hits, torch.ones(400))
    half = 1.96 * math.sqrt(0.25 * 0.75 / 400)
    assert low == pytest.approx(0.25 - half, abs=0.006)
    assert high == pytest.approx(0.25 + half, abs=0.006)
    assert interval_of_ratio(hits, torch.ones(400)) == (low, high)
    assert interval_of_ratio(hits, torch.ones(400), seed=1) != (low, high)


def test_units_that_count_for_nothing_are_passed_over() -> None:
    parts, wholes = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([1.0, 0.0, 0.0])
    assert interval_of_ratio(parts, wholes) == (1, 1)


def test_a_unit_counts_the_same_whoever_measures_it() -> None:
    together = drawn([3, 5, 8])
    assert torch.equal(together, torch.cat([drawn([3, 5]), drawn([8])], 1))
    assert torch.equal(together[0], torch.ones(3).double())
    assert together.shape == (1 + NUM_DRAWS, 3)
    assert float(together.mean()) == pytest.approx(1, abs=0.05)
    assert drawn([]).shape == (1 + NUM_DRAWS, 0)


def test_differences_on_the_same_units_are_paired() -> None:
    units = torch.linspace(0, 1, 100).double()
    counts = drawn(range(100))
    sizes = counts.sum(1)
    low, high = interval((counts @ (units + 0.01)) / sizes - (counts @ units) / sizes)
    assert (low, high) == pytest.approx((0.01, 0.01))


def test_an_interval_over_seeds_holds_what_each_seed_rests_on() -> None:
    alone = over_seeds([0.2, 0.2, 0.2])
    assert (alone.low, alone.high) == pytest.approx((0.2, 0.2))
    assert over_seeds([0.5]).written("%") == "50.0%"
    wide = over_seeds([0.2, 0.2, 0.2], [(0.1, 0.3)] * 3)
    assert wide.low == pytest.approx(0.2 - 0.1 / math.sqrt(3), abs=0.01)
    assert wide.high == pytest.approx(0.2 + 0.1 / math.sqrt(3), abs=0.01)
    apart = over_seeds([0.1, 0.2, 0.6])
    assert apart.low == pytest.approx(0.1, abs=0.04)
    assert apart.high == pytest.approx(0.6, abs=0.15)
    assert over_seeds([0.5]) == (0.5, 0.5, 0.5, 1)

"""Intervals by bootstrap against what is known of shares."""

from __future__ import annotations

import math

import pytest
import torch

from tide_lightning.evaluation.bootstrap import interval_of_ratio


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

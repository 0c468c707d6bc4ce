"""When concepts become readable, on curves whose answer is known."""

from __future__ import annotations

import pytest

from tide_lightning.benchmark.hierarchy import SHARE, readable


def test_a_threshold_is_crossed_between_two_times() -> None:
    early = [(0.9, 0.5), (0.5, 1.0), (0.1, 1.0)]
    late = [(0.1, 0.96), (0.5, 0.6), (0.9, 0.5)]  # in any order
    never = [(0.9, 0.5), (0.5, 0.55), (0.1, 0.6)]
    found = readable({"early": early, "late": late, "never": never}, chance=0.5)
    threshold = 0.5 + SHARE * 0.5
    assert found["best"] == 1
    assert found["threshold"] == pytest.approx(threshold)
    assert found["readable_from"] == {
        "early": pytest.approx(0.9 - 0.4 * SHARE),
        "late": pytest.approx(0.5 - 0.4 * (threshold - 0.6) / (0.96 - 0.6)),
    }
    assert found["first"] == {"site": "early", "t": found["readable_from"]["early"]}
    assert found["maximum"] == {"early": 1, "late": 0.96, "never": 0.6}


def test_what_is_readable_in_the_most_noise_is_so_from_the_first_time() -> None:
    assert readable({"site": [(0.1, 0.9), (0.9, 0.9)]}, chance=0)["first"] == {"site": "site", "t": 0.9}


def test_a_dip_after_the_first_crossing_does_not_count() -> None:
    found = readable({"site": [(0.9, 0.95), (0.5, 0.5), (0.1, 1.0)]}, chance=0.5)
    assert found["first"]["t"] == 0.9


def test_what_is_never_above_chance_is_left_out() -> None:
    assert readable({"site": [(0.9, 0.4), (0.1, 0.5)]}, chance=0.5) == {}
    assert readable({}, chance=0.5) == {}

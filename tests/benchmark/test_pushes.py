"""How far pushes go, and what they buy: the same for all SAEs of a site, and success against what else changes."""

from __future__ import annotations

import pytest
import torch

from tide_lightning.benchmark.beyond import beyond_known
from tide_lightning.benchmark.sweep import LIMIT, Point, beyond_chance, curves, success_at

N, T, D, P = 40, 6, 5, 3


def test_what_follows_from_place_and_input_is_taken_out_and_the_rest_left() -> None:
    draw = torch.Generator().manual_seed(0)
    place_TD, map_PD = torch.randn(T, D, generator=draw), torch.randn(P, D, generator=draw)
    read_NTP = torch.randn(N, T, P, generator=draw)
    rest_NTD = torch.zeros(N, T, D)
    rest_NTD[: N // 2, 2] = 0.5  # a value that half of the images have at one place
    x = (place_TD + read_NTP @ map_PD + rest_NTD).flatten(0, 1)
    weights = torch.zeros(N, 2, T)
    weights[:, 0, 2], weights[:, 1] = 1, 1 / T
    left = beyond_known(x, read_NTP.flatten(0, 1), weights)
    moved = left[: N // 2, 0].mean(0) - left[N // 2 :, 0].mean(0)
    assert moved.tolist() == pytest.approx([0.5] * D, abs=0.05)  # chance correlates it with the inputs a little
    assert float(left[:, 1].norm(dim=1).max()) < 0.3
    plain = beyond_known(x, None, weights)
    assert float(plain.norm()) > 3 * float(left.norm())
    torch.testing.assert_close(beyond_known(x, torch.zeros(N * T, 0), weights), plain)
    constant = torch.ones(N * T, 1)
    torch.testing.assert_close(beyond_known(x, constant, weights), plain)


def test_a_success_that_chance_has_counts_for_nothing() -> None:
    assert beyond_chance(0.3, 0.3) == 0
    assert beyond_chance(1.0, 0.3) == 1
    assert beyond_chance(0.65, 0.3) == pytest.approx(0.5)
    assert beyond_chance(1.0, 1.0) == 0


def test_success_at_a_limit_lies_on_the_way_of_ever_stronger_pushes() -> None:
    gentle, rough = Point(1.0, 0.4, LIMIT / 2), Point(2.0, 0.8, 3 * LIMIT / 2)
    assert success_at([rough, gentle]) == pytest.approx(0.6)
    assert success_at([gentle]) == 0.4
    assert success_at([rough]) == pytest.approx(0.8 * 2 / 3)
    assert success_at([]) == 0


def test_curves_are_means_over_targets() -> None:
    def seen(success: float, stable: float) -> dict[str, float]:
        return {"success": success, "stability_mean": stable}

    rows = [
        {"none": seen(0.5, 1.0), "latent": [seen(0.75, 1.0), seen(1.0, 0.8)]},
        {"none": seen(0.0, 1.0), "latent": [seen(0.0, 1.0), seen(0.5, 1.0)]},
    ]
    found = curves([1.0, 2.0], rows)["latent"]
    assert [(point["success"], point["changed"]) for point in found["points"]] == [
        (0.25, 0.0),
        (0.75, pytest.approx(0.1)),
    ]
    assert found["success"] == pytest.approx(0.75)

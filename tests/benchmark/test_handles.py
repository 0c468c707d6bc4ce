"""Handles: trained on the shipped denoiser they come nearer to the word; and which reason is named when."""

from __future__ import annotations

import pytest
import torch

from tests.untrained import DEEP
from tide_lightning.benchmark.handles import held_by, moments, train_handle, verdict, way_covered
from tide_lightning.benchmark.prompts import steering_prompts
from tide_lightning.diffusion import Denoiser
from tide_lightning.grounds.toybox import FACTORS, Toybox


def test_a_trained_handle_covers_some_of_the_way(denoiser: Denoiser) -> None:
    red = FACTORS["colour"].index("red")
    cases = steering_prompts(Toybox(), denoiser, "colour", "silent", "train", 2, 1)
    at = moments(denoiser, cases, red, num_inference_steps=3, guidance_scale=3.0)
    assert len(at.x_t) == len(at.wanted) == 2 * 3
    assert torch.equal(at.x_t[:2], cases.noise)
    assert float(at.apart.min()) > 0
    assert way_covered(denoiser, DEEP, at, torch.zeros(1)) == pytest.approx(0, abs=1e-5)
    width = next(iter(denoiser.site_widths(denoiser.resolve_sites([DEEP])).values()))
    start = torch.randn(width, generator=torch.Generator().manual_seed(0))
    handle = train_handle(denoiser, DEEP, at, 3.0, start, steps=15, batch_size=4)
    assert float(handle.norm()) == pytest.approx(1)
    untrained = way_covered(denoiser, DEEP, at, 3.0 * torch.nn.functional.normalize(start, dim=0))
    assert way_covered(denoiser, DEEP, at, 3.0 * handle) > max(0.0, untrained)


def test_rows_hold_what_they_span_with_weights_that_are_not_negative() -> None:
    rows = torch.eye(6)
    one = held_by(rows[2], rows, 3)
    assert one == pytest.approx([1.0, 1.0, 1.0])
    assert held_by(torch.tensor([3.0, 4.0, 0, 0, 0, 0]), rows, 2) == pytest.approx([0.8, 1.0])
    assert held_by(-rows[2], rows, 2) == [0.0, 0.0]
    slanted = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert held_by(torch.tensor([0.0, 1.0]), slanted, 2)[-1] == pytest.approx(0.5**0.5)  # not row 1 minus row 0


@pytest.mark.parametrize(
    ("f1", "success", "cosines", "expected"),
    [
        (0.8, 0.0, [0.1, 0.2], "found"),
        (0.4, 0.1, [0.9, 0.9], "no handle"),
        (0.4, 0.9, [0.9, 0.9], "not selected"),
        (None, 0.9, [0.3, 0.8], "split"),
        (0.4, 0.9, [0.3, 0.4], "not learned"),
    ],
)
def test_each_reason_has_its_case(f1: float | None, success: float, cosines: list[float], expected: str) -> None:
    assert verdict(f1, success, cosines) == expected

"""What counts as success and stability, on readings made up."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from tide_lightning.benchmark.canvases import canvases
from tide_lightning.benchmark.causality import Steering, SteeringPlan
from tide_lightning.diffusion import Denoiser
from tide_lightning.grounds.toybox.factors import FACTORS
from tide_lightning.grounds.toybox.oracle import build_oracle

RED, BLUE = FACTORS["colour"].index("red"), FACTORS["colour"].index("blue")


def steering(denoiser: Denoiser, about: Literal["silent", "contrary"]) -> Steering:
    plan = SteeringPlan({"colour": [RED]}, about, 2, 4, [1.0, 2.0], (0.0, 1.0), 2, 3.0, 0)
    return Steering(denoiser, [], (build_oracle("a"), build_oracle("b")), plan)


def seen(colours: list[int], **changed: list[int]) -> dict[str, torch.Tensor]:
    found = {name: torch.zeros(len(colours), dtype=torch.long) for name in FACTORS}
    found |= {"colour": torch.tensor(colours), "count": torch.ones(len(colours), dtype=torch.long)}
    return found | {name: torch.tensor(values) for name, values in changed.items()}


def test_success_is_confirmed_by_the_second_oracle_and_stability_is_against_no_steering(denoiser: Denoiser) -> None:
    boards = canvases(denoiser, "colour", "silent", "test", 4, 1)
    before = seen([BLUE] * 4, wall=[0, 1, 2, 3])
    after = seen([RED, RED, BLUE, RED], wall=[0, 1, 0, 0], count=[1, 1, 2, 1]), seen([RED, BLUE, RED, RED])
    found = steering(denoiser, "silent")._figures(boards, RED, before, after)
    assert (found["images"], found["success"], found["success_oracle_b"], found["confirmed"]) == (4, 0.75, 0.75, 0.5)
    assert found["stability"] == {name: 1 for name in FACTORS if name not in ("colour", "wall")} | {"wall": 0.5}
    assert found["stability_mean"] == pytest.approx(5.5 / 6)
    assert found["one_object"] == 0.75


def test_contrary_prompts_that_ask_for_the_target_do_not_count(denoiser: Denoiser) -> None:
    boards = canvases(denoiser, "colour", "contrary", "test", 4, 1)
    boards.own[:] = torch.tensor([RED, BLUE, BLUE, RED])
    reading = seen([RED, RED, BLUE, RED])
    found = steering(denoiser, "contrary")._figures(boards, RED, reading, (reading, reading))
    assert (found["images"], found["success"]) == (2, 0.5)


def test_the_plan_knows_how_many_images_it_takes(denoiser: Denoiser) -> None:
    # Training: 2 prompts plain, and with 3 methods at 2 strengths. Test: 4 plain, and with 5 methods.
    assert steering(denoiser, "silent").plan.num_images(1) == 2 + 2 * 3 * 2 + 4 + 4 * 5

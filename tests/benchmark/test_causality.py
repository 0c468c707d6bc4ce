"""What counts as success and stability, on readings made up."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.untrained import SITE
from tide_lightning.benchmark.causality import DENSE, Deed, Steering, SteeringPlan, View
from tide_lightning.benchmark.directions import Directions
from tide_lightning.benchmark.prompts import SteeringPrompts, steering_prompts
from tide_lightning.diffusion import Denoiser
from tide_lightning.grounds import ABSENT, About
from tide_lightning.grounds.toybox import FACTORS, Toybox
from tide_lightning.saes import TideSAE

RED, BLUE = FACTORS["colour"].index("red"), FACTORS["colour"].index("blue")


def prompts(denoiser: Denoiser, about: About) -> SteeringPrompts:
    return steering_prompts(Toybox(), denoiser, "colour", about, "test", 4, 1)


def seen(colours: list[int], one_object: bool | list[bool] = True, **changed: list[int]) -> View:
    values = {name: torch.zeros(len(colours), dtype=torch.long) for name in FACTORS}
    values |= {"colour": torch.tensor(colours)} | {name: torch.tensor(each) for name, each in changed.items()}
    return View(values, {"one_object": torch.tensor(one_object).expand(len(colours))})


def test_success_is_confirmed_by_the_second_judge_and_stability_is_against_no_steering(denoiser: Denoiser) -> None:
    before = seen([BLUE] * 4, wall=[0, 1, 2, 3])
    after = [seen([RED, RED, BLUE, RED], [True, True, False, True], wall=[0, 1, 0, 0]), seen([RED, BLUE, RED, RED])]
    found = Steering.figures(prompts(denoiser, "silent"), RED, before, after)
    assert (found["images"], found["success"], found["success_judge_b"], found["confirmed"]) == (4, 0.75, 0.75, 0.5)
    assert found["stability"] == {name: 1 for name in FACTORS if name not in ("colour", "wall")} | {"wall": 0.5}
    assert found["stability_mean"] == pytest.approx(5.5 / 6)
    assert found["one_object"] == 0.75


def test_contrary_prompts_that_ask_for_the_target_do_not_count(denoiser: Denoiser) -> None:
    boards = prompts(denoiser, "contrary")
    boards.own[:] = torch.tensor([RED, BLUE, BLUE, RED])
    view = seen([RED, RED, BLUE, RED])
    found = Steering.figures(boards, RED, view, [view, view])
    assert (found["images"], found["success"]) == (2, 0.5)
    assert prompts(denoiser, "silent").own.tolist() == [ABSENT] * 4


def test_the_plan_knows_how_many_images_it_takes() -> None:
    # Training: 2 prompts plain, and with 4 methods at 2 strengths. Test: 4 plain, with 5 kinds of pushes, changed.
    plan = SteeringPlan({"colour": [RED]}, "silent", 2, 4, [1.0, 2.0], (0.0, 1.0), 2, 3.0, 0)
    assert plan.num_images(1) == 2 + 2 * 4 * 2 + 4 + 4 * (5 + 1)
    assert replace(plan, sweep=True).num_images(1) == 2 + 2 * 4 * 2 + 4 + 4 * (5 * 2 + 1)
    # Another SAE of the site: training with its latent at 2 strengths; test with its latent and random ones.
    assert plan.num_images(1, shared=True) == 2 * 2 + 4 * 2
    assert replace(plan, sweep=True).num_images(1, shared=True) == 2 * 2 + 4 * 2 * 2


def test_what_hangs_on_no_sae_is_sampled_once_for_all_saes_of_a_site(denoiser: Denoiser, sae: TideSAE) -> None:
    draw = torch.Generator().manual_seed(0)
    width, question = sae.d_in, ("colour", "red")
    vectors = {name: torch.nn.functional.normalize(torch.randn(width, generator=draw), dim=0) for name in DENSE}

    def directions(label: str, latent: int) -> Directions:
        learned = {question: latent}, {question: 0.9}, {question: 40.0}, {question: vectors}
        return Directions(f"{SITE}@{label}", sae, *learned, torch.arange(8))

    one, other = directions("one", 1), directions("other", 2)
    plan = SteeringPlan({"colour": [RED]}, "silent", 1, 2, [1.0, 2.0], (0.0, 1.0), 2, 3.0, 0, sweep=True)

    def steered(at: Directions, made: dict[Deed, torch.Tensor] | None) -> tuple[dict[str, object], int]:
        counts: list[int] = []
        found = Steering(Toybox(), denoiser, [at], plan, counts.append, made).run()
        return found, sum(counts)

    made: dict[Deed, torch.Tensor] = {}
    shared = [steered(at, made) for at in (one, other)]
    assert [number for _, number in shared] == [plan.num_images(1), plan.num_images(1, shared=True)]
    for (found, _), at in zip(shared, (one, other), strict=True):
        assert found == steered(at, None)[0]

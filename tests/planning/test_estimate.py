from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.training.fitting import SITES, make_data, make_module
from tide_lightning.errors import UserError
from tide_lightning.planning.estimate import Assumed, estimate
from tide_lightning.planning.machines import GPUS, Machine, gpu
from tide_lightning.planning.plan import plan_run

SLOW = Machine("slow", half=2e-3, single=1e-3, bandwidth=1, memory=1, link=0.1)


@pytest.mark.parametrize(
    ("source", "halves", "forwards", "tokens"),
    [("noise", "conditional", 8, 64), ("denoise", "conditional", 16, 64), ("denoise", "both", 16, 128)],
)
def test_forwards_and_tokens_by_source(pretrained: Path, source: str, halves: str, forwards: int, tokens: int) -> None:
    data = make_data(pretrained, source=source, trajectories={"halves": halves})
    plan = plan_run(data, make_module(data), steps=10, ranks=1, precision="32-true")
    each = plan.denoiser.stopped if source == "noise" else plan.denoiser.forward
    assert plan.denoiser_operations == forwards * each
    assert plan.tokens == dict.fromkeys(SITES, tokens)


def test_without_guidance_there_is_one_half(pretrained: Path) -> None:
    data = make_data(pretrained, source="denoise", trajectories={"guidance_scale": 1.0})
    plan = plan_run(data, make_module(data), steps=10, ranks=1, precision="32-true")
    assert plan.denoiser_operations == 8 * plan.denoiser.forward


def test_time_follows_the_rates(pretrained: Path) -> None:
    data = make_data(pretrained)
    plan = plan_run(data, make_module(data), steps=3600, ranks=1, precision="32-true")
    found = estimate(plan, SLOW, Assumed(utilisation=0.5))
    assert found.denoiser == pytest.approx(plan.denoiser_operations / 0.5e9)
    assert found.communication == 0
    assert found.hours == pytest.approx(found.step)
    assert found.tokens_per_second == pytest.approx(64 / found.step)
    assert found.fits
    twice = plan_run(data, make_module(data), steps=3600, ranks=2, precision="32-true")
    halved = estimate(twice, SLOW, Assumed(utilisation=0.5))
    assert halved.denoiser == pytest.approx(found.denoiser / 2)
    assert halved.communication == pytest.approx(plan.gradient_bytes / 0.06e9)
    sharded = plan_run(data, make_module(data), steps=3600, ranks=2, precision="32-true", sharded=True)
    assert estimate(sharded, SLOW).communication == pytest.approx(1.5 * plan.gradient_bytes / 0.06e9)
    assert sharded.memory()["Adam's moments"] == twice.memory()["Adam's moments"] / 2
    assert math.isnan(estimate(plan_run(data, make_module(data), steps=-1, ranks=1, precision="32-true"), SLOW).hours)
    assert not estimate(plan, Machine("tiny", 1, 1, 1, memory=1e-5, link=1)).fits


def test_machines_by_name() -> None:
    assert gpu("H100 SXM") is GPUS["H100 SXM"]
    with pytest.raises(UserError, match="there is no 'H1000'; known are L4, RTX 4090"):
        gpu("H1000")

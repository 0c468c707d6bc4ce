from __future__ import annotations

import diffusers
import pytest
import torch

from tests.diffusion.predicted import predicted_noise, predicted_x0
from tide_lightning.diffusion.schedule import Schedule, schedule_of
from tide_lightning.errors import UserError


def schedules() -> list[Schedule]:
    kinds = ("epsilon", "v_prediction", "sample")
    return [
        *(schedule_of(diffusers.DDPMScheduler(prediction_type=kind)) for kind in kinds),
        schedule_of(diffusers.FlowMatchEulerDiscreteScheduler()),
    ]


@pytest.mark.parametrize("schedule", schedules(), ids=lambda schedule: schedule.prediction)
def test_a_perfect_prediction_gives_signal_and_noise_back(schedule: Schedule) -> None:
    draw = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 5, 4, 8, 8, generator=draw)
    raw_t = schedule.raw_t(torch.tensor([0.01, 0.3, 0.5, 0.8, 0.9]))
    x_t = schedule.add_noise(x0, noise, raw_t)
    target = schedule.target(x0, noise, raw_t)
    torch.testing.assert_close(predicted_x0(schedule, x_t, target, raw_t), x0, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(predicted_noise(schedule, x_t, target, raw_t), noise, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("schedule", schedules(), ids=lambda schedule: schedule.prediction)
def test_time_runs_from_image_to_noise(schedule: Schedule) -> None:
    t = torch.linspace(0, 1, 101)
    raw_t = schedule.raw_t(t)
    assert schedule.t(raw_t)[0] == 0
    assert schedule.t(raw_t)[-1] == 1
    assert (schedule.log_snr(raw_t).diff() < 0).all()
    assert schedule.log_snr(raw_t).isfinite().all()


def test_noise_is_added_as_the_scheduler_does() -> None:
    scheduler = diffusers.DDPMScheduler()
    x0, noise = torch.randn(2, 6, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([0, 1, 10, 500, 998, 999])
    ours = schedule_of(scheduler).add_noise(x0, noise, timesteps.float())
    torch.testing.assert_close(ours, scheduler.add_noise(x0, noise, timesteps))


def test_every_timestep_has_an_equal_share() -> None:
    raw_t = schedule_of(diffusers.DDPMScheduler()).raw_t((torch.arange(4000) + 0.5) / 4000)
    assert (raw_t.long().bincount(minlength=1000) == 4).all()


def test_between_the_tables_entries() -> None:
    schedule = schedule_of(diffusers.DDPMScheduler())
    low, between, high = schedule.log_snr(torch.tensor([10.0, 10.5, 11.0]))
    assert low > between > high


def test_a_scheduler_without_known_conventions() -> None:
    with pytest.raises(UserError, match=r"KarrasVe.* has no table of cumulated alphas"):
        schedule_of(type("KarrasVeScheduler", (diffusers.EDMEulerScheduler,), {})())

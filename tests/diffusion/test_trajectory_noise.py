"""What two successive inputs of a trajectory tell of its noise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.diffusion.miniature import save_miniature
from tests.diffusion.predicted import predicted_noise
from tide_lightning.diffusion import Conditioning, Denoiser, TrajectoryNoise, around_calls, load_denoiser, sample
from tide_lightning.diffusion.counters import normals
from tide_lightning.diffusion.schedule import Flow, schedule_of

PROMPTS = ["a red ball", "a blue cube on white floor"]

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def told(denoiser: Denoiser, **settings: float) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Input, timestep and noise of each of a walk's forwards."""
    seen = []

    @contextmanager
    def around(x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> Iterator[None]:
        assert conditioning.trajectory_noise is not None
        seen.append((x_t, raw_t, conditioning.trajectory_noise))
        yield

    sample(denoiser.within(around), PROMPTS, num_inference_steps=5, **settings)  # type: ignore[arg-type]
    return seen


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_after_a_first_order_step_it_is_what_was_predicted_under_guidance(tmp_path: Path, scheduler: str) -> None:
    denoiser = load_denoiser(str(save_miniature(tmp_path, scheduler)))
    if "clip_sample" in denoiser.scheduler.config:  # clipping moves x_0 within a step
        denoiser.scheduler.register_to_config(clip_sample=False)
    seen = told(denoiser, guidance_scale=3.0)
    conditioning = Conditioning.concatenate([denoiser.encode_prompts(["", ""]), denoiser.encode_prompts(PROMPTS)])
    previous = None
    for x_t, raw_t, noise in seen:
        assert torch.equal(*noise.chunk(2))  # both halves of a guided forward are on one way
        expected = x_t if previous is None else previous
        torch.testing.assert_close(noise, expected, atol=5e-3, rtol=5e-3)
        unconditional, conditional = denoiser.predict(x_t, raw_t, conditioning).chunk(2)
        guided = unconditional + 3.0 * (conditional - unconditional)
        previous = predicted_noise(denoiser.schedule, x_t[:2], guided, raw_t[:2]).repeat(2, 1, 1, 1)


@pytest.mark.parametrize("scheduler", ["DPMSolverMultistepScheduler", "PNDMScheduler", "HeunDiscreteScheduler"])
def test_pipelines_tell_the_same_as_our_own_loop(tmp_path: Path, scheduler: str) -> None:
    """Also in a second call, which begins anew, and where samplers come to one timestep twice."""
    denoiser = load_denoiser(str(save_miniature(tmp_path, scheduler)))
    noise = normals(0, "sample", numbers=range(2), shape=denoiser.latent_shape)
    ours = told(denoiser, guidance_scale=3.0)
    theirs: list[Tensor] = []

    @contextmanager
    def around(x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> Iterator[None]:
        assert conditioning.trajectory_noise is not None
        theirs.append(conditioning.trajectory_noise)
        yield

    denoiser.pipeline.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 5, "guidance_scale": 3.0, "output_type": "latent"}
    with around_calls(denoiser, around):
        for _ in range(2):
            denoiser.pipeline(
                prompt=PROMPTS, latents=noise, use_resolution_binning=False, clean_caption=False, **settings
            )
    assert len(theirs) == 2 * len(ours)
    for number, (_, _, expected) in enumerate(ours * 2):
        torch.testing.assert_close(theirs[number], expected, atol=1e-3, rtol=1e-3)


def test_a_batch_of_several_times_is_no_trajectory(denoiser: Denoiser) -> None:
    seen: list[Tensor | None] = []

    @contextmanager
    def around(x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> Iterator[None]:
        seen.append(conditioning.trajectory_noise)
        yield

    x_t = torch.randn(2, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    conditioning = denoiser.encode_prompts(PROMPTS)
    with around_calls(denoiser, around):
        denoiser.predict(x_t, torch.tensor([900.0, 100.0]), conditioning)
        denoiser.predict(x_t, torch.tensor([900.0, 900.0]), conditioning)
    mixed, begun = seen
    assert mixed is None
    assert begun is not None
    assert torch.equal(begun, x_t)


@pytest.mark.parametrize("flow", [False, True])
def test_two_views_of_one_image_and_one_noise_give_the_noise_back(denoiser: Denoiser, flow: bool) -> None:
    schedule = Flow(1000.0) if flow else schedule_of(denoiser.scheduler)
    draw = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 3, 4, 8, 8, generator=draw).double()
    noise_at = TrajectoryNoise(schedule)
    for raw_t in (900.0, 700.0, 300.0, 20.0):
        x_t = schedule.add_noise(x0, noise, torch.full((3,), raw_t))
        if raw_t < 900:
            torch.testing.assert_close(noise_at(x_t, raw_t), noise.float(), atol=1e-3, rtol=1e-3)
        else:
            torch.testing.assert_close(noise_at(x_t, raw_t), x_t.float())
    again = schedule.add_noise(x0, noise, torch.full((3,), 500.0))
    torch.testing.assert_close(noise_at(again, 500.0), again.float())  # earlier than the last: another trajectory
    copy = TrajectoryNoise(schedule, noise_at.inputs())
    further = schedule.add_noise(x0, noise, torch.full((3,), 100.0))
    assert torch.equal(copy(further, 100.0), noise_at(further, 100.0))

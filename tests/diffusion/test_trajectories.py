from __future__ import annotations

import io
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.diffusion.miniature import save_miniature
from tide_lightning.diffusion import Denoiser, StaggeredTrajectories, guided_prediction, load_denoiser, sample
from tide_lightning.diffusion.counters import normal, stream
from tide_lightning.errors import UserError

PROMPTS = ["a red ball", "a blue cube on white floor", "a small green cone"]

# diffusers' schedulers call numpy in a way that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def start(slot: int, trajectory: int) -> tuple[str, Tensor]:
    return PROMPTS[(slot + trajectory) % 3], normal(stream(0, slot, trajectory), (4, 8, 8))


def trajectories(denoiser: Denoiser, slots: list[int], num_slots: int, steps: int) -> StaggeredTrajectories:
    return StaggeredTrajectories(
        denoiser,
        start,
        slots=slots,
        num_slots=num_slots,
        num_inference_steps=steps,
        guidance_scale=3.0,
    )


def walk(walked: StaggeredTrajectories, denoiser: Denoiser, times: int) -> list[Tensor]:
    seen = []
    for _ in range(times):
        step = walked.current()
        seen.append(step.x_t)
        walked.advance(guided_prediction(denoiser, step.x_t, step.raw_t, step.conditioning, 3.0))
    return seen


@pytest.mark.parametrize("scheduler", ["DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
@pytest.mark.parametrize("guidance_scale", [4.5, 1.0])
def test_ends_in_the_pipelines_own_image(tmp_path: Path, scheduler: str, guidance_scale: float) -> None:
    denoiser = load_denoiser(str(save_miniature(tmp_path, scheduler)))
    noise = torch.randn(3, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    denoiser.pipeline.set_progress_bar_config(disable=True)
    expected = denoiser.pipeline(
        prompt=PROMPTS,
        latents=noise,
        num_inference_steps=6,
        guidance_scale=guidance_scale,
        output_type="pt",
        use_resolution_binning=False,
        clean_caption=False,
    ).images
    seen: list[tuple[int, float]] = []
    latents = sample(
        denoiser,
        PROMPTS,
        num_inference_steps=6,
        guidance_scale=guidance_scale,
        initial_noise=noise,
        callback=lambda step, timestep, _: seen.append((step, float(timestep))),
    )
    torch.testing.assert_close(denoiser.decode_latents(latents) / 2 + 0.5, expected, atol=1e-5, rtol=1e-5)
    assert [step for step, _ in seen] == list(range(6))
    assert all(earlier > later for (_, earlier), (_, later) in pairwise(seen))


def test_sampling_is_seeded(denoiser: Denoiser) -> None:
    before = torch.random.get_rng_state()
    first, again, other = (sample(denoiser, PROMPTS, num_inference_steps=2, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_staggered_samples_walk_as_they_would_alone(denoiser: Denoiser) -> None:
    """Also across the end of a trajectory: slot 3 ends its first while slot 0 begins."""
    steps, slots = 4, [0, 1, 2, 3]
    walked = trajectories(denoiser, slots, 4, steps)
    seen: dict[tuple[int, int], list[Tensor]] = {}
    for _ in range(2 * steps):
        step = walked.current()
        for row, key in enumerate(zip(step.slot.tolist(), step.trajectory.tolist(), strict=True)):
            seen.setdefault(key, []).append(step.x_t[row])
        walked.advance(guided_prediction(denoiser, step.x_t, step.raw_t, step.conditioning, 3.0))
    for (slot, trajectory), path in seen.items():
        prompt, noise = start(slot, trajectory)
        alone: list[Tensor] = [noise]
        sample(
            denoiser,
            [prompt],
            num_inference_steps=steps,
            guidance_scale=3.0,
            initial_noise=noise[None],
            callback=lambda _, __, x, alone=alone: alone.append(x[0]),  # type: ignore[misc]
        )
        ahead = slot if trajectory == 0 else 0
        assert len(path) == steps - ahead or trajectory == 2
        for ours, theirs in zip(path, alone[ahead:], strict=False):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("steps", "num_slots"), [(4, 8), (4, 6), (20, 8), (20, 32)])
def test_every_timestep_gets_its_share(denoiser: Denoiser, steps: int, num_slots: int) -> None:
    """Over one length of the schedule each timestep comes once per slot; each batch holds as many as it can."""
    walked = trajectories(denoiser, list(range(num_slots)), num_slots, steps)
    total: Counter[float] = Counter()
    for _ in range(steps):
        step = walked.current()
        total.update(step.raw_t.tolist())
        here = Counter(step.raw_t.tolist())
        assert max(here.values()) == -(-num_slots // steps)
        assert len(here) == min(num_slots, steps)
        walked.advance(step.x_t)  # any prediction will do
    assert set(total.values()) == {num_slots}
    assert len(total) == steps


@pytest.mark.parametrize(
    "scheduler",
    [
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
        "PNDMScheduler",
        "DDIMScheduler",
        "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler",
        "DDPMScheduler",
    ],
)
def test_resumes_exactly(tmp_path: Path, scheduler: str) -> None:
    denoiser = load_denoiser(str(save_miniature(tmp_path, scheduler)))
    walked = trajectories(denoiser, [0, 1, 2, 3, 4], 5, 5)
    walk(walked, denoiser, 7)
    file = io.BytesIO()
    torch.save(walked.state_dict(), file)
    expected = walk(walked, denoiser, 12)
    file.seek(0)
    resumed = trajectories(denoiser, [0, 1, 2, 3, 4], 5, 5)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for ours, theirs in zip(walk(resumed, denoiser, 12), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_a_state_serves_any_share_of_its_slots(denoiser: Denoiser) -> None:
    whole = trajectories(denoiser, [0, 1, 2, 3], 4, 5)
    walk(whole, denoiser, 3)
    share = trajectories(denoiser, [1, 3], 4, 5)
    share.load_state_dict(whole.state_dict())
    for every, some in zip(walk(whole, denoiser, 6), walk(share, denoiser, 6), strict=True):
        torch.testing.assert_close(every[[1, 3]], some, atol=1e-4, rtol=1e-4)
    with pytest.raises(UserError, match="no slot 7"):
        trajectories(denoiser, [7], 8, 5).load_state_dict(whole.state_dict())

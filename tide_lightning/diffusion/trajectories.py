"""Real reverse trajectories with the pipeline's own scheduler and guidance.

`sample` runs one batch from noise to latents as the pipeline's own call does. `StaggeredTrajectories` keeps many
samples on their way at once, each group at its own step, so that every forward covers the whole range of timesteps.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tide_lightning.diffusion.conditioning import Conditioning
from tide_lightning.diffusion.counters import torch_generator
from tide_lightning.diffusion.denoiser import Denoiser
from tide_lightning.diffusion.scheduler_state import join_states, split_state
from tide_lightning.diffusion.streams import sent
from tide_lightning.diffusion.trajectory_noise import TrajectoryNoise
from tide_lightning.errors import UserError


def guided_prediction(
    denoiser: Denoiser, x_t: Tensor, raw_t: Tensor, conditioning: Conditioning, guidance_scale: float
) -> Tensor:
    """Prediction under guidance; where that is classifier-free, one forward of [unconditional; conditional] rows, 2 N.

    At a scale of 1 or less there is no guidance and no unconditional half, as in the pipelines.
    """
    if denoiser.guidance == "embedded":
        return denoiser.predict(x_t, raw_t, conditioning.told_guidance(guidance_scale))
    if denoiser.guidance == "none" or guidance_scale <= 1:
        return denoiser.predict(x_t, raw_t, conditioning)
    blank = denoiser.encode_prompts([""]).select(torch.zeros(len(x_t), dtype=torch.long, device=x_t.device))
    halves = [blank.along(conditioning.trajectory_noise).as_half(unconditional=True)]
    halves.append(conditioning.as_half(unconditional=False))
    both = denoiser.predict(torch.cat([x_t, x_t]), torch.cat([raw_t, raw_t]), Conditioning.concatenate(halves))
    unconditional, conditional = both[: len(x_t)], both[len(x_t) :]
    guided: Tensor = unconditional + guidance_scale * (conditional - unconditional)
    return guided


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    num_inference_steps: int = 20,
    guidance_scale: float = 4.5,
    initial_noise: Tensor | None = None,
    generator: torch.Generator | list[torch.Generator] | None = None,
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Latents of new images, the same as the pipeline's own call makes from the same noise.

    Args:
        denoiser: what to sample from.
        prompts: one per image.
        seed: of the initial noise and of the scheduler's own, where these are not given.
        num_inference_steps: length of the schedule.
        guidance_scale: of the denoiser's kind of guidance.
        initial_noise: standard normal [N, *latent_shape].
        generator: the scheduler's own randomness, where it has any.
        callback: called with step, raw timestep and latents after each step.
    """
    if initial_noise is None:
        initial_noise = denoiser.noise(seed, "sample", numbers=range(len(prompts)))
    if generator is None:
        generator = [torch_generator(seed, "sampler", i) for i in range(len(prompts))]
    scheduler = denoiser.new_scheduler(num_inference_steps)
    conditioning = denoiser.encode_prompts(prompts)
    noise_at = TrajectoryNoise(denoiser.schedule)
    x = _start(scheduler, initial_noise.to(denoiser.device, torch.float32))
    for step, timestep in enumerate(scheduler.timesteps):
        raw_t = denoiser.raw_t(timestep.cpu())
        x_t = _scaled(scheduler, x, timestep)
        told = conditioning.along(noise_at(x_t, float(raw_t)))
        prediction = guided_prediction(denoiser, x_t, raw_t.to(x.device).expand(len(x)), told, guidance_scale)
        x = _scheduler_step(scheduler, prediction, timestep, x, generator)
        if callback is not None:
            callback(step, timestep, x)
    return x


def sample_images(denoiser: Denoiser, prompts: Sequence[str], **settings: Any) -> Tensor:
    """Images [N, 3, H, W] in [-1, 1]; settings are those of `sample`."""
    return denoiser.decode_latents(sample(denoiser, prompts, **settings))


@dataclass(frozen=True)
class Step:
    """One denoising step of N samples: what the denoiser is given, and whose it is.

    Args:
        x_t: the denoiser's input, scaled as the scheduler wants it [N, *latent_shape].
        raw_t: timestep of each sample [N].
        conditioning: N rows.
        slot: which slot each sample belongs to [N].
        trajectory: which of its slot's trajectories it is [N].
    """

    x_t: Tensor
    raw_t: Tensor
    conditioning: Conditioning
    slot: Tensor
    trajectory: Tensor


@dataclass
class _Group:
    """Slots that walk in step."""

    slots: list[int]
    scheduler: Any
    noise_at: TrajectoryNoise
    x: Tensor
    conditioning: Conditioning
    trajectory: int = 0
    step: int = 0

    def timestep(self) -> Tensor:
        timestep: Tensor = self.scheduler.timesteps[self.step]
        return timestep


class StaggeredTrajectories:
    """Samples on their way from noise to image in slots, staggered along the schedule, forever.

    Slot s of S starts floor(s * L / S) steps ahead on a schedule of L steps, so that together they cover it evenly. A
    finished sample is followed by its slot's next; none is ever cut short. The caller makes the prediction:

        step = trajectories.current()
        trajectories.advance(guided_prediction(denoiser, step.x_t, step.raw_t, step.conditioning, scale))

    Args:
        denoiser: gives schedulers, prompts and shapes.
        start: prompt and standard normal noise of a slot's n-th trajectory, a pure function of (slot, n).
        slots: the slots walked here.
        num_slots: all slots, here and on other ranks.
        num_inference_steps: length of the schedule.
        guidance_scale: used for the steps ahead only.
        seed: of the scheduler's own randomness, where it has any.
        stagger: False starts all slots together.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        start: Callable[[int, int], tuple[str, Tensor]],
        *,
        slots: Sequence[int],
        num_slots: int,
        num_inference_steps: int,
        guidance_scale: float,
        seed: int = 0,
        stagger: bool = True,
    ) -> None:
        self._denoiser = denoiser
        self._start = start
        self._slots = sorted(slots)
        self._num_inference_steps = num_inference_steps
        self._guidance_scale = guidance_scale
        self._seed = seed
        self.num_steps = len(denoiser.new_scheduler(num_inference_steps).timesteps)
        self._ahead = {slot: slot * self.num_steps // num_slots if stagger else 0 for slot in self._slots}
        self._groups: list[_Group] = []
        self._from = 0

    def seek(self, num_steps: int) -> None:
        """Go to where so many steps from the start lead; the next `current()` walks what is under way there."""
        self._groups = []
        self._from = num_steps

    def current(self) -> Step:
        """The step that every slot is at; the first call brings them there."""
        if not self._groups:
            self._begin()
        return self._step(self._groups)

    def advance(self, prediction: Tensor) -> None:
        """Take the step with the prediction for `current()`; finished slots begin their next trajectory."""
        self._advance(self._groups, prediction)
        for place, group in enumerate(self._groups):
            if group.step == self.num_steps:
                self._groups[place] = self._new_group(group.slots, group.trajectory + 1)

    def state_dict(self) -> dict[str, Any]:
        """Each slot's whereabouts by its number: tensors on the CPU and primitives."""
        if not self._groups:
            return {}
        states: dict[str, Any] = {}
        for group in self._groups:
            memory = split_state(group.scheduler, len(group.slots), group.x.ndim)
            for row, slot in enumerate(group.slots):
                states[str(slot)] = {
                    "trajectory": group.trajectory,
                    "step": group.step,
                    "x": group.x[row].cpu().clone(),
                    "scheduler": memory[row],
                    "inputs": [(x_t[row].cpu().clone(), raw_t) for x_t, raw_t in group.noise_at.inputs()],
                }
        return states

    def load_state_dict(self, states: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; it may hold more slots than are walked here."""
        self._groups = []
        if not states:
            return
        missing = [slot for slot in self._slots if str(slot) not in states]
        if missing:
            raise UserError(f"the saved trajectories have no slot {missing[0]}: samples_per_batch or source changed")
        device = self._denoiser.device
        for slots in self._walking_together():
            members = [states[str(slot)] for slot in slots]
            group = self._new_group(slots, members[0]["trajectory"])
            group.step = members[0]["step"]
            group.x = torch.stack([member["x"] for member in members]).to(device)
            join_states(group.scheduler, [member["scheduler"] for member in members], device)
            inputs = zip(*(member.get("inputs", []) for member in members), strict=True)  # older states have none
            group.noise_at = TrajectoryNoise(
                self._denoiser.schedule,
                [(torch.stack([x_t for x_t, _ in rows]).to(device), rows[0][1]) for rows in inputs],
            )
            self._groups.append(group)

    def _walking_together(self) -> list[list[int]]:
        together: dict[int, list[int]] = {}
        for slot, ahead in self._ahead.items():
            together.setdefault(ahead, []).append(slot)
        return list(together.values())

    @torch.no_grad()
    def _begin(self) -> None:
        targets = []
        for slots in self._walking_together():
            trajectory, steps = divmod(self._ahead[slots[0]] + self._from, self.num_steps)
            self._groups.append(self._new_group(slots, trajectory))
            targets.append(steps)
        while waiting := [group for group, steps in zip(self._groups, targets, strict=True) if group.step < steps]:
            step = self._step(waiting)
            self._advance(
                waiting,
                guided_prediction(self._denoiser, step.x_t, step.raw_t, step.conditioning, self._guidance_scale),
            )

    def _new_group(self, slots: list[int], trajectory: int) -> _Group:
        scheduler = self._denoiser.new_scheduler(self._num_inference_steps)
        prompts, noises = zip(*(self._start(slot, trajectory) for slot in slots), strict=True)
        x = _start(scheduler, sent(torch.stack(noises), self._denoiser.device))
        noise_at = TrajectoryNoise(self._denoiser.schedule)
        return _Group(slots, scheduler, noise_at, x, self._denoiser.encode_prompts(prompts), trajectory)

    def _step(self, groups: Sequence[_Group]) -> Step:
        device = self._denoiser.device
        counts = torch.tensor([len(group.slots) for group in groups])
        raw_t = torch.stack([self._denoiser.raw_t(group.timestep().cpu()) for group in groups])
        trajectory = torch.tensor([group.trajectory for group in groups])
        inputs = [_scaled(group.scheduler, group.x, group.timestep()) for group in groups]
        noises = [group.noise_at(x_t, float(own)) for group, x_t, own in zip(groups, inputs, raw_t, strict=True)]
        return Step(
            x_t=torch.cat(inputs),
            raw_t=sent(raw_t.repeat_interleave(counts), device),
            conditioning=Conditioning.concatenate([group.conditioning for group in groups]).along(torch.cat(noises)),
            slot=torch.tensor([slot for group in groups for slot in group.slots]),
            trajectory=trajectory.repeat_interleave(counts),
        )

    def _advance(self, groups: Sequence[_Group], prediction: Tensor) -> None:
        rows = prediction.split([len(group.slots) for group in groups])
        for group, predicted in zip(groups, rows, strict=True):
            generators = [
                torch_generator(self._seed, "scheduler", slot, group.trajectory, group.step) for slot in group.slots
            ]
            group.x = _scheduler_step(group.scheduler, predicted, group.timestep(), group.x, generators)
            group.step += 1


def _start(scheduler: Any, noise: Tensor) -> Tensor:
    """Where a trajectory starts; flows know no scale."""
    return noise * getattr(scheduler, "init_noise_sigma", 1.0)


def _scaled(scheduler: Any, x: Tensor, timestep: Tensor) -> Tensor:
    """The denoiser's input; flows have none of their own."""
    if not hasattr(scheduler, "scale_model_input"):
        return x
    scaled: Tensor = scheduler.scale_model_input(x, timestep)
    return scaled


def _scheduler_step(
    scheduler: Any,
    prediction: Tensor,
    timestep: Tensor,
    x: Tensor,
    generator: torch.Generator | list[torch.Generator],
) -> Tensor:
    extra = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    stepped: Tensor = scheduler.step(prediction, timestep, x, **extra, return_dict=False)[0]
    return stepped

"""Endless streams of activations: batch k holds each slot's k-th sample, whoever makes it.

`NoiseStream` noises clean latents; `DenoiseStream` follows staggered trajectories. What they draw depends on neither
the ranks nor what was drawn before.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tide_lightning.datamodules.draws import Deck, Draw, Walk
from tide_lightning.datamodules.harvest import Call, Harvester, Places
from tide_lightning.datamodules.latents import Latents
from tide_lightning.diffusion.counters import normal
from tide_lightning.diffusion.trajectories import Trajectories
from tide_lightning.tokens import TokenBatch


class NoiseStream:
    """Clean latents noised at stratified times: over the world's slots, each batch has one t in every S-th of [0, 1].

    Args:
        harvester: runs the denoiser.
        latents: clean latents with prompts.
        draw: which samples.
        prompt_dropout: share of samples that get the empty prompt.
    """

    def __init__(self, harvester: Harvester, latents: Latents, draw: Draw, prompt_dropout: float) -> None:
        self._harvester = harvester
        self._latents = latents
        self._draw = draw
        self._slots = draw.slots()
        self._prompt_dropout = prompt_dropout
        self._deck = Deck(len(latents), draw.seed, draw.purpose)

    def batch(self, k: int) -> dict[str, TokenBatch]:
        """The k-th batch's share of this rank."""
        call, places = self.call(k)
        return self._harvester.read(call, places)

    def call(self, k: int) -> tuple[Call, Places]:
        """The forward that makes it, and the places of the tokens kept."""
        denoiser, draw, slots = self._harvester.denoiser, self._draw, self._slots
        strata = draw.rng("strata", k).permutation(draw.num_slots)
        rngs = [draw.rng(slot, k) for slot in slots]
        u = torch.tensor(
            [(strata[slot] + rng.random()) / draw.num_slots for slot, rng in zip(slots, rngs, strict=True)]
        )
        dropped = [rng.random() < self._prompt_dropout for rng in rngs]
        places = draw.places(rngs, denoiser.device)
        noise = torch.stack([normal(rng, denoiser.latent_shape) for rng in rngs])
        x0, prompts = self._latents.fetch([self._deck[k * draw.num_slots + slot] for slot in slots])
        prompts = ["" if drop else prompt for drop, prompt in zip(dropped, prompts, strict=True)]
        call = noised_call(self._harvester, x0, noise, u, prompts, draw.sample(torch.tensor(slots), k))
        return call, places


def noised_call(
    harvester: Harvester, x0: Tensor, noise: Tensor, u: Tensor, prompts: Sequence[str], sample: Tensor
) -> Call:
    """A forward on clean latents noised at normalised times near u."""
    denoiser = harvester.denoiser
    device, schedule = denoiser.device, denoiser.schedule
    noise, raw_t = noise.to(device), schedule.raw_t(u.to(device, torch.float32))
    return Call(
        x_t=schedule.add_noise(x0, noise, raw_t),
        raw_t=raw_t,
        t=schedule.t(raw_t),
        conditioning=denoiser.encode_prompts(prompts),
        sample=sample.to(device),
        unconditional=torch.tensor([prompt == "" for prompt in prompts], device=device),
        x0=x0,
        noise=noise,
    )


class DenoiseStream:
    """Guided trajectories, staggered: every batch takes one denoising step of every slot.

    Args:
        harvester: runs the denoiser.
        prompts: what is drawn.
        draw: which samples; one is a whole trajectory.
        walk: how trajectories go.
        both_halves: keep the unconditional half's tokens too.
        stagger: False starts all slots together.
    """

    def __init__(
        self,
        harvester: Harvester,
        prompts: Sequence[str],
        draw: Draw,
        walk: Walk,
        *,
        both_halves: bool,
        stagger: bool = True,
    ) -> None:
        self._harvester = harvester
        self._prompts = prompts
        self._draw = draw
        self._guidance_scale = walk.guidance_scale
        self._both_halves = both_halves
        self._deck = Deck(len(prompts), draw.seed, draw.purpose)
        self.trajectories = Trajectories(
            harvester.denoiser,
            self._start,
            slots=draw.slots(),
            num_slots=draw.num_slots,
            num_inference_steps=walk.num_inference_steps,
            guidance_scale=walk.guidance_scale,
            seed=draw.seed,
            stagger=stagger,
        )

    def batch(self, k: int) -> dict[str, TokenBatch]:
        """The k-th batch's share of this rank; k must count up from 0 or from a loaded state."""
        draw, slots = self._draw, self.trajectories.current().slot.tolist()
        places = draw.places([draw.rng("places", slot, k) for slot in slots], self._harvester.denoiser.device)
        return self._walk(places)[1]

    def whole(self) -> tuple[Call, dict[str, TokenBatch]]:
        """The next step's call, and all tokens."""
        return self._walk(self._harvester.everywhere(len(self.trajectories.current().slot)))

    def _walk(self, places: Places) -> tuple[Call, dict[str, TokenBatch]]:
        step, denoiser = self.trajectories.current(), self._harvester.denoiser
        device = denoiser.device
        call = Call(
            x_t=step.x_t,
            raw_t=step.raw_t,
            t=denoiser.schedule.t(step.raw_t),
            conditioning=step.conditioning,
            sample=self._draw.sample(step.slot, step.trajectory).to(device),
            unconditional=torch.zeros(len(step.slot), dtype=torch.bool, device=device),
        )
        batches, prediction = self._harvester.read_guided(call, places, self._guidance_scale, self._both_halves)
        self.trajectories.advance(prediction)
        return call, batches

    def _start(self, slot: int, trajectory: int) -> tuple[str, Tensor]:
        prompt = self._prompts[self._deck[trajectory * self._draw.num_slots + slot]]
        return prompt, normal(self._draw.rng("noise", slot, trajectory), self._harvester.denoiser.latent_shape)

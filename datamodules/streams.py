"""Endless streams of activations from counters: batch k holds each slot's k-th sample, whoever makes it.

`NoiseStream` noises clean latents; `DenoiseStream` follows staggered trajectories. Every draw is keyed by
(seed, purpose, slot, number), so a stream depends on neither the ranks nor what was drawn before.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tide_lightning.datamodules.harvest import Call, Harvester
from tide_lightning.datamodules.latents import Latents
from tide_lightning.datamodules.shards import Shard
from tide_lightning.diffusion.counters import normal, stream
from tide_lightning.diffusion.trajectories import Trajectories
from tide_lightning.tokens import TokenBatch


def drawn_places(rng: np.random.Generator, num_tokens: int, num_kept: int) -> Tensor:
    """Some of an image's tokens, at random without replacement, in grid order."""
    if num_kept == num_tokens:
        return torch.arange(num_tokens)
    return torch.from_numpy(np.sort(rng.permutation(num_tokens)[:num_kept]))


class Deck:
    """Numbers 0 .. count - 1 in shuffled passes: the n-th card is a pure function of (seed, purpose, n)."""

    def __init__(self, count: int, seed: int, purpose: str) -> None:
        self._count = count

        @lru_cache(maxsize=2)  # neighbouring draws straddle two passes at most
        def shuffled(turn: int) -> np.ndarray[Any, np.dtype[np.int64]]:
            return stream(seed, purpose, "deck", turn).permutation(count)

        self._shuffled = shuffled

    def __getitem__(self, n: int) -> int:
        turn, place = divmod(n, self._count)
        return int(self._shuffled(turn)[place])


class NoiseStream:
    """Clean latents noised at stratified times: over the world's slots, each batch has one t in every S-th of [0, 1].

    Args:
        harvester: runs the denoiser.
        latents: clean latents with prompts.
        seed: of everything drawn.
        purpose: keeps training, calibration and others apart.
        num_slots: S, over the whole world.
        first_slot: number of the first slot in sample ids.
        shard: this rank's share.
        num_kept: tokens kept of each sample.
        prompt_dropout: share of samples that get the empty prompt.
    """

    def __init__(
        self,
        harvester: Harvester,
        latents: Latents,
        *,
        seed: int,
        purpose: str,
        num_slots: int,
        num_samples: int,
        first_slot: int,
        shard: Shard,
        num_kept: int,
        prompt_dropout: float,
    ) -> None:
        self._harvester = harvester
        self._latents = latents
        self._seed = seed
        self._purpose = f"{purpose}/noise"
        self._num_slots = num_slots
        self._num_samples = num_samples
        self._first_slot = first_slot
        self._slots = shard.slots(num_slots, "samples_per_batch")
        self._num_kept = num_kept
        self._prompt_dropout = prompt_dropout
        self._deck = Deck(len(latents), seed, self._purpose)

    def batch(self, k: int) -> dict[str, TokenBatch]:
        """The k-th batch's share of this rank."""
        call, places = self.call(k)
        return self._harvester.read(call, places)

    def call(self, k: int) -> tuple[Call, Tensor]:
        """The forward that makes it, and the places of the tokens kept."""
        denoiser, slots = self._harvester.denoiser, self._slots
        strata = stream(self._seed, self._purpose, "strata", k).permutation(self._num_slots)
        rngs = [stream(self._seed, self._purpose, slot, k) for slot in slots]
        u = torch.tensor(
            [(strata[slot] + rng.random()) / self._num_slots for slot, rng in zip(slots, rngs, strict=True)]
        )
        dropped = [rng.random() < self._prompt_dropout for rng in rngs]
        places = torch.stack([drawn_places(rng, denoiser.num_tokens, self._num_kept) for rng in rngs])
        noise = torch.stack([normal(rng, denoiser.latent_shape) for rng in rngs])
        x0, prompts = self._latents.fetch([self._deck[k * self._num_slots + slot] for slot in slots])
        prompts = ["" if drop else prompt for drop, prompt in zip(dropped, prompts, strict=True)]
        sample = [k * self._num_samples + self._first_slot + slot for slot in slots]
        call = noised_call(self._harvester, x0, noise, u, prompts, torch.tensor(sample))
        return call, places.to(denoiser.device)


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
        seed: of everything drawn.
        purpose: keeps training, calibration and others apart.
        num_slots: over the whole world.
        num_samples: samples of the whole batch, of all sources, over the whole world.
        first_slot: number of the first slot in sample ids.
        shard: this rank's share.
        num_kept: tokens kept of each sample at each step.
        num_inference_steps: length of the schedule.
        guidance_scale: of classifier-free guidance.
        both_halves: keep the unconditional half's tokens too.
        stagger: False starts all slots together.
    """

    def __init__(
        self,
        harvester: Harvester,
        prompts: Sequence[str],
        *,
        seed: int,
        purpose: str,
        num_slots: int,
        num_samples: int,
        first_slot: int,
        shard: Shard,
        num_kept: int,
        num_inference_steps: int,
        guidance_scale: float,
        both_halves: bool,
        stagger: bool = True,
    ) -> None:
        self._harvester = harvester
        self._prompts = prompts
        self._seed = seed
        self._purpose = f"{purpose}/denoise"
        self._num_slots = num_slots
        self._num_samples = num_samples
        self._first_slot = first_slot
        self._num_kept = num_kept
        self._guidance_scale = guidance_scale
        self._both_halves = both_halves
        self._deck = Deck(len(prompts), seed, self._purpose)
        self.trajectories = Trajectories(
            harvester.denoiser,
            self._start,
            slots=shard.slots(num_slots, "samples_per_batch"),
            num_slots=num_slots,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            seed=seed,
            stagger=stagger,
        )

    def batch(self, k: int) -> dict[str, TokenBatch]:
        """The k-th batch's share of this rank; k must count up from 0 or from a loaded state."""
        denoiser = self._harvester.denoiser
        device = denoiser.device
        step = self.trajectories.current()
        rngs = [stream(self._seed, self._purpose, "places", slot, k) for slot in step.slot.tolist()]
        places = torch.stack([drawn_places(rng, denoiser.num_tokens, self._num_kept) for rng in rngs])
        sample = step.trajectory * self._num_samples + self._first_slot + step.slot
        call = Call(
            x_t=step.x_t,
            raw_t=step.raw_t,
            t=denoiser.schedule.t(step.raw_t),
            conditioning=step.conditioning,
            sample=sample.to(device),
            unconditional=torch.zeros(len(sample), dtype=torch.bool, device=device),
        )
        batches, prediction = self._harvester.read_guided(
            call, places.to(device), self._guidance_scale, self._both_halves
        )
        self.trajectories.advance(prediction)
        return batches

    def _start(self, slot: int, trajectory: int) -> tuple[str, Tensor]:
        prompt = self._prompts[self._deck[trajectory * self._num_slots + slot]]
        rng = stream(self._seed, self._purpose, "noise", slot, trajectory)
        return prompt, normal(rng, self._harvester.denoiser.latent_shape)

"""Which samples a run sees: endless streams of them, shared by ranks, drawn by counters.

A batch has S slots over all ranks. What a slot's k-th sample is follows from (seed, purpose, slot, k), neither from
what was drawn before nor from the number of ranks. `NoiseStream` noises clean latents; `DenoiseStream` follows
staggered trajectories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from tide_lightning.cores import core_to_spare
from tide_lightning.datamodules.harvest import Call, Harvester, Places
from tide_lightning.diffusion import Layout
from tide_lightning.diffusion.counters import normal, stream
from tide_lightning.diffusion.streams import sent
from tide_lightning.diffusion.trajectories import StaggeredTrajectories, Step
from tide_lightning.errors import UserError, require_at_least, require_one_of
from tide_lightning.tokens import TokenBatch


@dataclass(frozen=True)
class Shard:
    """Rank r of W, which owns every W-th slot."""

    rank: int = 0
    world: int = 1

    def slots(self, num_slots: int, what: str) -> list[int]:
        """The slots owned here of `num_slots`."""
        if num_slots % self.world:
            raise UserError(f"{what} ({num_slots}) must be divisible by the number of ranks ({self.world})")
        return list(range(self.rank, num_slots, self.world))


def gather_objects(value: dict[Any, Any], shard: Shard) -> list[dict[Any, Any]]:
    """Every rank's dictionary, on every rank. All ranks must call it; without a process group, one's own only."""
    if shard.world == 1 or not (dist.is_available() and dist.is_initialized()):
        return [value]
    gathered: list[Any] = [None] * shard.world
    dist.all_gather_object(gathered, value)
    return gathered


SourceName = Literal["noise", "denoise", "both"]
Halves = Literal["conditional", "both"]


@dataclass(frozen=True)
class NoisedOptions:
    """Clean latents noised to a random t, for `source: noise`.

    Args:
        prompt_dropout: share of noised samples that get the empty prompt.
        num_generated: clean latents that are generated from the prompts where there are no images.
        latent_cache_gib: device memory for the latents of images, of those to train on and of those held out each.
    """

    prompt_dropout: float = 0.1
    num_generated: int = 256
    latent_cache_gib: float = 1.0

    def __post_init__(self) -> None:
        """Check."""
        if not 0 <= self.prompt_dropout <= 1:
            raise UserError(f"prompt_dropout must be in [0, 1], not {self.prompt_dropout}")
        require_at_least(2, num_generated=self.num_generated)
        require_at_least(0, latent_cache_gib=self.latent_cache_gib)


@dataclass(frozen=True)
class TrajectoryOptions:
    """How trajectories go from noise to image, for `source: denoise` and wherever images are made.

    Args:
        num_inference_steps: length of a trajectory's schedule.
        guidance_scale: of classifier-free guidance; 1 or less for none.
        halves: the halves of a guided forward that are kept; both doubles the tokens of trajectories.
    """

    num_inference_steps: int = 20
    guidance_scale: float = 4.5
    halves: Halves = "conditional"

    def __post_init__(self) -> None:
        """Check."""
        require_at_least(1, num_inference_steps=self.num_inference_steps)
        require_one_of(get_args(Halves), halves=self.halves)


@dataclass(frozen=True)
class Draw:
    """Which samples a stream draws, and how many tokens of each.

    Args:
        seed: of everything drawn.
        purpose: keeps training, calibration and others apart.
        num_slots: S; of the whole world.
        shard: this rank's share of the slots.
        num_kept: tokens kept of each sample in every layout.
        num_samples: samples of a batch, of all sources and the whole world; S unless given.
        first_slot: number of the first slot among these samples.
    """

    seed: int
    purpose: str
    num_slots: int
    shard: Shard
    num_kept: Mapping[Layout, int]
    num_samples: int | None = None
    first_slot: int = 0

    def slots(self, what: str = "samples_per_batch") -> list[int]:
        """The slots filled here; `what` names their number in an error."""
        return self.shard.slots(self.num_slots, what)

    def rng(self, *key: int | str) -> np.random.Generator:
        """The random stream of a key."""
        return stream(self.seed, self.purpose, *key)

    def sample(self, slot: Tensor, number: Tensor | int) -> Tensor:
        """What the `number`-th samples of slots are called: unique over a run, whoever makes them."""
        return number * (self.num_samples or self.num_slots) + self.first_slot + slot

    def places(self, rngs: list[np.random.Generator], device: torch.device) -> Places:
        """The tokens kept of each sample, at random without replacement, in grid order."""

        def drawn(num_tokens: int, num_kept: int) -> Tensor:
            if num_kept == num_tokens:
                return torch.arange(num_tokens).repeat(len(rngs), 1)
            return torch.stack([torch.from_numpy(np.sort(rng.permutation(num_tokens)[:num_kept])) for rng in rngs])

        return {layout: sent(drawn(layout.num_tokens, kept), device) for layout, kept in self.num_kept.items()}


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


class Latents(Protocol):
    """Clean latents by index."""

    def __len__(self) -> int: ...

    def fetch(self, indices: Sequence[int]) -> tuple[Tensor, list[str]]:
        """Latents [N, *latent_shape] on the denoiser's device, and their prompts."""


class NoiseStream:
    """Clean latents noised at stratified times: over the world's slots, each batch has one t in every S-th of [0, 1].

    Args:
        harvester: runs the denoiser.
        latents: clean latents with prompts.
        draw: which samples.
        prompt_dropout: share of samples that get the empty prompt.
        num_ahead: batches of which, on a CPU with a core to spare, images and prompts are encoded in threads while
            those before are read.
    """

    def __init__(
        self, harvester: Harvester, latents: Latents, draw: Draw, prompt_dropout: float, num_ahead: int = 0
    ) -> None:
        self._harvester = harvester
        self._latents = latents
        self._draw = draw
        self._slots = draw.slots()
        self._prompt_dropout = prompt_dropout
        self._deck = Deck(len(latents), draw.seed, draw.purpose)
        self._num_ahead = num_ahead if core_to_spare(harvester.denoiser.device) else 0
        self._encoders = ThreadPoolExecutor(max_workers=2, thread_name_prefix="encode")
        self._ahead: dict[int, Future[tuple[Call, Places]]] = {}

    def batch(self, k: int) -> dict[str, TokenBatch]:
        """The k-th batch's share of this rank."""
        for following in range(k, min(k + 3, self._num_ahead)):
            if following not in self._ahead:
                self._ahead[following] = self._encoders.submit(self.call, following)
        call, places = self._ahead.pop(k).result() if k in self._ahead else self.call(k)
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
    noise, raw_t = sent(noise, device), schedule.raw_t(sent(u.float(), device))
    return Call(
        x_t=schedule.add_noise(x0, noise, raw_t),
        raw_t=raw_t,
        t=schedule.t(raw_t),
        conditioning=denoiser.encode_prompts(prompts),
        sample=sent(sample, device),
        unconditional=sent(torch.tensor([prompt == "" for prompt in prompts]), device),
        x0=x0,
        noise=noise,
    )


class DenoiseStream:
    """Guided trajectories, staggered: every batch takes one denoising step of every slot.

    Args:
        harvester: runs the denoiser.
        prompts: what is drawn.
        draw: which samples; one is a whole trajectory.
        options: how trajectories go.
        stagger: False starts all slots together.
    """

    def __init__(
        self,
        harvester: Harvester,
        prompts: Sequence[str],
        draw: Draw,
        options: TrajectoryOptions,
        stagger: bool = True,
    ) -> None:
        self._harvester = harvester
        self._prompts = prompts
        self._draw = draw
        self._options = options
        self._deck = Deck(len(prompts), draw.seed, draw.purpose)
        self.trajectories = StaggeredTrajectories(
            harvester.denoiser,
            self._start,
            slots=draw.slots(),
            num_slots=draw.num_slots,
            num_inference_steps=options.num_inference_steps,
            guidance_scale=options.guidance_scale,
            seed=draw.seed,
            stagger=stagger,
        )

    def batch(self, k: int) -> dict[str, TokenBatch]:
        """The k-th batch's share of this rank; k must count up from 0 or from a loaded state."""
        draw, step = self._draw, self.trajectories.current()
        rngs = [draw.rng("places", slot, k) for slot in step.slot.tolist()]
        return self._walk(step, draw.places(rngs, self._harvester.denoiser.device))[1]

    def whole(self) -> tuple[Call, dict[str, TokenBatch]]:
        """The next step's call, and all tokens."""
        step = self.trajectories.current()
        return self._walk(step, self._harvester.everywhere(len(step.slot)))

    def _walk(self, step: Step, places: Places) -> tuple[Call, dict[str, TokenBatch]]:
        denoiser = self._harvester.denoiser
        device = denoiser.device
        call = Call(
            x_t=step.x_t,
            raw_t=step.raw_t,
            t=denoiser.schedule.t(step.raw_t),
            conditioning=step.conditioning,
            sample=sent(self._draw.sample(step.slot, step.trajectory), device),
            unconditional=torch.zeros(len(step.slot), dtype=torch.bool, device=device),
        )
        both_halves = self._options.halves == "both"
        batches, prediction = self._harvester.read_guided(call, places, self._options.guidance_scale, both_halves)
        self.trajectories.advance(prediction)
        return call, batches

    def _start(self, slot: int, trajectory: int) -> tuple[str, Tensor]:
        prompt = self._prompts[self._deck[trajectory * self._draw.num_slots + slot]]
        return prompt, normal(self._draw.rng("noise", slot, trajectory), self._harvester.denoiser.latent_shape)

"""Held-out activations: fixed seeds, the same for every epoch, run and number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, get_args

import torch
from torch.utils.data import Dataset

from tide_lightning.datamodules.harvest import Call, Harvester, Places
from tide_lightning.datamodules.loader import one_ahead
from tide_lightning.datamodules.sampling import DenoiseStream, Draw, Latents, noised_call
from tide_lightning.diffusion.counters import normal
from tide_lightning.errors import require_at_least, require_one_of
from tide_lightning.tokens import TokenBatch

T_co = TypeVar("T_co", covariant=True)
TestSource = Literal["noise", "denoise"]


@dataclass(frozen=True)
class HeldOutOptions:
    """What validation and test read.

    Args:
        prompts: prompts never trained on, as in `data.prompts`; null sets the last tenth of the prompts aside.
        images: images never trained on, as in `data.images`; null sets the last tenth of the images aside.
        num_validation_samples: samples for validation.
        num_test_samples: samples for the test, all tokens of each.
        test_source: noised images (noise), for which denoising losses are known, or real trajectories (denoise), each
            step of which is a sample.
    """

    prompts: str | list[str] | None = None
    images: Dataset | None = None  # type: ignore[type-arg]  # jsonargparse wants the bare class
    num_validation_samples: int = 256
    num_test_samples: int = 512
    test_source: TestSource = "noise"

    def __post_init__(self) -> None:
        """Check."""
        counts = {"num_validation_samples": self.num_validation_samples, "num_test_samples": self.num_test_samples}
        require_at_least(1, **counts)
        require_one_of(get_args(TestSource), test_source=self.test_source)


@dataclass(frozen=True)
class HeldOutBatch:
    """N held-out samples with all of their tokens, and how to repeat the forward that made them.

    Args:
        call: the forward; of noised samples `call.x0` and `call.noise` are known.
        tokens: for each site N T tokens, sample by sample in grid order; those of the unconditional half, where a
            guided forward's is kept, before them.
    """

    call: Call
    tokens: dict[str, TokenBatch]

    def __len__(self) -> int:
        return len(self.call)

    def to(self, device: torch.device | str) -> HeldOutBatch:
        """The same on another device."""
        return HeldOutBatch(self.call.to(device), {site: batch.to(device) for site, batch in self.tokens.items()})


class SizedIterable(Generic[T_co]):
    """A loader of known length that starts anew each time; on a CPU with a core to spare it works one batch ahead."""

    def __init__(self, make: Callable[[], Iterator[T_co]], length: int, device: torch.device) -> None:
        self._make = make
        self._length = length
        self._device = device

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T_co]:
        return one_ahead(self._make(), self._device)


class HeldOutNoise:
    """Held-out latents noised at stratified times: sample i of n has the only t in its n-th of [0, 1].

    Args:
        harvester: runs the denoiser.
        latents: held-out latents with prompts; sample i takes the i-th, round and round.
        draw: which samples; each slot gives one.
        batch_size: samples in a batch, over the whole world.
    """

    def __init__(self, harvester: Harvester, latents: Latents, draw: Draw, batch_size: int) -> None:
        self._harvester = harvester
        self._latents = latents
        self._draw = draw
        self._strata = draw.rng("strata").permutation(draw.num_slots)
        mine = draw.slots(f"num_{draw.purpose.partition('/')[0]}_samples")
        share = batch_size // draw.shard.world
        self._batches = [mine[start : start + share] for start in range(0, len(mine), share)]

    def __len__(self) -> int:
        return len(self._batches)

    def tokens(self) -> Iterator[dict[str, TokenBatch]]:
        """The kept tokens of each batch."""
        for numbers in self._batches:
            call, places = self._call(numbers)
            yield self._harvester.read(call, places)

    def whole(self) -> Iterator[HeldOutBatch]:
        """Each batch with its call and all of its tokens."""
        for numbers in self._batches:
            call, _ = self._call(numbers)
            yield HeldOutBatch(call, self._harvester.read(call, self._harvester.everywhere(len(call))))

    def _call(self, numbers: Sequence[int]) -> tuple[Call, Places]:
        denoiser = self._harvester.denoiser
        rngs = [self._draw.rng(number) for number in numbers]
        u = torch.tensor([(self._strata[number] + 0.5) / len(self._strata) for number in numbers])
        places = self._draw.places(rngs, denoiser.device)
        noise = torch.stack([normal(rng, denoiser.latent_shape) for rng in rngs])
        x0, prompts = self._latents.fetch([number % len(self._latents) for number in numbers])
        call = noised_call(self._harvester, x0, noise, u, prompts, torch.tensor(list(numbers)))
        return call, places


class HeldOutTrajectories:
    """Whole trajectories of held-out prompts, each walked from noise to image: one batch per step.

    Args:
        make: a fresh, unstaggered stream, whose slots walk one trajectory after the other.
        num_steps: of all trajectories of a slot together.
    """

    def __init__(self, make: Callable[[], DenoiseStream], num_steps: int) -> None:
        self._make = make
        self._num_steps = num_steps

    def __len__(self) -> int:
        return self._num_steps

    def tokens(self) -> Iterator[dict[str, TokenBatch]]:
        """The kept tokens of each step."""
        walk = self._make()
        for step in range(self._num_steps):
            yield walk.batch(step)

    def whole(self) -> Iterator[HeldOutBatch]:
        """Each step with its call and all of its tokens."""
        walk = self._make()
        for _ in range(self._num_steps):
            yield HeldOutBatch(*walk.whole())

"""All that one rank is fed: training, calibration, validation and test, from one denoiser and one corpus."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from tide_lightning.datamodules.cache import CachedNode, DiskCache, ShardFiles
from tide_lightning.datamodules.harvest import Call, Harvester
from tide_lightning.datamodules.heldout import (
    HeldOutBatch,
    HeldOutNoise,
    HeldOutOptions,
    HeldOutTrajectories,
    SizedIterable,
)
from tide_lightning.datamodules.latents import LatentStore
from tide_lightning.datamodules.loader import ActivationNode, Tokens, one_ahead
from tide_lightning.datamodules.sampling import (
    DenoiseStream,
    Draw,
    NoisedOptions,
    NoiseStream,
    SourceName,
    TrajectoryOptions,
)
from tide_lightning.datamodules.sources import Corpus, Part
from tide_lightning.diffusion import Layout
from tide_lightning.diffusion.counters import normal, stream
from tide_lightning.waiting import track


@dataclass(frozen=True)
class Feed:
    """Puts one rank's streams together; see `ActivationDataModule`.

    Args:
        harvester: runs the denoiser.
        corpus: prompts and images.
        latents: clean latents, made once for all feeds.
        draw: what a training batch draws: its seed, its slots, this rank's share of them, the tokens kept.
        source: of training and calibration.
        noised: what is special to noised samples.
        trajectories: how trajectories go.
        heldout: what validation and test read.
        cache: where training and calibration batches are kept, if they are.
    """

    harvester: Harvester
    corpus: Corpus
    latents: LatentStore
    draw: Draw
    source: SourceName
    noised: NoisedOptions
    trajectories: TrajectoryOptions
    heldout: HeldOutOptions
    cache: DiskCache | None

    def training(self) -> ActivationNode | CachedNode:
        """The endless training batches."""
        return self._kept("train")

    def calibration(self, num_samples: int) -> Iterator[Tokens]:
        """About `num_samples` as in training, but drawn apart, one source at a time."""
        rounds = range(-(-num_samples // self.draw.num_slots))
        node = self._kept("calibration", len(rounds))
        node.reset()

        def parts() -> Iterator[Tokens]:
            for _ in track(rounds, "Reading calibration tokens", is_shown=self.draw.shard.rank == 0):
                yield from node.parts()

        return one_ahead(parts(), self.harvester.denoiser.device)

    def calibration_contents(self, num_samples: int) -> dict[str, Any]:
        """All that the bits of `calibration` depend on, as JSON has it."""
        options = {"noised": asdict(self.noised), "trajectories": asdict(self.trajectories)}
        del options["noised"]["latent_cache_gib"]
        contents: dict[str, Any] = json.loads(json.dumps({**self._contents(), **options, "num_samples": num_samples}))
        return contents

    def noised_calls(self, num_samples: int) -> Callable[[int], Call]:
        """The k-th forward over `num_samples` noised samples, whatever the source, drawn apart from all batches."""
        noise = self._noise("whole", num_samples)
        return lambda k: noise.call(k)[0]

    def calibration_calls(self, num_samples: int) -> Iterator[tuple[Call, Tensor]]:
        """The forwards of about `num_samples` noised samples, whatever the source, with normal numbers for each."""
        num_slots = self.draw.num_slots
        noise = self._noise("calibration", num_slots)
        size = num_slots, *self.harvester.denoiser.latent_shape
        rounds = range(-(-num_samples // num_slots))
        for k in track(rounds, "Measuring the denoiser's sensitivity", is_shown=self.draw.shard.rank == 0):
            call = noise.call(k)[0]
            every = normal(stream(self.draw.seed, "sensitivity", k), size)  # for all ranks' samples
            yield call, every[call.sample.cpu() % num_slots]

    def validation(self) -> SizedIterable[Tokens]:
        """Noised held-out samples, and whole held-out trajectories if the source has any."""
        num_samples, num_kept = self.heldout.num_validation_samples, self.draw.num_kept
        parts: list[HeldOutNoise | HeldOutTrajectories] = [self._heldout_noise("validation", num_samples, num_kept)]
        if self.source != "noise":
            # Their numbers follow those of the noised samples.
            parts.append(self._heldout_trajectories("validation", num_samples, num_kept, num_samples))

        def batches() -> Iterator[Tokens]:
            for part in parts:
                yield from part.tokens()

        return SizedIterable(batches, sum(len(part) for part in parts), self.harvester.denoiser.device)

    def test(self) -> SizedIterable[HeldOutBatch]:
        """All tokens of held-out samples, noised or on trajectories."""
        everything = {layout: layout.num_tokens for layout in self.draw.num_kept}
        make = self._heldout_noise if self.heldout.test_source == "noise" else self._heldout_trajectories
        heldout: HeldOutNoise | HeldOutTrajectories = make("test", self.heldout.num_test_samples, everything)
        return SizedIterable(heldout.whole, len(heldout), self.harvester.denoiser.device)

    def _kept(self, purpose: str, num_ahead: int = 0) -> ActivationNode | CachedNode:
        """A purpose's batches, by way of the disk cache if there is one."""
        node, cache, shard = self._node(purpose, num_ahead), self.cache, self.draw.shard
        if cache is None:
            return node
        folder = cache.open(self._contents()) / purpose
        max_bytes = cache.max_gib * 2**30 / shard.world
        device = self.harvester.denoiser.device
        sizes = self.draw.num_slots, cache.batches_per_shard, max_bytes
        return CachedNode(node, ShardFiles(folder, shard, *sizes, for_gpu=device.type == "cuda"), device)

    def _contents(self) -> dict[str, Any]:
        """All that a batch's bits depend on."""
        denoiser, walk = self.harvester.denoiser, self.trajectories
        contents: dict[str, Any] = {
            "denoiser": denoiser.fingerprint(),
            "dtype": str(denoiser.dtype).removeprefix("torch."),
            "sites": [str(site) for site in self.harvester.sites],
            "corpus": self.corpus.fingerprint(),
            "source": self.source,
            "samples_per_batch": self.draw.num_slots,
            "latent_shape": list(denoiser.latent_shape),
            "tokens_per_sample": list(self.draw.num_kept.values()),
            "seed": self.draw.seed,
        }
        if self.source != "noise":
            contents["trajectory_noise"] = True  # what a token's trajectory says of its noise
        if self.source != "denoise":
            contents["prompt_dropout"] = self.noised.prompt_dropout
        if self.source != "noise" or self.corpus.images("train") is None:
            contents |= {"num_inference_steps": walk.num_inference_steps, "guidance_scale": walk.guidance_scale}
            contents["both_halves"] = walk.halves == "both"
        return contents

    def _node(self, purpose: str, num_ahead: int) -> ActivationNode:
        num_samples = self.draw.num_slots
        num_slots = num_samples // 2 if self.source == "both" else num_samples
        noise = denoise = None
        if self.source != "denoise":
            noise = self._noise(purpose, num_slots, num_ahead)
        if self.source != "noise":
            first_slot = num_samples - num_slots
            denoise = self._trajectories("train", self._samples(f"{purpose}/denoise", num_slots, first_slot))
        signature: dict[str, int | str] = {"source": self.source, "samples_per_batch": num_samples}
        if denoise is not None:
            signature["num_inference_steps"] = self.trajectories.num_inference_steps
        return ActivationNode(noise, denoise, self.draw.shard, signature)

    def _samples(self, purpose: str, num_slots: int, first_slot: int = 0) -> Draw:
        """Some slots of a batch, drawn for a purpose."""
        return replace(
            self.draw, purpose=purpose, num_slots=num_slots, num_samples=self.draw.num_slots, first_slot=first_slot
        )

    def _noise(self, purpose: str, num_slots: int, num_ahead: int = 0) -> NoiseStream:
        latents = self.latents.of("train", self.draw.shard)
        draw = self._samples(f"{purpose}/noise", num_slots)
        return NoiseStream(self.harvester, latents, draw, self.noised.prompt_dropout, num_ahead)

    def _trajectories(self, part: Part, draw: Draw) -> DenoiseStream:
        prompts = self.corpus.prompts(part)
        return DenoiseStream(self.harvester, prompts, draw, self.trajectories, stagger=part == "train")

    def _heldout_noise(self, purpose: str, num_samples: int, num_kept: Mapping[Layout, int]) -> HeldOutNoise:
        draw = replace(self.draw, purpose=f"{purpose}/noise", num_slots=num_samples, num_kept=num_kept)
        latents = self.latents.of("heldout", draw.shard)
        return HeldOutNoise(self.harvester, latents, draw, batch_size=self.draw.num_slots)

    def _heldout_trajectories(
        self, purpose: str, num_samples: int, num_kept: Mapping[Layout, int], first_sample: int = 0
    ) -> HeldOutTrajectories:
        """As many samples as asked for, rounded up; one trajectory is a sample at each of its steps."""
        num_steps = len(self.harvester.denoiser.new_scheduler(self.trajectories.num_inference_steps).timesteps)
        num_trajectories, world = -(-num_samples // num_steps), self.draw.shard.world
        num_slots = min(-(-num_trajectories // world) * world, self.draw.num_slots)
        draw = replace(self.draw, purpose=f"{purpose}/denoise", num_slots=num_slots, num_kept=num_kept)
        draw = replace(draw, first_slot=first_sample)
        rounds = -(-num_trajectories // num_slots)
        return HeldOutTrajectories(lambda: self._trajectories("heldout", draw), rounds * num_steps)

"""All that one rank is fed: training, calibration, validation and test, from one denoiser and one corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rich.progress import track
from torch import Tensor

from tide_lightning.datamodules.cache import CachedNode, DiskCache, ShardFiles
from tide_lightning.datamodules.harvest import Call, Harvester
from tide_lightning.datamodules.heldout import HeldOutBatch, HeldOutNoise, HeldOutTrajectories, SizedIterable
from tide_lightning.datamodules.latents import LatentStore
from tide_lightning.datamodules.loader import ActivationNode, Tokens, one_ahead
from tide_lightning.datamodules.sampling import DenoiseStream, Draw, NoiseStream, Shard, Walk
from tide_lightning.datamodules.sources import Corpus, Part
from tide_lightning.diffusion import Layout
from tide_lightning.diffusion.counters import normal, stream

SourceName = Literal["noise", "denoise", "both"]
TestSourceName = Literal["noise", "denoise"]


@dataclass(frozen=True)
class Feed:
    """Puts streams together; see `ActivationDataModule` for what its arguments mean.

    Args:
        harvester: runs the denoiser.
        corpus: prompts and images.
        latents: clean latents, made once for all feeds.
        shard: this rank's share.
    """

    harvester: Harvester
    corpus: Corpus
    latents: LatentStore
    shard: Shard
    source: SourceName
    samples_per_batch: int
    num_kept: Mapping[Layout, int]
    walk: Walk
    both_halves: bool
    prompt_dropout: float
    test_source: TestSourceName
    seed: int
    cache: DiskCache | None = None

    def training(self) -> ActivationNode | CachedNode:
        """The endless training batches."""
        return self._kept("train")

    def calibration(self, num_samples: int) -> Iterator[Tokens]:
        """About `num_samples` as in training, but drawn apart, one source at a time."""
        node = self._kept("calibration")
        node.reset()
        rounds = range(-(-num_samples // self.samples_per_batch))

        def parts() -> Iterator[Tokens]:
            for _ in track(rounds, "Reading calibration tokens", disable=self.shard.rank != 0):
                yield from node.parts()

        return one_ahead(parts(), self.harvester.denoiser.device)

    def noised_calls(self, num_samples: int) -> Callable[[int], Call]:
        """The k-th forward over `num_samples` noised samples, whatever the source, drawn apart from all batches."""
        noise = self._noise("whole", num_samples)
        return lambda k: noise.call(k)[0]

    def calibration_calls(self, num_samples: int) -> Iterator[tuple[Call, Tensor]]:
        """The forwards of about `num_samples` noised samples, whatever the source, with normal numbers for each."""
        noise = self._noise("calibration", self.samples_per_batch)
        size = self.samples_per_batch, *self.harvester.denoiser.latent_shape
        rounds = range(-(-num_samples // self.samples_per_batch))
        for k in track(rounds, "Measuring the denoiser's sensitivity", disable=self.shard.rank != 0):
            call = noise.call(k)[0]
            every = normal(stream(self.seed, "sensitivity", k), size)  # for all ranks' samples
            yield call, every[call.sample.cpu() % self.samples_per_batch]

    def validation(self, num_samples: int) -> SizedIterable[Tokens]:
        """`num_samples` noised held-out samples, and whole held-out trajectories if the source has any."""
        parts: list[HeldOutNoise | HeldOutTrajectories] = [
            self._heldout_noise("validation", num_samples, self.num_kept)
        ]
        if self.source != "noise":
            # Their numbers follow those of the noised samples.
            parts.append(self._heldout_trajectories("validation", num_samples, self.num_kept, num_samples))

        def batches() -> Iterator[Tokens]:
            for part in parts:
                yield from part.tokens()

        return SizedIterable(batches, sum(len(part) for part in parts), self.harvester.denoiser.device)

    def test(self, num_samples: int) -> SizedIterable[HeldOutBatch]:
        """All tokens of `num_samples` held-out samples, noised or on trajectories."""
        everything = {layout: layout.num_tokens for layout in self.num_kept}
        make = self._heldout_noise if self.test_source == "noise" else self._heldout_trajectories
        heldout: HeldOutNoise | HeldOutTrajectories = make("test", num_samples, everything)
        return SizedIterable(heldout.whole, len(heldout), self.harvester.denoiser.device)

    def _kept(self, purpose: str) -> ActivationNode | CachedNode:
        """A purpose's batches, by way of the disk cache if there is one."""
        node, cache = self._node(purpose), self.cache
        if cache is None:
            return node
        folder = cache.open(self._contents()) / purpose
        max_bytes = cache.max_gib * 2**30 / self.shard.world
        files = ShardFiles(folder, self.shard, self.samples_per_batch, cache.batches_per_shard, max_bytes)
        return CachedNode(node, files, self.harvester.denoiser.device)

    def _contents(self) -> dict[str, Any]:
        """All that a batch's bits depend on."""
        denoiser = self.harvester.denoiser
        contents: dict[str, Any] = {
            "denoiser": denoiser.fingerprint(),
            "dtype": str(denoiser.dtype).removeprefix("torch."),
            "sites": [str(site) for site in self.harvester.sites],
            "corpus": self.corpus.fingerprint(),
            "source": self.source,
            "samples_per_batch": self.samples_per_batch,
            "latent_shape": list(denoiser.latent_shape),
            "tokens_per_sample": list(self.num_kept.values()),
            "seed": self.seed,
        }
        if self.source != "noise":
            contents["trajectory_noise"] = True  # what older caches do not hold
        if self.source != "denoise":
            contents["prompt_dropout"] = self.prompt_dropout
        if self.source != "noise" or self.corpus.images("train") is None:
            contents |= self.walk._asdict() | {"both_halves": self.both_halves}
        return contents

    def _node(self, purpose: str) -> ActivationNode:
        num_samples = self.samples_per_batch
        num_slots = num_samples // 2 if self.source == "both" else num_samples
        noise = denoise = None
        if self.source != "denoise":
            noise = self._noise(purpose, num_slots)
        if self.source != "noise":
            draw = self._draw(f"{purpose}/denoise", num_slots, num_samples, num_samples - num_slots)
            denoise = self._trajectories("train", draw)
        signature: dict[str, int | str] = {"source": self.source, "samples_per_batch": num_samples}
        if denoise is not None:
            signature["num_inference_steps"] = self.walk.num_inference_steps
        return ActivationNode(noise, denoise, self.shard, signature)

    def _draw(self, purpose: str, num_slots: int, num_samples: int, first_slot: int = 0) -> Draw:
        return Draw(self.seed, purpose, num_slots, self.shard, self.num_kept, num_samples, first_slot)

    def _noise(self, purpose: str, num_slots: int) -> NoiseStream:
        latents = self.latents.of("train", self.shard)
        draw = self._draw(f"{purpose}/noise", num_slots, self.samples_per_batch)
        return NoiseStream(self.harvester, latents, draw, self.prompt_dropout)

    def _trajectories(self, part: Part, draw: Draw) -> DenoiseStream:
        prompts = self.corpus.prompts(part)
        stagger = part == "train"
        return DenoiseStream(self.harvester, prompts, draw, self.walk, both_halves=self.both_halves, stagger=stagger)

    def _heldout_noise(self, purpose: str, num_samples: int, num_kept: Mapping[Layout, int]) -> HeldOutNoise:
        draw = Draw(self.seed, f"{purpose}/noise", num_samples, self.shard, num_kept)
        return HeldOutNoise(self.harvester, self.latents.of("heldout", self.shard), draw, self.samples_per_batch)

    def _heldout_trajectories(
        self, purpose: str, num_samples: int, num_kept: Mapping[Layout, int], first_sample: int = 0
    ) -> HeldOutTrajectories:
        """As many samples as asked for, rounded up; one trajectory is a sample at each of its steps."""
        num_steps = len(self.harvester.denoiser.new_scheduler(self.walk.num_inference_steps).timesteps)
        num_trajectories = -(-num_samples // num_steps)
        num_slots = min(-(-num_trajectories // self.shard.world) * self.shard.world, self.samples_per_batch)
        draw = Draw(self.seed, f"{purpose}/denoise", num_slots, self.shard, num_kept, first_slot=first_sample)
        rounds = -(-num_trajectories // num_slots)
        return HeldOutTrajectories(lambda: self._trajectories("heldout", draw), rounds * num_steps)

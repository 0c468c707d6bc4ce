"""Activations of a frozen denoiser, made on the fly where the SAE trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import Dataset

from tide_lightning.datamodules.cache import DiskCache
from tide_lightning.datamodules.feed import Feed
from tide_lightning.datamodules.harvest import Call, Harvester
from tide_lightning.datamodules.heldout import HeldOutBatch, HeldOutOptions, SizedIterable
from tide_lightning.datamodules.latents import LatentStore
from tide_lightning.datamodules.loader import ActivationLoader, Tokens
from tide_lightning.datamodules.sampling import Draw, Latents, NoisedOptions, Shard, SourceName, TrajectoryOptions
from tide_lightning.datamodules.sources import Corpus, Part
from tide_lightning.diffusion import Denoiser, Forward, Layout, describe_denoiser, load_denoiser, sensitivity
from tide_lightning.diffusion.precision import native_dtype
from tide_lightning.errors import UserError, require_at_least, require_one_of
from tide_lightning.tokens import FidelityLoss, Sensitivity
from tide_lightning.waiting import waiting

_FEWEST_CALIBRATION = 256
"""Samples, however short a fit is."""

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class LoadingOptions:
    """How the denoiser is loaded.

    Args:
        dtype: its precision, whatever the trainer's; auto takes bfloat16 where the device is good at it.
        latent_size: rows and columns of a latent (a video's frames before them); the model's own unless given.
        compile: compile the denoiser's blocks; sites inside a block cannot be read then.
        prompt_cache: a folder that keeps prompt embeddings, so that text encoders need not be loaded again.
        revision: branch, tag or commit on the hub.
        variant: file name variant on the hub, such as fp16.
        local_files_only: never ask the hub.
        loss_weights: how the denoiser's training weighed errors over t (uniform, or min_snr:GAMMA), for the loss
            increase as training saw it; what the pipeline says or its predictions suggest unless given.
    """

    dtype: Dtype = "float32"
    latent_size: list[int] | None = None
    compile: bool = False
    prompt_cache: str | None = None
    revision: str | None = None
    variant: str | None = None
    local_files_only: bool = False
    loss_weights: str | None = None

    def __post_init__(self) -> None:
        """Check."""
        require_one_of(get_args(Dtype), dtype=self.dtype)

    def describe(self, pretrained: str, family: str | None) -> Denoiser:
        """The denoiser without its weights, on the meta device."""
        return describe_denoiser(
            pretrained,
            family=family,
            revision=self.revision,
            local_files_only=self.local_files_only,
            latent_size=self.latent_size,
        )

    def load(self, pretrained: str, family: str | None, device: torch.device) -> Denoiser:
        """The denoiser, on a device."""
        return load_denoiser(
            pretrained,
            family=family,
            dtype=native_dtype(device) if self.dtype == "auto" else self.dtype,
            revision=self.revision,
            variant=self.variant,
            local_files_only=self.local_files_only,
            latent_size=self.latent_size,
            prompt_cache=self.prompt_cache,
            compile=self.compile,
            loss_weights=self.loss_weights,
        ).to(device)


class ActivationDataModule(LightningDataModule):
    """Activations of a frozen diffusion transformer, made on the fly on the device that trains.

    Batches are {site: tokens} with the same tokens of the same samples for every site. What a run sees depends on the
    arguments and the seed, never on the number of ranks. See docs/explanation/activations.md.

    Args:
        pretrained: the pipeline: a hub id, a folder, or package:<dotted.package>/<folder>.
        sites: where tokens are read, such as "transformer_blocks.*" or "transformer_blocks.3:mlp".
        prompts: a list, or a file: FILE.txt with one a line, FILE.parquet:COLUMN (also .csv, .tsv, .jsonl),
            hf:OWNER/NAME:COLUMN of a Hugging Face dataset. Null takes the images' own.
        images: a dataset of dict(image [3, H, W] in [-1, 1], prompt) to be noised, such as ImageFolder. Null generates
            clean latents from the prompts first.
        source: noised images (noise), real denoising trajectories (denoise), or half of the samples each (both).
        samples_per_batch: samples in a training batch, over all ranks together.
        tokens_per_sample: tokens drawn from each sample without replacement: a number (4) or a fraction (0.0625).
        forward_batch_size: samples in one forward of the denoiser; null for all of a rank's at once.
        batches_per_epoch: how many batches count as an epoch of the endless stream.
        num_calibration_samples: samples for the statistics that normalise activations.
        seed: of everything drawn here.
        family: class path of a Denoiser, for code of your own; null where the pipeline's class tells.
        loading: how the denoiser is loaded: its precision, its latents' size, what is fetched from the hub.
        noised: what is special to noised samples.
        trajectories: how trajectories go from noise to image.
        heldout: what validation and test read.
        cache: keeps training and calibration batches on disk, to train many SAEs from one harvest.
    """

    def __init__(
        self,
        pretrained: str,
        sites: list[str],
        prompts: str | list[str] | None = None,
        images: Dataset | None = None,  # type: ignore[type-arg]  # jsonargparse wants the bare class
        source: SourceName = "noise",
        samples_per_batch: int = 32,
        tokens_per_sample: int | float = 1 / 16,
        forward_batch_size: int | None = None,
        batches_per_epoch: int = 1000,
        num_calibration_samples: int = 2048,
        seed: int = 0,
        family: str | None = None,
        loading: LoadingOptions = LoadingOptions(),
        noised: NoisedOptions = NoisedOptions(),  # noqa: B008
        trajectories: TrajectoryOptions = TrajectoryOptions(),  # noqa: B008
        heldout: HeldOutOptions = HeldOutOptions(),  # noqa: B008
        cache: DiskCache | None = None,
    ) -> None:
        super().__init__()
        self.pretrained = pretrained
        self.site_patterns = sites
        self.source = source
        self.samples_per_batch = samples_per_batch
        self.tokens_per_sample = tokens_per_sample
        self.forward_batch_size = forward_batch_size
        self.batches_per_epoch = batches_per_epoch
        self.num_calibration_samples = num_calibration_samples
        self.seed = seed
        self.family = family
        self.loading = loading
        self.noised = noised
        self.trajectories = trajectories
        self.heldout = heldout
        self.cache = cache
        if prompts is None and images is None:
            raise UserError("the data needs prompts, images or both: set data.prompts or data.images")
        self._check_arguments()
        self.corpus = Corpus(prompts, heldout.prompts, images, heldout.images)
        self.corpus.prompts("train")  # read now: a mistake in a file is told before anything is written
        self._denoiser: Denoiser | None = None

    def _check_arguments(self) -> None:
        require_one_of(get_args(SourceName), source=self.source)
        require_at_least(0, seed=self.seed)
        counts = {
            "samples_per_batch": self.samples_per_batch,
            "batches_per_epoch": self.batches_per_epoch,
            "num_calibration_samples": self.num_calibration_samples,
            "forward_batch_size": 1 if self.forward_batch_size is None else self.forward_batch_size,
        }
        require_at_least(1, **counts)
        tokens = self.tokens_per_sample
        if not (0 < tokens <= 1 if isinstance(tokens, float) else tokens >= 1):
            raise UserError(f"tokens_per_sample must be a number of at least 1 or a fraction in (0, 1], not {tokens}")
        if self.source == "both" and self.samples_per_batch % 2:
            raise UserError(f"source both needs an even samples_per_batch, not {self.samples_per_batch}")
        if self.trajectories.halves == "both" and self.trajectories.guidance_scale <= 1 and self.source != "noise":
            raise UserError("halves both needs a guidance_scale above 1: without guidance there is only one half")

    # Known without weights.

    @cached_property
    def site_shapes(self) -> dict[str, dict[str, int | list[int]]]:
        """For each site: d_in, the grid of its tokens and d_input (what the denoiser is given at a place)."""
        described = self.describe()
        is_guided = described.guidance == "classifier_free"
        if self.trajectories.halves == "both" and not is_guided and self.source != "noise":
            raise UserError("halves both: this denoiser is not guided by an unconditional half; use conditional")
        sites = described.resolve_sites(self.site_patterns)
        shapes = described.site_shapes(sites)  # finds them all by one forward
        self.tokens_kept(described)
        return {site: {**vars(shape), "grid": list(shape.grid)} for site, shape in shapes.items()}

    def describe(self) -> Denoiser:
        """The denoiser without its weights, on the meta device."""
        return self.loading.describe(self.pretrained, self.family)

    def tokens_kept(self, denoiser: Denoiser) -> dict[str, int]:
        """How many tokens of a sample each site keeps."""
        layouts = {str(site): denoiser.layout(site) for site in denoiser.resolve_sites(self.site_patterns)}
        kept = self._num_kept(list(layouts.values()))
        return {site: kept[layout] for site, layout in layouts.items()}

    def latent_bytes(self, denoiser: Denoiser) -> int:
        """Device memory that clean latents take once all were asked for; along trajectories only held-out ones are."""
        parts: list[Part] = ["heldout"] if self.source == "denoise" else ["train", "heldout"]
        return LatentStore.num_bytes(denoiser, self.corpus, self.noised, parts)

    # What Lightning calls.

    def setup(self, stage: str | None = None) -> None:
        """Load the denoiser, once, to where the trainer works."""
        device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
        if self._denoiser is None:
            with waiting("Loading the denoiser"):
                self._denoiser = self.loading.load(self.pretrained, self.family, device)
        self._denoiser.to(device)

    def train_dataloader(self) -> ActivationLoader:
        """The endless stream in epochs of `batches_per_epoch`; its state travels in checkpoints."""
        return self.train_loader(self._shard())

    def val_dataloader(self) -> SizedIterable[Tokens]:
        """{site: tokens} of held-out samples."""
        return self.validation_loader(self._shard())

    def test_dataloader(self) -> SizedIterable[HeldOutBatch]:
        """`HeldOutBatch`es: all tokens of held-out samples, with the calls that made them."""
        return self.test_loader(self._shard())

    def predict_dataloader(self) -> SizedIterable[HeldOutBatch]:
        """The same as for the test."""
        return self.test_dataloader()

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Batches are made on the device; elsewhere they are moved whole."""
        if isinstance(batch, dict):
            return {site: tokens.to(device) for site, tokens in batch.items()}
        return batch.to(device)

    def adopt(self, denoiser: Denoiser) -> None:
        """Work with a denoiser that is loaded already."""
        self._denoiser = denoiser

    # The same for a given rank.

    @property
    def denoiser(self) -> Denoiser:
        """The frozen denoiser; loaded by `setup`."""
        if self._denoiser is None:
            self.setup()
        assert self._denoiser is not None
        return self._denoiser

    def latents(self, part: Part) -> Latents:
        """Clean latents with their prompts, to train on or held out."""
        return self._latents.of(part, self._shard())

    def train_loader(self, shard: Shard, ahead: bool = True) -> ActivationLoader:
        """A rank's training batches; `ahead` lets them be made beside the training, where that is possible."""
        return ActivationLoader(self._feed(shard).training(), self.batches_per_epoch, self.denoiser.device, ahead)

    def calibration_batches(self, shard: Shard | None = None) -> Iterator[Tokens]:
        """About `num_calibration_samples` as in training, but drawn apart, one source at a time.

        A fit that will not see as many is not calibrated on more than it sees.
        """
        return self._feed(shard or self._shard()).calibration(self._num_calibrated_on())

    def calibration_contents(self) -> dict[str, Any]:
        """All that the bits of `calibration_batches` depend on, as JSON has it."""
        return self._feed(self._shard()).calibration_contents(self._num_calibrated_on())

    def _num_calibrated_on(self) -> int:
        return min(self.num_calibration_samples, max(_FEWEST_CALIBRATION, self._num_trained_on()))

    def _num_trained_on(self) -> int:
        """Samples that the fit will see; as many as may be where it has no end, or there is none."""
        steps = self.num_calibration_samples
        if self.trainer is not None and self.trainer.max_steps > 0:
            steps = self.trainer.max_steps * self.trainer.accumulate_grad_batches
        return steps * self.samples_per_batch

    def noised_calls(self, num_samples: int) -> Callable[[int], Call]:
        """The k-th forward over `num_samples` noised training samples, whatever the source; batches do not change."""
        return self._feed(self._shard()).noised_calls(num_samples)

    def sensitivity(self, sites: list[str], loss: FidelityLoss = "plain") -> dict[str, Sensitivity]:
        """E[J' J] of the denoiser's prediction by a token's activation, on a quarter of the calibration samples.

        Measured on noised samples, whatever the source.
        """
        feed = self._feed(self._shard())
        parts = (
            self._forward(call.select(rows), v[rows])
            for call, v in feed.calibration_calls(-(-self.num_calibration_samples // 4))
            for rows in torch.arange(len(call)).split(self.forward_batch_size or len(call))
        )
        return sensitivity(self.denoiser, self.denoiser.resolve_sites(sites), parts, loss)

    def _forward(self, call: Call, v: Tensor) -> Forward:
        assert call.x0 is not None  # of noised samples both are known
        assert call.noise is not None
        target = self.denoiser.schedule.target(call.x0, call.noise, call.raw_t)
        return Forward(call.x_t, call.raw_t, call.conditioning, v, target)

    def validation_loader(self, shard: Shard) -> SizedIterable[Tokens]:
        """A rank's validation batches: noised samples, and whole trajectories if the source has any."""
        return self._feed(shard).validation()

    def test_loader(self, shard: Shard) -> SizedIterable[HeldOutBatch]:
        """A rank's test batches."""
        return self._feed(shard).test()

    def _shard(self) -> Shard:
        if self.trainer is None:
            return Shard()
        return Shard(self.trainer.global_rank, self.trainer.world_size)

    def _num_kept(self, layouts: Sequence[Layout]) -> dict[Layout, int]:
        tokens, least = self.tokens_per_sample, min(layout.num_tokens for layout in layouts)
        if isinstance(tokens, float):
            return {layout: max(1, round(tokens * layout.num_tokens)) for layout in layouts}
        if tokens > least:
            raise UserError(f"tokens_per_sample {tokens} is more than the {least} tokens of a sample")
        return dict.fromkeys(layouts, tokens)

    @cached_property
    def _latents(self) -> LatentStore:
        return LatentStore(
            self.denoiser,
            self.corpus,
            self.noised,
            self.trajectories,
            num_heldout=max(self.heldout.num_validation_samples, self.heldout.num_test_samples),
            batch_size=self.forward_batch_size or max(1, self.samples_per_batch // self._shard().world),
            seed=self.seed,
        )

    def _feed(self, shard: Shard) -> Feed:
        sites = self.denoiser.resolve_sites(self.site_patterns)
        harvester = Harvester(self.denoiser, sites, self.forward_batch_size)
        draw = Draw(self.seed, "train", self.samples_per_batch, shard, self._num_kept(harvester.layouts))
        return Feed(
            harvester,
            self.corpus,
            self._latents,
            draw,
            source=self.source,
            noised=self.noised,
            trajectories=self.trajectories,
            heldout=self.heldout,
            cache=self.cache,
        )

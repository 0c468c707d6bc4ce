"""Activations of a frozen denoiser, made on the fly where the SAE trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import Dataset

from tide_lightning.datamodules.cache import DiskCache
from tide_lightning.datamodules.checks import check_arguments
from tide_lightning.datamodules.feed import Feed, SourceName, TestSourceName
from tide_lightning.datamodules.harvest import Call, Harvester
from tide_lightning.datamodules.heldout import HeldOutBatch, SizedIterable
from tide_lightning.datamodules.latents import LatentStore
from tide_lightning.datamodules.loader import ActivationLoader, Tokens
from tide_lightning.datamodules.sampling import Latents, Shard, Walk
from tide_lightning.datamodules.sources import Corpus, Part
from tide_lightning.diffusion import Denoiser, Layout, describe_denoiser, load_denoiser, sensitivity
from tide_lightning.diffusion.precision import native_dtype
from tide_lightning.errors import UserError
from tide_lightning.tokens import Sensitivity


class ActivationDataModule(LightningDataModule):
    """Activations of a frozen diffusion transformer, made on the fly on the device that trains.

    Batches are {site: tokens} with the same tokens of the same samples for every site. What a run sees depends on the
    arguments and the seed, never on the number of ranks. See docs/activations.md.

    Args:
        pretrained: the pipeline: a hub id, a folder, or package:<dotted.package>/<folder>.
        sites: where tokens are read, such as "transformer_blocks.*" or "transformer_blocks.3:mlp".
        prompts: a list, or a file: FILE.txt with one a line, FILE.parquet:COLUMN (also .csv, .tsv, .jsonl),
            hf:OWNER/NAME:COLUMN of a Hugging Face dataset. Null takes the images' own.
        heldout_prompts: prompts for validation and test; null sets the last tenth of the prompts aside.
        images: a dataset of dict(image [3, H, W] in [-1, 1], prompt) to be noised, such as ImageFolder. Null generates
            clean latents from the prompts first.
        heldout_images: images for validation and test; null sets the last tenth of the images aside.
        source: noised images (noise), real denoising trajectories (denoise), or half of the samples each (both).
        samples_per_batch: samples in a training batch, over all ranks together.
        tokens_per_sample: tokens drawn from each sample without replacement: a number (4) or a fraction (0.0625).
        forward_batch_size: samples in one forward of the denoiser; null for all of a rank's at once.
        guidance_scale: of classifier-free guidance in trajectories; 1 or less for none.
        num_inference_steps: length of a trajectory's schedule.
        halves: the halves of a guided forward that are kept; both doubles the tokens of trajectories.
        prompt_dropout: share of noised samples that get the empty prompt.
        dtype: precision of the denoiser, whatever the trainer's; auto takes bfloat16 where the device is good at it.
        batches_per_epoch: how many batches count as an epoch of the endless stream.
        num_validation_samples: held-out samples for validation.
        num_test_samples: held-out samples for the test, all tokens of each.
        test_source: noised images (noise), for which denoising losses are known, or real trajectories (denoise), each
            step of which is a sample.
        num_calibration_samples: samples for the statistics that normalise activations.
        num_generated: clean latents that are generated where there are no images.
        latent_cache: images whose latents are kept on the device.
        cache: keeps training and calibration batches on disk, to train many SAEs from one harvest.
        seed: of everything drawn here.
        revision: branch, tag or commit on the hub.
        variant: file name variant on the hub, such as fp16.
        local_files_only: never ask the hub.
        family: class path of a Denoiser, for code of your own; null where the pipeline's class tells.
        latent_size: rows and columns of a latent (a video's frames before them); the model's own unless given.
        prompt_cache: a folder that keeps prompt embeddings, so that text encoders need not be loaded again.
        compile: compile the denoiser's blocks; sites inside a block cannot be read then.
    """

    def __init__(
        self,
        pretrained: str,
        sites: list[str],
        prompts: str | list[str] | None = None,
        heldout_prompts: str | list[str] | None = None,
        images: Dataset | None = None,  # type: ignore[type-arg]  # jsonargparse wants the bare class
        heldout_images: Dataset | None = None,  # type: ignore[type-arg]
        source: SourceName = "noise",
        samples_per_batch: int = 32,
        tokens_per_sample: int | float = 1 / 16,
        forward_batch_size: int | None = None,
        guidance_scale: float = 4.5,
        num_inference_steps: int = 20,
        halves: Literal["conditional", "both"] = "conditional",
        prompt_dropout: float = 0.1,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32",
        batches_per_epoch: int = 1000,
        num_validation_samples: int = 256,
        num_test_samples: int = 512,
        test_source: TestSourceName = "noise",
        num_calibration_samples: int = 2048,
        num_generated: int = 256,
        latent_cache: int = 16384,
        cache: DiskCache | None = None,
        seed: int = 0,
        revision: str | None = None,
        variant: str | None = None,
        local_files_only: bool = False,
        family: str | None = None,
        latent_size: list[int] | None = None,
        prompt_cache: str | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.pretrained = pretrained
        self.site_patterns = sites
        self.corpus = Corpus(prompts, heldout_prompts, images, heldout_images)
        self.source = source
        self.samples_per_batch = samples_per_batch
        self.tokens_per_sample = tokens_per_sample
        self.forward_batch_size = forward_batch_size
        self.guidance_scale = guidance_scale
        self.num_inference_steps = num_inference_steps
        self.halves = halves
        self.prompt_dropout = prompt_dropout
        self.dtype = dtype
        self.batches_per_epoch = batches_per_epoch
        self.num_validation_samples = num_validation_samples
        self.num_test_samples = num_test_samples
        self.test_source = test_source
        self.num_calibration_samples = num_calibration_samples
        self.num_generated = num_generated
        self.latent_cache = latent_cache
        self.cache = cache
        self.seed = seed
        self.revision = revision
        self.variant = variant
        self.local_files_only = local_files_only
        self.family = family
        self.latent_size = latent_size
        self.prompt_cache = prompt_cache
        self.compile = compile
        check_arguments(self, prompts is not None or images is not None)
        self.corpus.prompts("train")  # read now: a mistake in a file is told before anything is written
        self._denoiser: Denoiser | None = None

    # Known without weights.

    @cached_property
    def site_shapes(self) -> dict[str, dict[str, int | list[int]]]:
        """For each site: d_in, the grid of its tokens, d_input (what the denoiser is given at a place)."""
        described = self.describe()
        if self.halves == "both" and described.guidance != "classifier_free" and self.source != "noise":
            raise UserError("halves both: this denoiser is not guided by an unconditional half; use conditional")
        sites = described.resolve_sites(self.site_patterns)
        self.tokens_kept(described)
        shapes = described.site_shapes(sites)
        return {site: {**vars(shape), "grid": list(shape.grid)} for site, shape in shapes.items()}

    def describe(self) -> Denoiser:
        """The denoiser without its weights, on the meta device."""
        return describe_denoiser(
            self.pretrained,
            family=self.family,
            revision=self.revision,
            local_files_only=self.local_files_only,
            latent_size=self.latent_size,
        )

    def tokens_kept(self, denoiser: Denoiser) -> dict[str, int]:
        """How many tokens of a sample each site keeps."""
        layouts = {str(site): denoiser.layout(site) for site in denoiser.resolve_sites(self.site_patterns)}
        kept = self._num_kept(list(layouts.values()))
        return {site: kept[layout] for site, layout in layouts.items()}

    # What Lightning calls.

    def setup(self, stage: str | None = None) -> None:
        """Load the denoiser, once, to where the trainer works."""
        device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
        if self._denoiser is None:
            self._denoiser = load_denoiser(
                self.pretrained,
                family=self.family,
                dtype=native_dtype(device) if self.dtype == "auto" else self.dtype,
                revision=self.revision,
                variant=self.variant,
                local_files_only=self.local_files_only,
                latent_size=self.latent_size,
                prompt_cache=self.prompt_cache,
                compile=self.compile,
            )
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
        """About `num_calibration_samples` as in training, but drawn apart, one source at a time."""
        return self._feed(shard or self._shard()).calibration(self.num_calibration_samples)

    def noised_calls(self, num_samples: int) -> Callable[[int], Call]:
        """The k-th forward over `num_samples` noised training samples, whatever the source; batches do not change."""
        return self._feed(self._shard()).noised_calls(num_samples)

    def sensitivity(self, sites: list[str]) -> dict[str, Sensitivity]:
        """E[J' J] of the denoiser's prediction by a token's activation, on a quarter of the calibration samples.

        Measured on noised samples, whatever the source.
        """
        feed = self._feed(self._shard())
        parts = (
            (call.x_t[rows], call.raw_t[rows], call.conditioning.select(rows), v[rows])
            for call, v in feed.calibration_calls(-(-self.num_calibration_samples // 4))
            for rows in torch.arange(len(call)).split(self.forward_batch_size or len(call))
        )
        return sensitivity(self.denoiser, self.denoiser.resolve_sites(sites), parts)

    def validation_loader(self, shard: Shard) -> SizedIterable[Tokens]:
        """A rank's validation batches: noised samples, and whole trajectories if the source has any."""
        return self._feed(shard).validation(self.num_validation_samples)

    def test_loader(self, shard: Shard) -> SizedIterable[HeldOutBatch]:
        """A rank's test batches."""
        return self._feed(shard).test(self.num_test_samples)

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
    def _walk(self) -> Walk:
        return Walk(self.num_inference_steps, self.guidance_scale)

    @cached_property
    def _latents(self) -> LatentStore:
        return LatentStore(
            self.denoiser,
            self.corpus,
            max_cached=self.latent_cache,
            num_generated=self.num_generated,
            num_heldout=max(self.num_validation_samples, self.num_test_samples),
            walk=self._walk,
            batch_size=self.forward_batch_size or max(1, self.samples_per_batch // self._shard().world),
            seed=self.seed,
        )

    def _feed(self, shard: Shard) -> Feed:
        sites = self.denoiser.resolve_sites(self.site_patterns)
        harvester = Harvester(self.denoiser, sites, self.forward_batch_size)
        return Feed(
            harvester,
            self.corpus,
            self._latents,
            shard,
            source=self.source,
            samples_per_batch=self.samples_per_batch,
            num_kept=self._num_kept(harvester.layouts),
            walk=self._walk,
            both_halves=self.halves == "both",
            prompt_dropout=self.prompt_dropout,
            test_source=self.test_source,
            seed=self.seed,
            cache=self.cache,
        )

"""What the latents do over the timestep, seen in TensorBoard and other loggers while they are trained."""

from __future__ import annotations

import logging
import time
from typing import Any, NamedTuple

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from tide_lightning.callbacks import drawings
from tide_lightning.callbacks.boards import boards_of, left_out
from tide_lightning.datamodules.harvest import Call
from tide_lightning.diffusion import Denoiser, Replicas, sample_images, unlabelled
from tide_lightning.drawing import Curve, curve
from tide_lightning.errors import UserError
from tide_lightning.intervene.splicing import reconstruct_by, splice_denoiser, why_not
from tide_lightning.reduction import all_reduce_sum
from tide_lightning.saes import SAE
from tide_lightning.sharding import is_sharded
from tide_lightning.threads import side_by_side
from tide_lightning.tokens import TokenBatch, bin_of
from tide_lightning.training import ReconstructionMetric, TideModule

_log = logging.getLogger(__name__)

_MAX_IMAGE_SITES = 4


class _Seen(NamedTuple):
    """Held-out tokens through one SAE.

    Fields:
        curve: times and explained variance.
        known: times and explained variance of the known part alone.
        fired: tokens on which each latent fires, by bin of t [F, bins].
        tokens: in each bin [bins].
    """

    curve: Curve
    known: Curve
    fired: Tensor
    tokens: Tensor


class MonitorFeatures(Callback):
    """Draws into the trainer's loggers, every so often and at the end, what scalars do not show.

    Of held-out tokens, the same each time: a histogram of the latents' firing rates, when each latent fires (a heat
    map of latents, sorted by their mean t, over the timestep) and explained variance over the timestep. Of held-out
    forwards, where these are of noised samples: the increase of the denoising loss when a site's activations are
    replaced by the SAE's. And images from the same noise, with the original and with each site's spliced activations
    (of four sites where there are more). TensorBoard and Weights & Biases show all of it, MLflow no histograms, and CSV
    files nothing but the increases.

    Args:
        every_n_steps: optimiser steps between two looks.
        num_tokens: held-out tokens of each site, over all ranks; kept on the host.
        num_samples: held-out forwards for the loss, over all ranks; 0 for none.
        num_images: to sample; 0 for none.
        num_inference_steps: of these images.
        num_bins: equal bins of t.
    """

    def __init__(
        self,
        every_n_steps: int = 1000,
        num_tokens: int = 4096,
        num_samples: int = 64,
        num_images: int = 4,
        num_inference_steps: int = 8,
        num_bins: int = 10,
    ) -> None:
        if every_n_steps < 1 or num_tokens < 1 or num_bins < 1:
            raise UserError("MonitorFeatures: every_n_steps, num_tokens and num_bins must be at least 1")
        self.every_n_steps, self.num_tokens, self.num_samples = every_n_steps, num_tokens, num_samples
        self.num_images, self.num_inference_steps, self.num_bins = num_images, num_inference_steps, num_bins
        self._looked_at = 0
        self._tokens: dict[str, TokenBatch] = {}
        self._calls: list[Any] = []
        self._original_images: Tensor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what the loggers leave out."""
        if not trainer.loggers:
            _log.warning("MonitorFeatures draws nothing: the trainer has no logger")
        elif trainer.is_global_zero and (lack := left_out(trainer)):
            _log.warning("MonitorFeatures: %s", lack)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look every so often."""
        if trainer.global_step % self.every_n_steps == 0 and trainer.global_step != self._looked_at:
            self.look(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at what came out."""
        if trainer.global_step != self._looked_at:
            self.look(trainer, pl_module)

    @torch.no_grad()
    def look(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure on all ranks, draw on the first."""
        assert isinstance(pl_module, TideModule)
        if is_sharded(pl_module):
            raise UserError("MonitorFeatures cannot look at SAEs whose latents are spread over ranks: leave it out")
        if not trainer.loggers or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        begin = time.monotonic()
        self._looked_at = trainer.global_step
        if not self._tokens:
            self._collect(trainer)
        sites = pl_module.sites
        seen = dict(
            zip(sites, side_by_side(lambda site: self._see(pl_module, site), sites, pl_module.device), strict=True)
        )
        increase, by_bin = self._loss_increase(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        step = trainer.global_step - 1  # where Lightning puts this step's other figures
        for logger in trainer.loggers if increase else ():
            logger.log_metrics({f"monitor/{site}/loss_increase": value for site, value in increase.items()}, step)
        boards, pictures = boards_of(trainer), dict[str, drawings.Image]()
        if not boards:
            return
        for site, found in seen.items():
            rate = (found.fired.sum(1) / found.tokens.sum()).cpu()
            # Latents that never fired stand at half a token.
            rate = rate.clamp(min=0.5 / float(found.tokens.sum())).log10()
            for board in boards:
                board.show_histogram(f"firing_rate_log10/{site}", rate, step)
            profile = drawings.draw_profiles(found.fired / found.tokens.clamp(min=1), site)
            pictures[f"feature_time/{site}"] = profile
        curves = {site: found.curve for site, found in seen.items()}
        floors = {site: found.known for site, found in seen.items()}
        pictures["over_timestep/explained_variance"] = drawings.draw_explained_variance(curves, floors)
        if by_bin:
            pictures["over_timestep/loss_increase"] = drawings.draw_loss_increase(by_bin)
        if self.num_images:
            pictures["samples/original_and_spliced"] = drawings.draw_images(self._sample(trainer, pl_module))
        for board in boards:
            for name, picture in pictures.items():
                board.show_image(name, picture, step)
        _log.info("MonitorFeatures took %.1f s at step %d", time.monotonic() - begin, trainer.global_step)

    def _collect(self, trainer: Trainer) -> None:
        """Held-out tokens and forwards of this rank; the same in every run and at every look."""
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        share = -(-self.num_tokens // trainer.world_size)
        parts: dict[str, list[TokenBatch]] = {}
        for batch in datamodule.val_dataloader():
            for site, tokens in batch.items():
                parts.setdefault(site, []).append(tokens.to("cpu"))
            if sum(len(tokens) for tokens in next(iter(parts.values()))) >= share:
                break
        self._tokens = {site: TokenBatch.concatenate(part).select(slice(share)) for site, part in parts.items()}
        share = -(-self.num_samples // trainer.world_size)
        for heldout in datamodule.test_dataloader() if share else ():
            if heldout.call.x0 is None:  # of trajectories, with no clean image there is no loss
                _log.warning("MonitorFeatures measures no loss increase: data.heldout.test_source is denoise")
                break
            self._calls.append(heldout.call.select(slice(share)).to("cpu"))
            share -= len(self._calls[-1])
            if share <= 0:
                break

    def _see(self, pl_module: TideModule, site: str) -> _Seen:
        sae = pl_module.sae(site)
        metric = ReconstructionMetric(sae.d_in, sae.d_sae, self.num_bins).to(pl_module.device)
        fired = torch.zeros(sae.d_sae, self.num_bins, device=pl_module.device)
        count = torch.zeros(self.num_bins, device=pl_module.device)
        tokens = self._tokens[unlabelled(site)]
        for start in range(0, len(tokens), 1024):
            part = tokens.select(slice(start, start + 1024)).to(pl_module.device)
            output = sae(part)
            metric.update(part, output)
            bin_B = bin_of(part.t, self.num_bins)
            count.index_add_(0, bin_B, torch.ones_like(part.t))
            cell = output.code.indices.flatten() * self.num_bins + bin_B[output.code.tokens()]
            fired.view(-1).index_add_(0, cell, (output.code.values.flatten() > 0).to(fired.dtype))
        bins = metric.compute()["by_timestep"]
        t, explained = curve(bins, "explained_variance")
        # error / spread over error / known error
        known = [
            1 - (1 - row["explained_variance"]) / (1 - row["explained_variance_beyond_known"])
            if row["explained_variance_beyond_known"] != 1
            else float("nan")
            for row in bins
        ]
        return _Seen((t, explained), (t, known), all_reduce_sum(fired), all_reduce_sum(count))

    def _loss_increase(self, trainer: Trainer, pl_module: TideModule) -> tuple[dict[str, float], dict[str, Curve]]:
        """Of each site that may be spliced: in total and by bin of t."""
        denoiser = trainer.datamodule.denoiser  # type: ignore[attr-defined]
        saes = _spliceable(pl_module)
        cases: list[str | None] = [None, *saes]
        sums = torch.zeros(len(cases), self.num_bins, dtype=torch.float64, device=pl_module.device)
        replicas = Replicas(denoiser)
        for call in self._calls:
            call = call.to(pl_module.device)
            target = denoiser.schedule.target(call.x0, call.noise, call.raw_t)
            bin_N = bin_of(call.t, self.num_bins)

            def errors(denoiser: Denoiser, site: str | None, call: Call = call, target: Tensor = target) -> Tensor:
                case = denoiser if site is None else _spliced(denoiser, site, saes[site])
                error = case.predict(call.x_t, call.raw_t, call.conditioning).double() - target.double()
                return error.square().flatten(1).mean(1)

            for row, error_N in zip(sums, replicas.map(errors, cases), strict=True):
                row.index_add_(0, bin_N, error_N)
        all_reduce_sum(sums)
        filled = (sums[0] > 0).nonzero().squeeze(1)
        t = ((filled + 0.5) / self.num_bins).tolist()
        increase: dict[str, float] = {}
        by_bin: dict[str, Curve] = {}
        if len(filled):
            for site, row in zip(saes, sums[1:], strict=True):
                increase[site] = float(row.sum() / sums[0].sum() - 1)
                by_bin[site] = (t, (row[filled] / sums[0, filled] - 1).tolist())
        return increase, by_bin

    def _sample(self, trainer: Trainer, pl_module: TideModule) -> dict[str, Tensor]:
        """Images by case, from the same noise."""
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        denoiser = datamodule.denoiser
        heldout = datamodule.corpus.prompts("heldout")
        prompts = [heldout[number % len(heldout)] for number in range(self.num_images)]

        settings = {"num_inference_steps": self.num_inference_steps}
        settings["guidance_scale"] = datamodule.trajectories.guidance_scale

        saes = _spliceable(pl_module)

        def images(denoiser: Denoiser, site: str | None) -> Tensor:
            case = denoiser if site is None else _spliced(denoiser, site, saes[site])
            return sample_images(case, prompts, **settings).cpu()

        stride = -(-len(saes) // _MAX_IMAGE_SITES) if saes else 1
        shown = list(saes)[::stride]
        cases = [*([None] if self._original_images is None else []), *shown]
        made = dict(zip(cases, Replicas(denoiser).map(images, cases), strict=True))
        self._original_images = made.pop(None, self._original_images)
        assert self._original_images is not None
        return {"original": self._original_images, **{f"{site} spliced": drawn for site, drawn in made.items()}}


def _spliced(denoiser: Denoiser, site: str, sae: SAE) -> Denoiser:
    return splice_denoiser(denoiser, {site: reconstruct_by(sae)})


def _spliceable(pl_module: TideModule) -> dict[str, SAE]:
    return {site: pl_module.sae(site) for site in pl_module.sites if why_not(pl_module.sae(site)) is None}

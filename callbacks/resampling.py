"""New life for dead latents, the same on every rank."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from tide_lightning.diffusion.counters import stream
from tide_lightning.errors import UserError
from tide_lightning.reduction import broadcast, is_distributed
from tide_lightning.saes import SAE, SAEOutput
from tide_lightning.sharding import whole_weights
from tide_lightning.tokens import TokenBatch
from tide_lightning.training import TideModule, reset_rows, steps_of_fit

_log = logging.getLogger(__name__)


class Candidates(NamedTuple):
    """Tokens from which dead latents may be re-seeded, of all ranks.

    Fields:
        key: the larger, the sooner it is taken [n]; its order is a draw with probabilities ~ squared error.
        read: what the encoder reads of each token's error, in the normalised, modulated space [n, d].
        target: what the decoder has to write to undo it [n, d].
    """

    key: Tensor
    read: Tensor
    target: Tensor


class ResampleDeadLatents(Callback):
    """Re-seeds dead latents from what is missing in badly reconstructed tokens of the current batch.

    A dead latent (`TideModule.dead_after_tokens`) gets a token drawn with probability ~ squared error, without
    replacement: its decoder row becomes the direction of that token's error, its encoder row the same direction as the
    encoder reads it, its bias and the Adam moments of exactly these rows become zero, its clock starts anew.
    Candidates are gathered from all ranks and drawn by a generator that seed, step and site name, so every rank does
    the same and a resumed run too.

    In TensorBoard `train/<site>/resampled` is the number, zero included, and `train/<site>/resampled_alive` the share
    of those re-seeded last that have fired by the next look.

    Args:
        every_n_steps: optimiser steps between two looks.
        until_fraction: part of the run after which no more latents are re-seeded, so that the last ones can settle.
        num_candidates: tokens that each rank offers, and so the most latents per rank and site that one look re-seeds.
        encoder_scale: norm of a new encoder row, relative to the mean norm of the living rows.
        seed: names the draws.
    """

    def __init__(
        self,
        every_n_steps: int = 250,
        until_fraction: float = 0.8,
        num_candidates: int = 1024,
        encoder_scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        if every_n_steps < 1 or num_candidates < 1:
            raise UserError("ResampleDeadLatents: every_n_steps and num_candidates must be at least 1")
        self.every_n_steps, self.until_fraction = every_n_steps, until_fraction
        self.num_candidates, self.encoder_scale, self.seed = num_candidates, encoder_scale, seed
        self._last_step = 0.0
        self._looked_at = -1  # gradient accumulation has several batches a step
        self._reseeded: dict[str, tuple[Tensor, int]] = {}  # latents and when, in tokens seen; for the log only

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See how long the run is."""
        self._last_step = steps_of_fit(trainer) * self.until_fraction
        self._looked_at = -1
        self._reseeded.clear()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look for dead latents every so often; before a checkpoint of the same step is written."""
        assert isinstance(pl_module, TideModule)
        step = trainer.global_step
        if self._looked_at < 0:
            self._warn_if_in_vain(trainer, pl_module, batch)
            self._looked_at = 0
        if step == self._looked_at or step % self.every_n_steps:
            return
        self._looked_at = step
        figures: dict[str, float] = {}
        seen = int(pl_module.tokens_seen)
        for site, tokens in pl_module.for_each_sae(batch).items():
            if site in self._reseeded:
                latents, then = self._reseeded.pop(site)
                has_fired = pl_module.clock(site).since_fired[latents] < seen - then
                figures[f"train/{site}/resampled_alive"] = float(has_fired.double().mean())
            if step <= self._last_step:
                latents = self.resample(pl_module, site, tokens, step)
                figures[f"train/{site}/resampled"] = len(latents)
                if len(latents):
                    self._reseeded[site] = latents, seen
        for logger in trainer.loggers if figures else ():
            logger.log_metrics(figures, step=step - 1)  # where Lightning puts this step's other figures

    @torch.no_grad()
    def resample(self, pl_module: TideModule, site: str, tokens: TokenBatch, step: int) -> Tensor:
        """Re-seed the dead latents of a site from a batch of each rank; which they were."""
        sae, clock = pl_module.sae(site), pl_module.clock(site)
        dead = clock.dead()
        rows = dead.nonzero().squeeze(1)
        if len(rows) == 0:
            return rows
        output = sae(tokens)
        with whole_weights(sae):
            rows = self._write_rows(sae, output, tokens, dead, site, step)
        optimizer = pl_module.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        for parameter in sae.by_latent():
            reset_rows(optimizer, parameter, rows)
        clock.revive(rows)
        return rows

    def _write_rows(
        self, sae: SAE, output: SAEOutput, tokens: TokenBatch, dead: Tensor, site: str, step: int
    ) -> Tensor:
        rows = dead.nonzero().squeeze(1)
        found = self._candidates(sae, output, tokens, site, step)
        order = found.key.argsort(descending=True, stable=True)
        chosen = order[found.key[order] > -torch.inf][: len(rows)]
        rows = rows[: len(chosen)]
        alive_norm = sae.readers[~dead].norm(dim=1).mean() if not dead.all() else sae.readers.new_ones(())
        W_enc = self.encoder_scale * alive_norm * nn.functional.normalize(found.read[chosen], dim=1)
        W_dec = nn.functional.normalize(found.target[chosen], dim=1)
        sae.reseed(rows, broadcast(W_enc), broadcast(W_dec))
        return rows

    def _candidates(self, sae: SAE, output: SAEOutput, tokens: TokenBatch, site: str, step: int) -> Candidates:
        error = output.u - output.u_hat
        read = sae.frame(tokens.context).scaled(error)
        target = read if sae.unmodulate else error
        # Gumbel's trick: the n largest of log p + noise are a draw of n without replacement with weights p, also
        # when each rank contributes the largest of its own.
        rng = stream(self.seed, "resample", site, step, _rank())
        gumbel = torch.from_numpy(rng.gumbel(size=len(tokens))).to(error.device)
        key = error.double().square().sum(1).log() + gumbel
        key = key.where(key.isfinite() & read.isfinite().all(1), -torch.inf)  # no latent starts from what is not finite
        key, best = key.topk(min(self.num_candidates, len(key)))
        return Candidates(*(_gather(part) for part in (key, read[best], target[best])))

    def _warn_if_in_vain(self, trainer: Trainer, pl_module: TideModule, batch: Any) -> None:
        if not trainer.is_global_zero:
            return
        looks = self._last_step // self.every_n_steps
        in_vain: dict[tuple[int, float], list[str]] = {}
        for site, tokens in pl_module.for_each_sae(batch).items():
            seen = looks * self.every_n_steps * len(tokens) * trainer.world_size
            threshold = pl_module.clock(site).dead_after_tokens
            if threshold > seen:
                in_vain.setdefault((threshold, seen), []).append(site)
        for (threshold, seen), sites in in_vain.items():
            _log.warning(
                "ResampleDeadLatents can never find a dead latent at %s: dead_after_tokens is %d, but the last "
                "look comes after %d tokens; lower model.dead_after_tokens or every_n_steps, or train longer",
                ", ".join(sites),
                threshold,
                seen,
            )


def _rank() -> int:
    return dist.get_rank() if is_distributed() else 0


def _gather(tensor: Tensor) -> Tensor:
    """The rows of all ranks, in order of rank; every rank must bring equally many."""
    if not is_distributed():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)

"""The LightningModule: an SAE or several a site, trained together on the batches of one harvest.

Such SAEs are independent: an SAE ends with the same bits whoever is trained beside it. Each starts from a random stream
of its own, and each is clipped by the norm of its own gradient. (`further_loss` may tie them: training through the
denoiser with all of them spliced does.)
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from lightning import LightningModule
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from tide_lightning.diffusion import Denoiser, unlabelled
from tide_lightning.errors import UserError
from tide_lightning.saes import SAE, SAEOutput, SparseCode, TideSAE
from tide_lightning.sharding import is_sharded, local_rows, norm_over_ranks, shard_rows
from tide_lightning.threads import side_by_side
from tide_lightning.tokens import SiteShape, TokenBatch
from tide_lightning.training.building import build_sae, load_saes, named_builders
from tide_lightning.training.calibration import ActivationSource, calibrate
from tide_lightning.training.checkpoints import check_groups, check_tensors
from tide_lightning.training.cuda_graphs import able_saes, graphs_of_fit, is_small
from tide_lightning.training.doubts import doubt_about
from tide_lightning.training.finite import SkippedSteps, not_finite
from tide_lightning.training.health import FiringClock
from tide_lightning.training.interval import Interval
from tide_lightning.training.learning import LearningStep
from tide_lightning.training.metrics import ReconstructionMetric
from tide_lightning.training.optimisation import IndependentAdam, warmup_then_decay
from tide_lightning.training.replay import Recorder, Replay
from tide_lightning.training.steps import check_place, steps_of_fit

Batch = dict[str, TokenBatch]

_log = logging.getLogger(__name__)


class HeldOut(Protocol):
    """A batch of test or predict: whole samples."""

    @property
    def tokens(self) -> Batch:
        """All tokens of each sample, in grid order."""


class TideModule(LightningModule):
    """Trains SAEs of any class: one for each site, or several side by side on the same tokens.

    Args:
        sites: sizes by site, linked from the datamodule.
        sae: builds the SAE of a site.
        saes: builds several SAEs of a site by name, in place of `sae`; their keys are `<site>@<name>`.
        pretrained: the folder `saes` of a run, whose SAEs are taken in place of new ones.
        lr: Adam's learning rate.
        warmup_steps: steps over which it rises linearly.
        decay_fraction: last part of the run over which it falls linearly to zero.
        betas: Adam's decay rates.
        alpha: weight of the AuxK loss.
        k_aux: dead latents that try to explain a token's error; half of d_in unless given.
        dead_after_tokens: a latent that has not fired for this many tokens (of all ranks) is dead.
        cuda_graphs: on a GPU, record a small SAE's step (up to 2^24 weights) as a CUDA graph and replay it while its
            sizes stay; the results are the same. Where something forbids it, that is said once.
    """

    tokens_seen: Tensor
    is_calibrated: Tensor

    def __init__(
        self,
        sites: dict[str, dict[str, int | list[int]]],
        sae: Callable[[SiteShape], SAE] = TideSAE,
        saes: dict[str, Callable[[SiteShape], SAE]] | None = None,
        pretrained: str | None = None,
        lr: float = 1e-3,
        warmup_steps: int = 100,
        decay_fraction: float = 0.3,
        betas: tuple[float, float] = (0.9, 0.999),
        alpha: float = 1 / 32,
        k_aux: int | None = None,
        dead_after_tokens: int = 200_000,
        cuda_graphs: bool = True,
    ) -> None:
        super().__init__()
        for name, value, least in (("lr", lr, 0), ("alpha", alpha, 0), ("warmup_steps", warmup_steps, 0)):
            if not least <= value < math.inf:
                raise UserError(f"model.{name} = {value}: give a number from {least} on")
        if not 0 <= decay_fraction <= 1:
            raise UserError(f"model.decay_fraction = {decay_fraction}: give a part of the run, from 0 to 1")
        if dead_after_tokens < 1 or (k_aux is not None and k_aux < 1):
            raise UserError("model.dead_after_tokens and model.k_aux: give numbers from 1 on")
        self.save_hyperparameters(ignore=["sae", "saes", "betas"])  # classes: checkpoints hold primitives only
        self.save_hyperparameters({"betas": list(betas)})  # nor has YAML tuples
        self.lr, self.warmup_steps, self.decay_fraction, self.betas = lr, warmup_steps, decay_fraction, betas
        self.alpha, self.k_aux, self.cuda_graphs = alpha, k_aux, cuda_graphs
        builders = {"": sae} if saes is None else named_builders(saes)
        if pretrained is not None:
            built = load_saes(pretrained, list(sites))
        else:
            built = {
                f"{site}{label}": build_sae(build, SiteShape.of(shape), f"{site}{label}")
                for site, shape in sites.items()
                for label, build in builders.items()
            }
        self.sites = list(built)
        self.saes = nn.ModuleDict({_key(site): module for site, module in built.items()})
        self.clocks = nn.ModuleDict(
            {_key(site): FiringClock(self.sae(site).d_sae, dead_after_tokens) for site in self.sites}
        )
        self.metrics = nn.ModuleDict(
            {
                f"{stage}-{_key(site)}": ReconstructionMetric(self.sae(site).d_in, self.sae(site).d_sae)
                for stage in ("train", "val")
                for site in self.sites
            }
        )
        self.register_buffer("tokens_seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("is_calibrated", torch.tensor(pretrained is not None))
        self.further_loss: Callable[[], Tensor | None] | None = None  # what a callback adds to a step's loss
        self.watch_calibration: Callable[[Batch], None] | None = None  # what a callback sees of calibration tokens
        self.recorder: Recorder | None = None  # of steps; on a GPU a fit finds one itself
        self._replays: dict[str, Replay] = {}
        self._interval = Interval()
        self._skipped = SkippedSteps()
        self._has_warned = False
        self._decoder_norms: list[Tensor] = []  # of the gradients at this step

    def sae(self, site: str) -> SAE:
        """The SAE of a site."""
        module = self.saes[_key(site)]
        assert isinstance(module, SAE)
        return module

    def clock(self, site: str) -> FiringClock:
        """The firing clock of a site."""
        module = self.clocks[_key(site)]
        assert isinstance(module, FiringClock)
        return module

    def metric(self, stage: str, site: str) -> ReconstructionMetric:
        """The accumulated figures of a site, for stage train or val."""
        module = self.metrics[f"{stage}-{_key(site)}"]
        assert isinstance(module, ReconstructionMetric)
        return module

    def configure_model(self) -> None:
        """Under a model-parallel strategy, let every rank hold a share of each SAE's latents."""
        if isinstance(self._trainer and self._trainer.strategy, FSDPStrategy):
            raise UserError(
                "strategy fsdp flattens weights, whose rows must keep unit norm: take the one of configs/sharded.yaml"
            )
        if self.device_mesh is None or any(is_sharded(sae) for sae in self.saes.values()):
            return
        for sae in self.saes.values():
            shard_rows(sae, self.device_mesh["data_parallel"], "encode", "decode")

    def on_fit_start(self) -> None:
        """Estimate the known part and start the modulation, unless a checkpoint brought them."""
        if not bool(self.is_calibrated):
            self.calibrate(self.trainer.datamodule)  # type: ignore[attr-defined]
            self.is_calibrated.fill_(True)

    def on_train_start(self) -> None:
        """See that a resumed fit goes on behind the batches that it has seen, and whether steps may be replayed."""
        check_place(self.trainer)
        small = [site for site in self.sites if is_small(self.sae(site))]
        recorder = self.recorder
        if recorder is None and small and self.cuda_graphs and self.device.type == "cuda":
            recorder = graphs_of_fit(self.trainer, self.device)
        if recorder is not None:
            able = able_saes({site: self.sae(site) for site in small})
            self._replays = {site: Replay(self._step(site), recorder) for site in able}

    def on_train_end(self) -> None:
        """Give the recordings' memory back."""
        self._replays = {}

    def calibrate(self, source: ActivationSource) -> None:
        """Fit every site's known part and scale on the source's first tokens; begin modulation at its adaLN."""
        calibrate({site: self.sae(site) for site in self.sites}, source, self.device, self.watch_calibration)

    def for_each_sae(self, batch: Batch) -> Batch:
        """A harvested batch by the keys of the SAEs: those of one site share its tokens."""
        return {site: batch[unlabelled(site)] for site in self.sites if unlabelled(site) in batch}

    def forward(self, batch: Batch) -> dict[str, SAEOutput]:
        """Encode and decode each site's tokens."""
        parts = self.for_each_sae(batch)
        outputs = side_by_side(lambda site: self.sae(site)(parts[site]), parts, self.device)
        return dict(zip(parts, outputs, strict=True))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The sum of the sites' losses."""
        parts = self.for_each_sae(batch)
        learned = side_by_side(lambda site: self._learn(site, parts[site]), parts, self.device)
        losses, seen = [loss for loss, _ in learned], torch.zeros_like(self.tokens_seen)
        for _, counted in learned:
            seen = torch.maximum(seen, counted)
        self.tokens_seen += seen  # sites of one layout have as many; of several, the most are counted
        further = self.further_loss() if self.further_loss is not None else None
        return torch.stack(losses if further is None else [*losses, further]).sum()

    def _learn(self, site: str, tokens: TokenBatch) -> tuple[Tensor, Tensor]:
        """An SAE's loss, and the tokens counted; replayed where that was found to be the same."""
        clock, replay = self.clock(site), self._replays.get(site)
        dead = clock.dead_latents()
        # A loss of several SAEs has its gradients added to theirs.
        step = self._step(site) if replay is None or self.further_loss is not None else replay
        total, counted = step(tokens, dead)
        clock.look(self.global_step)
        self.metric("train", site).was_updated()
        return total, counted

    @property
    def num_replayed(self) -> int:
        """How many steps of SAEs were replayed since the fit began."""
        return sum(replay.num_replayed for replay in self._replays.values())

    def _step(self, site: str) -> LearningStep:
        parts = self.sae(site), self.clock(site), self.metric("train", site)
        return LearningStep(site, *parts, self._interval, self.alpha, self.k_aux)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep the decoders' gradients in the tangent of the unit sphere."""
        self._decoder_norms = [self.sae(site).project_decoder_gradient() for site in self.sites]

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """In the optimiser's pass clip each SAE by its gradient's norm, and skip its step where that is not finite."""
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:  # which skips by itself
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        by_value = gradient_clip_algorithm == "value"
        if by_value:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        rest = torch.stack([_norm_without_decoder(self.sae(site)) for site in self.sites])
        rest = norm_over_ranks(rest, self.sae(self.sites[0]).W_dec)
        assert isinstance(optimizer, IndependentAdam)
        norms = torch.hypot(torch.stack(self._decoder_norms), rest)
        self._skipped.add(optimizer.prepare_step(norms, None if by_value else gradient_clip_val))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then give the decoder's rows unit norm: here, so that no callback list can leave it out."""
        super().optimizer_step(*args, **kwargs)
        for site in self.sites:
            self.sae(site).normalise_decoder()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """End a fit that goes nowhere; log the interval's figures."""
        if (found := self._skipped.too_many()) is not None:
            place, how_many = found
            kept = self.trainer.checkpoint_callback
            last = (getattr(kept, "last_model_path", "") or getattr(kept, "best_model_path", "")) or "there is none"
            raise UserError(
                f"{self.sites[place]}: the loss or the gradient was not finite in {how_many}, up to step "
                f"{self.global_step}; these steps were skipped, and the weights are finite. Lower model.lr, or see "
                f"whether the denoiser's activations are finite (data.loading.dtype). The last good checkpoint: {last}"
            )
        if self.global_step % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._log_training()

    def _log_training(self) -> None:
        total = int(self.tokens_seen)
        figures = {"train/tokens_seen": float(total), "train/lr": self.optimizers().param_groups[0]["lr"]}  # type: ignore[union-attr]
        figures |= {f"train/{name}": value for name, value in self._interval.tokens_per_second(total).items()}
        losses = []
        skipped = dict(zip(self.sites, self._skipped.totals(), strict=False))
        figures |= {f"train/{site}/skipped_steps": float(number) for site, number in skipped.items()}
        for site in self.sites:
            parts = self._interval.means(site)
            losses.append(parts["loss"])
            figures |= {f"train/{site}/{name}": value for name, value in parts.items()}
            dead = self.clock(site).dead().double().mean()
            figures[f"train/{site}/dead_fraction"] = float(dead)
            metric = self.metric("train", site)
            found = _logged(metric.compute()["total"])
            doubt = doubt_about(site, parts["loss"], found["explained_variance"])
            if doubt is not None and self.global_step > self.warmup_steps and not self._has_warned:
                self._has_warned = True
                _log.warning(doubt)
            figures |= {f"train/{site}/{name}": value for name, value in found.items()}
            metric.reset()
        figures["train/loss"] = sum(losses)
        self.log_dict(figures, rank_zero_only=True, on_step=True, on_epoch=False)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Accumulate each site's reconstruction."""
        for site, output in self(batch).items():
            self.metric("val", site).update(batch[unlabelled(site)], output)

    def on_validation_epoch_end(self) -> None:
        """Log the held-out figures."""
        figures: dict[str, float] = {}
        for site in self.sites:
            metric = self.metric("val", site)
            total = metric.compute()["total"]
            figures |= {f"val/{site}/{name}": value for name, value in _logged(total).items()}
            metric.reset()
        mean = sum(figures[f"val/{site}/explained_variance"] for site in self.sites) / len(self.sites)
        self.log_dict({**figures, "val/explained_variance": mean}, rank_zero_only=True)

    def test_step(self, batch: HeldOut, batch_idx: int) -> dict[str, SAEOutput]:
        """Every site's output on a held-out batch, for the evaluation's callback."""
        outputs: dict[str, SAEOutput] = self(batch.tokens)
        return outputs

    def predict_step(self, batch: HeldOut, batch_idx: int) -> dict[str, SparseCode]:
        """Every site's codes."""
        parts = self.for_each_sae(batch.tokens)
        return {site: self.sae(site).encode(tokens.x, tokens.context) for site, tokens in parts.items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember which denoiser the SAEs belong to: by its fingerprint, none of its weights."""
        for part in ("state_dict", "optimizer_states"):
            if (name := not_finite(checkpoint.get(part))) is not None:
                raise UserError(
                    f"step {self.global_step}: {name} is not finite, so no checkpoint is written; lower model.lr"
                )
        denoiser = self._denoiser()
        if denoiser is not None:
            checkpoint["denoiser"] = denoiser.fingerprint()

    def _denoiser(self) -> Denoiser | None:
        if self._trainer is None:
            return None
        return getattr(self._trainer.datamodule, "denoiser", None)  # type: ignore[attr-defined]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint of other sizes contradicts what the user wrote: say so before anything is loaded."""
        denoiser = self._denoiser()
        if denoiser is not None and checkpoint.get("denoiser") not in (None, denoiser.fingerprint()):
            raise UserError(
                "the checkpoint was trained on other denoiser weights than data.pretrained now holds: "
                "name the ones it belongs to, or train anew"
            )
        theirs = checkpoint.get("state_dict")
        if theirs is None:
            return  # a model-parallel strategy has loaded them into the shares already
        if self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING:
            check_groups(checkpoint, len(self.sites))
        check_tensors(theirs, self.state_dict())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Fused Adam; the rate rises, stays, and falls to zero at the end of the run."""
        optimizer = IndependentAdam((self.sae(site).parameters() for site in self.sites), self.lr, self.betas)
        factor = warmup_then_decay(steps_of_fit(self.trainer), self.warmup_steps, self.decay_fraction)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


_LOGGED = ("mse", "explained_variance", "explained_variance_beyond_known", "cosine", "l0")


def _logged(figures: dict[str, float]) -> dict[str, float]:
    return {name: figures[name] for name in _LOGGED}


def _norm_without_decoder(sae: SAE) -> Tensor:
    """Of the gradients of all weights that live here but the decoder's."""
    grads = [local_rows(p.grad) for p in sae.parameters() if p.grad is not None and p is not sae.W_dec]
    return get_total_norm(grads)


def _key(site: str) -> str:
    return site.replace(".", "-")  # a module's name holds no dots

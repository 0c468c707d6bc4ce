"""What the toybox's trainings share: batches by step number, EMA, the schedule and an exactly resumable fit."""

import copy
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeVar

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset

from tide_lightning.errors import UserError

_N = TypeVar("_N", bound=nn.Module)


_EXPECTED: Final = (
    "Checkpoint directory .* exists and is not empty",  # it does whenever a run is resumed
    ".*does not have many workers",  # the loader only counts
    ".*isinstance.treespec, LeafSpec.* is deprecated",  # Lightning's own use of torch
    ".*You're resuming from a checkpoint that ended before the epoch ended",  # the step number decides
)
"""Warnings that say nothing to the user of this module."""


class _Steps(Dataset[int]):
    """Step numbers only: the module draws its batch from (seed, global step), whatever the loader does."""

    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, step: int) -> int:
        return step


class ToyModule(L.LightningModule):
    """A network, its exponential moving average, AdamW with warm-up and a cosine tail.

    Args:
        network: What is trained.
        num_steps: Total number of steps; a resumed run may be given another total.
        learning_rate: Peak learning rate.
        warmup_steps: Linear warm-up.
        decay_share: The last part of the steps, in which the rate falls to zero along a cosine.
        ema_decay: Decay of the moving average.
        seed: Seed of every draw made in training.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        num_steps: int,
        learning_rate: float = 1e-3,
        warmup_steps: int = 200,
        decay_share: float = 0.3,
        ema_decay: float = 0.999,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.network = network
        self.ema = copy.deepcopy(network).requires_grad_(False)
        self.num_steps = num_steps
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.decay_share = decay_share
        self.ema_decay = ema_decay
        self.seed = seed

    def generator(self) -> torch.Generator:
        """The randomness of this step: a function of (seed, step), so that a resumed run repeats nothing."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + self.global_step)

    def configure_optimizers(self) -> dict[str, object]:  # type: ignore[override]
        """The optimiser with the schedule that all groups share."""
        optimizer = self.build_optimizer()
        scheduler = LambdaLR(optimizer, self._rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def build_optimizer(self) -> Optimizer:
        """AdamW without decay on vectors."""
        matrices = [p for p in self.network.parameters() if p.requires_grad and p.ndim > 1]
        vectors = [p for p in self.network.parameters() if p.requires_grad and p.ndim <= 1]
        return torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}],
            lr=self.learning_rate,
            betas=(0.9, 0.99),
            fused=True,
        )

    def configure_gradient_clipping(self, *args: object, **kwargs: object) -> None:
        """Clip by norm here: Lightning refuses to do it for fused optimisers."""
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)

    def _rate(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        tail = self.decay_share * self.num_steps
        into_tail = (step - (self.num_steps - tail)) / max(tail, 1)
        return 0.5 + 0.5 * math.cos(math.pi * min(max(into_tail, 0.0), 1.0))

    def on_train_batch_end(self, *args: object) -> None:
        """Move the average; early on it follows quickly."""
        decay = min(self.ema_decay, (1 + self.global_step) / (10 + self.global_step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.network.parameters()), 1 - decay)


class _PrintProgress(Callback):
    """One line an epoch: a log file shows where a long run stands."""

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        values = " ".join(f"{k} {float(v):.5g}" for k, v in trainer.callback_metrics.items())
        print(f"step {trainer.global_step}: {values}", flush=True)


def fit(
    module: ToyModule,
    folder: Path,
    *,
    steps_an_epoch: int = 250,
    precision: str = "bf16-mixed",
    accelerator: str = "auto",
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train to the module's number of steps, from the folder's last checkpoint where there is one.

    An "epoch" is a stretch between two checkpoints. Everything random is drawn from the step number, so a
    run that is killed continues from its last checkpoint exactly as if it had never stopped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / "last.ckpt"
    trainer = L.Trainer(
        max_steps=module.num_steps,
        accelerator=accelerator,
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        logger=TensorBoardLogger(folder, name="", version=""),
        callbacks=[
            ModelCheckpoint(
                dirpath=folder,
                filename="last",
                every_n_epochs=1,
                save_top_k=1,
                save_on_train_epoch_end=True,
                enable_version_counter=False,
            ),
            _PrintProgress(),
            *callbacks,
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=min(25, steps_an_epoch),
    )
    loader = DataLoader(_Steps(steps_an_epoch), batch_size=None)
    with warnings.catch_warnings():
        for message in _EXPECTED:
            warnings.filterwarnings("ignore", message)
        trainer.fit(module, loader, ckpt_path=str(last) if last.exists() else None)


def read_checkpoint(folder: Path) -> dict[str, Tensor]:
    """The weights in the last checkpoint of a training folder."""
    path = folder / "last.ckpt"
    if not path.exists():
        raise UserError(f"{path} does not exist: train this part first")
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    return state


def load_average(network: _N, folder: Path) -> _N:
    """Fill an untrained network with the averaged weights of a training folder."""
    prefix = "ema."
    state = read_checkpoint(folder)
    network.load_state_dict({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})
    return network.eval()

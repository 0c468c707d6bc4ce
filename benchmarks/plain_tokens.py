"""Tokens without a denoiser: what a trainer needs of data that are made."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning import Callback, LightningDataModule, Trainer, seed_everything
from torch import Tensor

from tide_lightning.callbacks import ResampleDeadLatents
from tide_lightning.saes import SAE
from tide_lightning.tokens import SiteShape, TokenBatch, TokenContext
from tide_lightning.training import TideModule

SITE = "synthetic"


class PlainTokens(LightningDataModule):
    """An endless stream of activations that have neither time nor place."""

    denoiser = None

    @abstractmethod
    def activations(self) -> Tensor:
        """The next batch [B, d_in]."""

    def batches(self) -> Iterator[dict[str, TokenBatch]]:
        """The same as tokens of a site, without end."""
        while True:
            x = self.activations()
            none, flag = torch.zeros(len(x)), torch.zeros(len(x), dtype=torch.int8)
            yield {SITE: TokenBatch(x, TokenContext(none), none, torch.arange(len(x)), flag, flag)}

    def calibration_batches(self) -> Iterator[dict[str, TokenBatch]]:
        """For the mean and the scale."""
        source = self.batches()
        return (next(source) for _ in range(4))

    def train_dataloader(self) -> Iterator[dict[str, TokenBatch]]:
        """The stream."""
        return self.batches()


def train(
    data: PlainTokens,
    d_in: int,
    build: Callable[[SiteShape], SAE],
    steps: int,
    seed: int,
    batch_size: int,
    resampling: bool = True,
    **training: Any,
) -> SAE:
    """Our training of one SAE."""
    seed_everything(seed, verbose=False)
    module = TideModule(
        {SITE: {"d_in": d_in, "grid": [1], "d_input": 1}},
        sae=build,
        warmup_steps=100,
        dead_after_tokens=20 * batch_size,
        **training,
    )
    callbacks: list[Callback] = [ResampleDeadLatents(every_n_steps=50)] * resampling
    quiet_trainer(callbacks, max_steps=steps, enable_progress_bar=False).fit(module, datamodule=data)
    return module.eval().sae(SITE)


def quiet_trainer(callbacks: list[Callback], **arguments: Any) -> Trainer:
    """On the CPU, writing nothing."""
    silent: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", devices=1, callbacks=callbacks, **silent, **arguments)


def train_theirs(sae: Any, data: PlainTokens, steps: int, batch_size: int) -> Any:
    """sae-lens' training of one of its own SAEs, with our learning rate and schedule."""
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    config = SAETrainerConfig(
        total_training_samples=steps * batch_size,
        train_batch_size_samples=batch_size,
        lr=1e-3,
        lr_end=1e-4,
        lr_warm_up_steps=100,
        lr_decay_steps=round(0.3 * steps),
        dead_feature_window=20,
        logger=LoggingConfig(log_to_wandb=False),
    )
    SAETrainer(config, sae, iter(data.activations, None)).fit()
    return sae

"""A real fit in miniature: random PixArt weights, noised random images, two sites."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import Dataset

from tests.options import datamodule
from tide_lightning.datamodules import ActivationDataModule
from tide_lightning.saes import TideSAE
from tide_lightning.tokens import SiteShape
from tide_lightning.training import TideModule

SITES = ["transformer_blocks.0", "transformer_blocks.2"]


class Blotches(Dataset[dict[str, Any]]):
    """Random images of 16 pixels with captions that the miniature's tokenizer knows."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        draw = torch.Generator().manual_seed(index)
        coarse = torch.rand(1, 3, 4, 4, generator=draw) * 2 - 1
        image = torch.nn.functional.interpolate(coarse, size=16)[0]
        return {"image": image, "prompt": ("red ball", "blue cube", "green cone")[index % 3]}


def make_data(pretrained: Path, **changes: Any) -> ActivationDataModule:
    """The datamodule on a miniature pipeline."""
    arguments: dict[str, Any] = {
        "sites": SITES,
        "images": Blotches(),
        "samples_per_batch": 8,
        "tokens_per_sample": 8,
        "batches_per_epoch": 1000,
        "num_calibration_samples": 64,
        "trajectories": {"num_inference_steps": 4},
        "heldout": {"num_validation_samples": 8, "num_test_samples": 8},
    }
    return datamodule(str(pretrained), arguments, changes)


def make_module(data: ActivationDataModule, sae: dict[str, Any] | None = None, **changes: Any) -> TideModule:
    """The module for that data; the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        settings: dict[str, Any] = {"expansion_factor": 4, "k": 4, "modulation": "adaln"} | (sae or {})

        def build(shape: SiteShape) -> TideSAE:
            return TideSAE(shape, **settings)

        arguments: dict[str, Any] = {"warmup_steps": 4, "dead_after_tokens": 256}
        return TideModule(data.site_shapes, build, **(arguments | changes))


def make_trainer(folder: Path, max_steps: int, callbacks: list[Callback] | None = None, **changes: Any) -> Trainer:
    """A quiet trainer on one CPU process."""
    arguments: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": -1,
        "logger": TensorBoardLogger(folder, name="run", version="", default_hp_metric=False),
        "log_every_n_steps": 2,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    return Trainer(max_steps=max_steps, callbacks=callbacks, **(arguments | changes))

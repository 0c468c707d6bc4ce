"""What other libraries' own trainers make of the toybox's activations: adopted, tested, searched and steered here."""

from __future__ import annotations

import json
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import sae_lens
import torch
import yaml
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from sparsify import SaeConfig, TrainConfig, Trainer
from torch import Tensor, nn
from torch.utils.data import Dataset

from tide_lightning.cli import main
from tide_lightning.command_line import config_path
from tide_lightning.explore import open_run
from tide_lightning.explore.run import build_data

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

SITE, K, D_SAE, BATCH = "transformer_blocks.3", 16, 512, 512


@pytest.fixture(scope="module")
def activations() -> Tensor:
    """Of the debug config's data, in the order of training."""
    config = yaml.safe_load(config_path("debug").read_text())["data"]
    data = build_data({**config, "tokens_per_sample": 64, "batches_per_epoch": 24}, "debug")
    data.setup("fit")
    found = torch.cat([batch[SITE].x for batch in data.train_dataloader()])
    assert found.shape[1] == 128
    return found


def by_sae_lens(activations: Tensor, folder: Path) -> Path:
    config = sae_lens.BatchTopKTrainingSAEConfig(d_in=128, d_sae=D_SAE, k=K, normalize_activations="none")
    sae = sae_lens.BatchTopKTrainingSAE(config)
    settings = SAETrainerConfig(
        total_training_samples=200 * BATCH,
        train_batch_size_samples=BATCH,
        lr=2e-3,
        lr_end=2e-4,
        lr_warm_up_steps=20,
        lr_decay_steps=100,
        n_checkpoints=0,
        logger=LoggingConfig(log_to_wandb=False),
    )
    SAETrainer(settings, sae, cycle(activations.split(BATCH))).fit().save_inference_model(folder)
    return folder


class Stored(nn.Module):
    """A model with one layer, which gives stored activations back: its tokens are their numbers."""

    config = None

    def __init__(self, activations: Tensor) -> None:
        super().__init__()
        self.layer = nn.Embedding.from_pretrained(activations)
        self.base_model = self
        self.dummy_inputs = {"input_ids": torch.zeros(1, 1, dtype=torch.long)}
        self.device = activations.device

    def forward(self, input_ids: Tensor) -> Tensor:
        layered: Tensor = self.layer(input_ids)
        return layered


class Sequences(Dataset[dict[str, Tensor]]):
    """Numbers of activations, 64 at a time, over and over."""

    def __init__(self, num_activations: int, rounds: int) -> None:
        self.ids = torch.arange(num_activations).view(-1, 64).repeat(rounds, 1)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.ids[index]}


def by_sparsify(activations: Tensor, folder: Path) -> Path:
    config = TrainConfig(
        SaeConfig(num_latents=D_SAE, k=K),
        batch_size=BATCH // 64,
        optimizer="adam",
        lr=2e-3,
        lr_warmup_steps=20,
        hookpoints=["layer"],
        log_to_wandb=False,
        save_dir=str(folder),
        run_name="run",
    )
    model: Any = Stored(activations)
    Trainer(config, Sequences(len(activations) // 64 * 64, rounds=6), model).fit()
    return folder / "run" / "layer"


@pytest.mark.parametrize("train", [by_sae_lens, by_sparsify])
def test_trained_elsewhere(train: Any, activations: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    source = train(activations, tmp_path / "theirs")
    assert main(["adopt", str(source), f"--sites={SITE}", "--config=debug"]) == 0
    assert main(["test", "--evaluation.num_images=0", "--data.num_calibration_samples=32"]) == 0
    run = Path("runs/adopted/latest").resolve()
    figures = json.loads((run / "metrics.json").read_text())["sites"][SITE]
    assert figures["explained_variance"] > 0.6, figures
    assert abs(figures["l0"] - K) < K / 2

    assert main(["find", str(run), "red", "--top=3"]) == 0
    sae = open_run(run, "cpu").sae(SITE)
    latent = int(sae.encode(activations[:2000]).fired().argmax())
    assert main(["steer", str(run), f"--latent={SITE}/{latent}", "--steps=4", "--amount=4"]) == 0
    assert (tmp_path / "steered.png").stat().st_size > 1000

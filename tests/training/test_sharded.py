"""Two processes that each hold half of the latents train the SAEs that one process trains."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy

from tests.torchrun import run_ranks
from tests.training.fitting import SITES, make_data, make_module, make_trainer
from tide_lightning.callbacks import ExportSAEs, MonitorFeatures, ResampleDeadLatents
from tide_lightning.errors import UserError
from tide_lightning.saes import TideSAE

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",
    "ignore:Checkpoint directory .* exists and is not empty:UserWarning",
)


def fit(pretrained: str, folder: Path, callbacks: list[Callback], max_steps: int = 6, **changes: Any) -> None:
    data = make_data(Path(pretrained), num_calibration_samples=16)
    module = make_module(data, dead_after_tokens=128)
    checkpoints = ModelCheckpoint(folder, save_last=True, every_n_train_steps=2)
    trainer = make_trainer(
        folder, max_steps, [*callbacks, checkpoints], gradient_clip_val=0.1, enable_checkpointing=True, **changes
    )
    last = folder / "last.ckpt"
    trainer.fit(module, datamodule=data, ckpt_path=last if last.is_file() else None)


def run(rank: int, pretrained: str, folder: str) -> None:
    warnings.simplefilter("ignore")

    def sharded(name: str, callbacks: list[Callback], max_steps: int = 6) -> None:
        strategy = ModelParallelStrategy(2, 1, save_distributed_checkpoint=False)
        fit(pretrained, Path(folder) / name, callbacks, max_steps, strategy=strategy, devices=2)

    sharded("halves", [ExportSAEs()], 4)
    sharded("halves", [ExportSAEs()])  # resumes
    sharded("resampled", [ResampleDeadLatents(3, until_fraction=1, num_candidates=8), ExportSAEs()])
    try:
        sharded("monitored", [MonitorFeatures(2)])
    except UserError as error:
        (Path(folder) / f"error-{rank}").write_text(str(error))


@pytest.fixture
def trained(pretrained: Path, tmp_path: Path) -> Path:
    run_ranks(run, str(pretrained), str(tmp_path))
    return tmp_path


def test_halves_are_trained_as_the_whole_is(pretrained: Path, trained: Path) -> None:
    fit(str(pretrained), trained / "whole", [ExportSAEs()], 4)
    fit(str(pretrained), trained / "whole", [ExportSAEs()])
    for site in SITES:
        whole, halves = (
            TideSAE.from_pretrained(trained / name / "run" / "saes" / site).state_dict() for name in ("whole", "halves")
        )
        assert whole.keys() == halves.keys()
        for name, tensor in whole.items():
            torch.testing.assert_close(halves[name], tensor, rtol=1e-3, atol=1e-5)
        resampled = TideSAE.from_pretrained(trained / "resampled" / "run" / "saes" / site)
        torch.testing.assert_close(resampled.W_dec.norm(dim=1), torch.ones(resampled.d_sae))
        assert not torch.equal(resampled.W_dec, halves["W_dec"])
    for rank in range(2):
        assert "leave it out" in (trained / f"error-{rank}").read_text()

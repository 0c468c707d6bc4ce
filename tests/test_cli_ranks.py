"""`tide` on two ranks, from the command line."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from tests.torchrun import run_ranks
from tide_lightning.cli import main
from tide_lightning.saes import TideSAE


def run(rank: int, folder: str) -> None:
    warnings.simplefilter("ignore")
    os.chdir(folder)
    common = ["--config=debug", "--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.log_every_n_steps=2"]
    short = ["--trainer.max_steps=4", "--checkpoint.every_n_train_steps=2", "--data.batches_per_epoch=4"]
    assert main(["fit", *common, *short, f"--data.cache.folder={folder}/cache"]) == 0
    assert main(["test", "--data.heldout.num_test_samples=16", "--evaluation.num_images=0"]) == 0


def test_two_ranks_fit_and_test_in_one_run_folder(tmp_path: Path) -> None:
    run_ranks(run, str(tmp_path))
    runs = tmp_path / "runs" / "debug"
    latest = (runs / "latest").resolve()
    assert sorted(path.name for path in runs.iterdir()) == sorted(["latest", latest.name])
    assert (latest / "checkpoints" / "last.ckpt").is_file()
    assert (latest / "metrics.json").is_file()
    assert TideSAE.from_pretrained(latest / "saes" / "transformer_blocks.3").d_in == 128

"""Figures, pictures and histograms in loggers other than TensorBoard; Weights & Biases and MLflow in tests/peers."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tide_lightning.cli import main

SHORT = ["--trainer.max_steps=2", "--trainer.log_every_n_steps=1", "--data.batches_per_epoch=2"]
MONITOR = [
    "--trainer.callbacks=[{class_path: MonitorFeatures, init_args: "
    "{every_n_steps: 2, num_tokens: 64, num_samples: 8, num_images: 2, num_inference_steps: 2}}]"
]


def test_csv_files_get_the_figures_and_the_run_folder_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config=debug", "--config=loggers", *SHORT, *MONITOR]) == 0
    (path,) = (tmp_path / "logs" / "tide").rglob("metrics.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    for name in ("train/loss", "train/transformer_blocks.3/l0", "monitor/transformer_blocks.3/loss_increase"):
        assert [float(row[name]) for row in rows if row[name]], name
    run = tmp_path / "runs" / "debug" / "latest"
    assert (run / "config.yaml").is_file()
    assert list(run.glob("events.out.tfevents.*"))
    assert (run / "checkpoints" / "last.ckpt").is_file()
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("MonitorFeatures")]
    assert "MonitorFeatures: CSVLogger shows no pictures and histograms" in said

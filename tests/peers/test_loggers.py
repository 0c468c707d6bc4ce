"""Weights & Biases and MLflow by Lightning's own loggers: what their libraries have of figures and pictures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger

from tests.diffusion.miniature import save_miniature
from tests.training.fitting import SITES, make_data, make_module, make_trainer
from tide_lightning.callbacks import MonitorFeatures

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

SMALL: dict[str, Any] = {"num_tokens": 64, "num_samples": 8, "num_images": 2, "num_inference_steps": 2}
PICTURES = {"over_timestep/explained_variance", "over_timestep/loss_increase", "samples/original_and_spliced"}
PICTURES |= {f"feature_time/{site}" for site in SITES}


def fit(folder: Path, logger: Logger) -> None:
    pretrained = save_miniature(folder / "pipeline")
    make_trainer(folder, 2, [MonitorFeatures(2, **SMALL)], logger=[logger]).fit(
        make_module(data := make_data(pretrained)), datamodule=data
    )


def test_weights_and_biases_show_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(project="tide", save_dir=tmp_path, offline=True)
    fit(tmp_path, logger)
    summary = dict(logger.experiment.summary)
    files = Path(logger.experiment.dir)
    wandb.finish()
    assert {name for name, value in summary.items() if "images" in str(getattr(value, "_type", value))} >= PICTURES
    assert len(list(files.rglob("*.png"))) == len(PICTURES)
    for site in SITES:
        assert {"_type", "values"} <= set(dict(summary[f"firing_rate_log10/{site}"]))
        assert math.isfinite(summary[f"monitor/{site}/loss_increase"])
        assert summary[f"train/{site}/l0"] > 0


def test_mlflow_shows_pictures_and_says_that_histograms_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # databases are what mlflow-skinny leaves out
    from mlflow.tracking import MlflowClient

    logger = MLFlowLogger("tide", tracking_uri=(tmp_path / "mlruns").as_uri())
    fit(tmp_path, logger)
    client = MlflowClient((tmp_path / "mlruns").as_uri())
    metrics = client.get_run(logger.run_id).data.metrics
    for site in SITES:
        assert math.isfinite(metrics[f"monitor/{site}/loss_increase"])
        assert metrics[f"train/{site}/l0"] > 0
    stored = json.dumps([path.name for path in (tmp_path / "mlruns").rglob("*.png")])
    for name in PICTURES:
        assert name.replace("/", "~") in stored, name
    assert "MonitorFeatures: MLFlowLogger shows no histograms" in caplog.text

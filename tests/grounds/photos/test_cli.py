"""`tide` on photographs: synthetic ones, a denoiser that knows nothing, the repository's judges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.explore.conftest import write_run
from tide_lightning.cli import main
from tide_lightning.errors import UserError
from tide_lightning.explore import open_run
from tide_lightning.explore.aim import aim_at
from tide_lightning.grounds.photos import FACTORS, PhotoGround
from tide_lightning.intervene.recording import walk_prompts, watch


def test_a_fit_and_a_test_with_the_benchmark(
    mosaics: Path, small_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        PhotoGround().judges("cpu")
    except UserError as error:
        pytest.skip(str(error))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIDE_PHOTOS", str(mosaics))
    benchmark = {
        "ground": {
            "class_path": "tide_lightning.grounds.photos.PhotoGround",
            "init_args": {"source": str(mosaics), "pretrained": str(small_dit)},
        },
        "num_train_images": 64,
        "num_test_images": 32,
        "num_bins": 1,
        "steer": ["class:cat", "border_hue:blue"],
        "num_steer_train_prompts": 1,
        "num_steer_prompts": 2,
        "strengths": [1.0],
        "num_inference_steps": 2,
    }
    small = {
        "data": {
            "pretrained": str(small_dit),
            "sites": ["transformer_blocks.0"],
            "batches_per_epoch": 3,
            "samples_per_batch": 4,
            "num_calibration_samples": 32,
            "heldout": {"num_validation_samples": 4, "num_test_samples": 32},
        },
        "trainer": {
            "max_steps": 3,
            "log_every_n_steps": 1,
            "callbacks": [{"class_path": "tide_lightning.benchmark.GroundBenchmark", "init_args": benchmark}],
        },
        "evaluation": {"num_images": 2},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))

    assert main(["fit", "--config=photos", "--config=small.yaml"]) == 0
    assert main(["test"]) == 0

    latest = tmp_path / "runs" / "photos" / "latest"
    found = json.loads((latest / "metrics.json").read_text())["photos"]
    (meaning,) = found["meaning"].values()
    told = {factor for part in meaning["by_timestep"] for factor in part["factors"]}
    assert {"border_hue", "middle_hue"} <= told <= set(FACTORS)  # of others some value is too rare among so few
    assert {factor: set(values) for factor, values in found["steering"]["targets"].items()} == {
        "class": {"cat"},
        "border_hue": {"blue"},
    }
    assert (latest / "report" / "index.html").is_file()


def test_without_photographs_one_line_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("TIDE_PHOTOS", raising=False)
    assert main(["fit", "--config=photos", "--trainer.max_steps=1", "--evaluation.features=null"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tide: error:")]
    assert "no photographs in ../shared/cifar10: name a folder that holds train/ and test/" in line


def test_a_denoiser_of_classes_is_steered_though_it_can_be_told_no_word(small_dit: Path, tmp_path: Path) -> None:
    site, family = "transformer_blocks.1", "tide_lightning.grounds.photos.PhotoDiT"
    run = open_run(write_run(tmp_path / "run", [site], str(small_dit), family=family, prompts=["cat"]), device="cpu")
    noise = run.denoiser.noise(0, "sample", numbers=[0])
    settings: dict[str, Any] = {"initial_noise": noise, "num_inference_steps": 2}
    before = watch(run.denoiser, run.saes, walk_prompts(["cat"], **settings))
    aim = aim_at(run, (site, 3), "cat", "green", before, settings)
    assert aim.word == ""
    with pytest.raises(UserError, match="no class"):
        aim_at(run, (site, 3), "green", "green", before, settings)

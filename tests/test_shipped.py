"""The SAEs that come with the package: small, found by name before anything is trained, and good."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tide_lightning.cli import main
from tide_lightning.explore.run import open_run
from tide_lightning.runs import find_run, shipped_runs, to_write_in

SITES = ["transformer_blocks.1", "transformer_blocks.3", "transformer_blocks.7"]


def test_they_take_less_than_five_megabytes() -> None:
    files = [path for path in shipped_runs()["quickstart"].rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 5e6


def test_a_run_of_that_name_is_opened_where_none_was_trained(tmp_path: Path) -> None:
    run = open_run("quickstart", "cpu", tmp_path)
    assert list(run.saes) == SITES
    assert all(p.dtype == torch.float32 for sae in run.saes.values() for p in sae.parameters())
    own = tmp_path / "quickstart" / "latest"
    own.mkdir(parents=True)
    (own / "config.yaml").write_text("run_name: quickstart\n")
    assert find_run(Path("quickstart"), tmp_path) == own.resolve(), "a run of the user's own comes first"


def test_they_reconstruct_held_out_tokens(tmp_path: Path) -> None:
    run = open_run("quickstart", "cpu", tmp_path)
    run.data.heldout = replace(run.data.heldout, num_validation_samples=32)
    for site, tokens in next(iter(run.data.val_dataloader())).items():
        x_hat = run.saes[site](tokens).x_hat
        mean = tokens.x.mean(0)
        fvu = (tokens.x - x_hat).square().sum() / (tokens.x - mean).square().sum()
        assert fvu < 0.06, site


def test_nothing_is_written_into_the_package(tmp_path: Path) -> None:
    shipped = shipped_runs()["quickstart"]
    copy = to_write_in(shipped, tmp_path)
    assert copy.is_relative_to(tmp_path)
    assert (copy / "config.yaml").read_text() == (shipped / "config.yaml").read_text()
    assert (copy / "saes").is_dir()
    assert to_write_in(tmp_path, tmp_path) == tmp_path


def test_they_are_compared_once_they_are_tested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare = ["compare", "quickstart", f"--root={tmp_path}"]
    assert main(compare) == 2
    assert "not tested yet; do it with `tide test --run quickstart`" in capsys.readouterr().err
    copy = to_write_in(shipped_runs()["quickstart"], tmp_path)
    measured = {SITES[0]: {"tokens": 64, "explained_variance": 0.9, "by_timestep": []}}
    (copy / "metrics.json").write_text(json.dumps({"schema": 1, "sites": measured}))
    assert main(compare) == 0
    assert "0.9000" in capsys.readouterr().out


def test_words_find_latents_before_anything_is_trained(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tide_lightning", "find", "quickstart", "red", "--top", "3", "--device", "cpu"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "transformer_blocks." in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_neither_says_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["find", str(tmp_path / "nothing"), "red"]) == 2
    assert "comes with the package: quickstart" in capsys.readouterr().err

"""`tide sites` and `tide plan` as a user meets them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tide_lightning.cli import main
from tide_lightning.diffusion.pretrained import package_path

TOYBOX = "package:tide_lightning.grounds.toybox/pipeline"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def without_weights(work: Path) -> Path:
    """The toybox's pipeline, of which only the descriptions are there."""
    for path in package_path(TOYBOX).rglob("*.json"):
        copy = work / "pipeline" / path.relative_to(package_path(TOYBOX))
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    return work / "pipeline"


def test_sites_and_plan_need_no_weights(work: Path, without_weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sites", "--config", "debug", f"--data.pretrained={without_weights}"]) == 0
    assert "transformer_blocks.3" in (said := capsys.readouterr().out)
    assert "8 x 8" in said
    for more in ([], ["--trainer.accelerator=gpu", "--trainer.devices=8", "--trainer.strategy=ddp"]):
        assert main(["plan", "--config", "debug", f"--data.pretrained={without_weights}", *more]) == 0
        said = capsys.readouterr().out
        assert "memory of a rank (DDP)" in said
        assert f"A step: 16 samples on {'8 ranks' if more else '1 rank'}, 256 tokens kept a site" in said
        assert "H100 SXM" in said
        config = json.loads((without_weights / "transformer" / "config.json").read_text())
        assert config["num_layers"] > 0
    assert [path.name for path in work.iterdir()] == ["pipeline"]


def test_sites_are_measured(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sites", "--measure", "--config", "debug"]) == 0
    row = capsys.readouterr().out.splitlines()
    [figures] = [line.split() for line in row if "transformer_blocks.3" in line and "x" not in line]
    tokens, scale, mean, mean_t, position, token = (float(word.replace(",", "")) for word in figures[1:])
    assert tokens == 16 * 16
    assert scale > 0
    assert mean > 0
    assert 0 < mean_t < position < token < 1
    assert list(work.iterdir()) == []


def test_a_sharded_plan(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", "debug", "--config", "sharded", "--machines=[L4]", "--ranks=8"]) == 0
    said = capsys.readouterr().out
    assert "memory of a rank (sharded)" in said
    assert "one SAE, gathered" in said


def test_this_machine_is_measured(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", "debug", "--here", "--machines=[L4]"]) == 0
    said = capsys.readouterr().out
    assert "this machine" in said
    assert "A100" not in said


def test_mistakes_are_told_in_one_line(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for args, expected in (
        (["plan", "--config=debug", "--machines=[H1000]"], "there is no 'H1000'"),
        (["plan", "--config=debug", "--ranks=0"], "ranks must be at least 1"),
        (["sites", "--config=debug", "--data.sites=[transformer_blocs.1]"], "near matches"),
        (["sites"], "needs a config"),
    ):
        assert main(args) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("tide: error:")
        assert expected in line

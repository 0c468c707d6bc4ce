"""`tide adopt`: other people's SAEs as a run, and what is done with a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from tests.saes.exchange.test_places import hub, publish  # noqa: F401 - a fixture
from tests.saes.exchange.test_research_code import write_saeuron
from tide_lightning.cli import main
from tide_lightning.explore import open_run
from tide_lightning.saes import SAE

QUICK = ["--evaluation.num_images=0", "--data.num_calibration_samples=16"]
BLOCKS = ["transformer_blocks.3", "transformer_blocks.7"]


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two SAEs in sub-folders of one folder, of the toybox's width."""
    monkeypatch.chdir(tmp_path)
    write_saeuron(tmp_path / "theirs" / "early", d_in=128)
    write_saeuron(tmp_path / "theirs" / BLOCKS[1], d_in=128)
    return tmp_path / "theirs"


def complaint(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    capsys.readouterr()
    assert main(list(args)) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("tide: error:"))
    return line


def test_an_adopted_run_is_tested_steered_and_searched(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sites = f"--sites={BLOCKS[0]}=early,{BLOCKS[1]}"
    data = ["--data.heldout.num_test_samples=16", "--data.heldout.num_validation_samples=8", "--data.seed=3"]
    assert main(["adopt", str(theirs), sites, "--config=debug", *data]) == 0
    told = capsys.readouterr().out
    assert "transformer_blocks.3: TideSAE, 60 latents of 128 channels" in told
    run = (Path("runs") / "adopted" / "latest").resolve()
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["data"]["sites"], config["data"]["seed"]) == (BLOCKS, 3)
    heldout = config["data"]["heldout"]
    assert (heldout["num_test_samples"], heldout["num_validation_samples"]) == (16, 8)
    assert heldout["images"]["init_args"]["split"] == "test"
    assert "model" not in config
    opened = open_run(run, "cpu")
    assert list(opened.saes) == BLOCKS
    x = torch.randn(9, 128)
    original = SAE.from_pretrained(theirs / "early")
    assert torch.equal(opened.saes[BLOCKS[0]].encode(x).to_dense(), original.encode(x).to_dense())

    assert main(["test", *QUICK]) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics["sites"]) == set(BLOCKS)
    assert metrics["sites"][BLOCKS[0]]["tokens"] == 16 * 64
    assert main(["steer", str(run), f"--latent={BLOCKS[0]}/7", "--steps=2", "--amount=3"]) == 0
    assert Path("steered.png").is_file()


def test_training_goes_on_from_adopted_saes(theirs: Path) -> None:
    assert main(["adopt", str(theirs / "early"), f"--sites={BLOCKS[0]}", "--config=debug", "--run_name=one"]) == 0
    start = Path("runs") / "one" / "latest" / "saes"
    steps = ["--trainer.max_steps=2", "--checkpoint.every_n_train_steps=2", f"--model.pretrained={start}"]
    assert main(["fit", "--config=debug", *steps]) == 0
    fitted = SAE.from_pretrained("runs/debug/latest", site=BLOCKS[0])
    before = SAE.from_pretrained(start, site=BLOCKS[0])
    moved = (fitted.W_enc - before.W_enc).norm() / before.W_enc.norm()
    assert 0 < moved < 0.05


def test_a_run_by_its_hub_id(theirs: Path, hub: Path) -> None:  # noqa: F811
    """Found in the hub's cache; what is made of it stays out of there."""
    assert main(["adopt", str(theirs / "early"), f"--sites={BLOCKS[0]}", "--config=debug"]) == 0
    publish((Path("runs") / "adopted" / "latest").resolve(), hub, "someone/a-run")
    shutil.rmtree("runs")
    before = sorted(hub.rglob("*"))
    assert main(["test", "--run=someone/a-run", "--data.heldout.num_test_samples=8", *QUICK]) == 0
    assert json.loads(next(Path("runs").glob("someone--a-run/*/metrics.json")).read_text())["sites"].keys() == {
        BLOCKS[0]
    }
    assert list(open_run("someone/a-run", "cpu").saes) == [BLOCKS[0]]
    assert sorted(hub.rglob("*")) == before


def test_what_cannot_be_adopted_is_told(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(theirs)
    assert "--sites is missing" in complaint(capsys, "adopt", source, "--config=debug")
    one = f"--sites={BLOCKS[0]}"
    assert "--data.pretrained is missing" in complaint(capsys, "adopt", source, one)
    assert "choose a site: early" in complaint(capsys, "adopt", source, f"{one}=late", "--config=debug")
    assert "no SAE of transformer_blocks.3 there" in complaint(capsys, "adopt", source, one, "--config=debug")
    assert "name single sites" in complaint(
        capsys, "adopt", source, "--sites=transformer_blocks.*=early", "--config=debug"
    )
    assert "no_such_option" in complaint(
        capsys, "adopt", source, f"{one}=early", "--config=debug", "--data.no_such_option=3"
    )
    write_saeuron(theirs / "narrow", d_in=24)
    assert "has 128 channels, but the SAE of narrow reads 24" in complaint(
        capsys, "adopt", source, f"{one}=narrow", "--config=debug"
    )
    assert not Path("runs").exists()

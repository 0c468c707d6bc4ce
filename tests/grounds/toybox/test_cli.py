"""The command line of the training, end to end on almost nothing."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tools import command
from tools.toybox.train import Training


def run(*arguments: str) -> None:
    command.run(Training, ["--precision", "32-true", "--accelerator", "cpu", *arguments])


def test_every_part_from_nothing_to_an_exported_pipeline(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "run"), "--num_scenes", "80"]
    run(*out, "vae", "--num_steps", "2", "--batch_size", "2")
    run(*out, "text", "--num_steps", "2")
    run(*out, "transformer", "--num_steps", "2", "--batch_size", "2", "--num_layers", "1")
    run(*out, "oracles", "--num_steps", "1", "--num_scenes", "8", "--num_rough", "4")
    run(*out, "export", "--folder", str(tmp_path / "package"))
    package = tmp_path / "package"
    assert (package / "pipeline" / "model_index.json").exists()
    assert len((package / "prompts" / "test.txt").read_text().splitlines()) == 512
    for name in "ab":
        path = package / "oracles" / f"{name}.safetensors"
        assert path.stat().st_size < 1.5e6
        assert all(value.dtype == torch.float16 for value in load_file(path).values())
    assert list((tmp_path / "run" / "transformer").glob("events.out.tfevents.*"))


def test_what_is_missing_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run("--out", str(tmp_path), "transformer", "--num_steps", "1")
    assert stopped.value.code == 2
    assert capsys.readouterr().err.strip().endswith("train this part first")

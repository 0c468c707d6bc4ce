"""What a fit leaves, and what it says last: at its end, and after Ctrl-C."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tide_lightning.cli import main

TINY = ["--config=debug", "--trainer.log_every_n_steps=1", "--data.batches_per_epoch=6", "--model.decay_fraction=0"]
PRESS = """
import os, signal
from lightning import Callback

class Press(Callback):
    def __init__(self, step: int, times: int = 1) -> None:
        self.step, self.times = step, times

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.step:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("press.py").write_text(PRESS)
    for name, times in (("once", 1), ("twice", 2)):
        press = {"class_path": "press.Press", "init_args": {"step": 3, "times": times}}
        Path(f"{name}.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [press]}}))
    return tmp_path


def weights(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return state


def step_of(checkpoint: Path) -> int:
    return int(torch.load(checkpoint, weights_only=True)["global_step"])


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.splitlines()[-1]


def test_ctrl_c_leaves_a_checkpoint_that_goes_on_as_if_nothing_had_been(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = signal.getsignal(signal.SIGINT)
    assert main(["fit", *TINY, "--config=once.yaml", "--run_name=parts", "--trainer.max_steps=5"]) == 130
    assert signal.getsignal(signal.SIGINT) is told
    said = last_line(capsys)
    parts = work / "runs" / "parts" / "latest"
    assert f"stopped at step 3: runs/parts/{parts.resolve().name} holds its SAEs (saes) and a checkpoint" in said
    assert step_of(parts / "checkpoints" / "last.ckpt") == 3
    assert (parts / "saes" / "transformer_blocks.3" / "cfg.json").is_file()

    command = shlex.split(said.partition("Go on: ")[2])
    assert command[:2] == ["tide", "fit"]
    assert main([*command[1:], "--trainer.callbacks=null"]) == 0
    said = last_line(capsys)
    assert "done at step 5: runs/parts/" in said
    assert f"Next: tide test --run runs/parts/{parts.resolve().name}" in said

    assert main(["fit", *TINY, "--trainer.callbacks=null", "--run_name=whole", "--trainer.max_steps=5"]) == 0
    whole = weights(work / "runs" / "whole" / "latest")
    for name, tensor in weights(parts).items():
        assert torch.equal(tensor, whole[name]), name


def test_a_second_ctrl_c_stops_at_once(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *TINY, "--config=twice.yaml", "--trainer.max_steps=5"]) == 130
    assert "stopped at step 3: no checkpoint was written" in last_line(capsys)
    assert (work / "runs" / "debug" / "latest" / "saes" / "transformer_blocks.3" / "cfg.json").is_file()


def test_a_fit_that_ends_between_two_checkpoints_keeps_its_end(work: Path) -> None:
    assert main(["fit", *TINY, "--trainer.max_steps=3", "--checkpoint.every_n_train_steps=2"]) == 0
    run = work / "runs" / "debug" / "latest"
    assert step_of(run / "checkpoints" / "last.ckpt") == 3
    scalars = EventAccumulator(str(run)).Reload().Tags()["scalars"]
    assert "train/loss" in scalars
    assert "epoch" not in scalars


def test_a_fit_that_gets_nowhere_says_what_may_be_wrong(work: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(["fit", *TINY, "--trainer.max_steps=6", "--model.warmup_steps=1", "--model.lr=100"]) == 0
    [doubt] = [record.getMessage() for record in caplog.records if "after warm-up" in record.getMessage()]
    assert "transformer_blocks.3" in doubt
    assert "lower model.lr" in doubt


def test_a_short_fit_is_not_calibrated_for_long_nor_on_a_tiny_scale(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = "--data.num_calibration_samples=16"
    assert main(["fit", *TINY, few, "--trainer.max_steps=4", "--model.sae.init_args.scale_by_timestep=true"]) == 0
    losses = EventAccumulator(str(work / "runs" / "debug" / "latest")).Reload().Scalars("train/loss")
    assert max(event.value for event in losses) < 100

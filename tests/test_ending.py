"""Ranks that end together: asked to stop, killed, or started with other settings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.torchrun import run_ranks
from tide_lightning.cli import main
from tide_lightning.stopping import EXIT_CODE, Stopped, stoppable
from tide_lightning.training.checkpoints import what_is_wrong

FIT = ["fit", "--config=debug", "--checkpoint.every_n_train_steps=1", "--trainer.limit_val_batches=0"]
SMALL = ["--data.num_calibration_samples=16", "--data.samples_per_batch=4"]
RANKS = ["--trainer.devices=2", "--trainer.strategy=ddp"]


@contextmanager
def endless_fit(folder: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], list[int], Path]]:
    """A fit that has come to its first checkpoint, the processes that it has started, and that checkpoint."""
    command = [sys.executable, "-m", "tide_lightning", *FIT, *SMALL, "--trainer.max_steps=1000000", *more]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=folder, text=True, **pipes) as fit:  # type: ignore[call-overload]
        try:
            checkpoint = folder / "runs" / "debug" / "latest" / "checkpoints" / "last.ckpt"
            while not checkpoint.exists() and fit.poll() is None:
                time.sleep(0.05)
            children = Path(f"/proc/{fit.pid}/task/{fit.pid}/children").read_text().split()
            yield fit, [int(child) for child in children], checkpoint
        finally:
            fit.kill()


def said(fit: subprocess.Popen[str]) -> list[str]:
    return [line for line in fit.communicate(timeout=300)[1].splitlines() if line.startswith("tide:")]


@pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")
def test_when_one_rank_is_asked_to_stop_all_stop_behind_a_step(tmp_path: Path) -> None:
    with endless_fit(tmp_path, *RANKS) as (fit, children, checkpoint):
        os.kill(children[0], signal.SIGTERM)
        lines = said(fit)
    assert fit.returncode == EXIT_CODE
    assert len(lines) == 1
    assert lines[0].startswith("tide: stopped by SIGTERM behind step ")
    assert lines[0].endswith("go on from " + str(checkpoint.resolve()) + " with --ckpt_path last")
    assert what_is_wrong(checkpoint) is None


@pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")
def test_a_rank_that_is_killed_ends_the_others_by_name(tmp_path: Path) -> None:
    with endless_fit(tmp_path, *RANKS) as (fit, children, checkpoint):
        os.kill(children[0], signal.SIGKILL)
        assert said(fit) == ["tide: error: rank 1 ended: killed by signal 9"]
    assert fit.returncode == 2
    assert what_is_wrong(checkpoint) is None


def fit_with_other_settings(rank: int, folder: str) -> None:
    os.chdir(folder)
    with (Path(folder) / f"{rank}.err").open("w") as errors:
        os.dup2(errors.fileno(), 2)
        k = f"--model.sae.init_args.k={4 + rank}"
        assert main([*FIT, *SMALL, *RANKS, "--trainer.max_steps=2", k]) == 2


def test_ranks_with_different_settings_do_not_start(tmp_path: Path) -> None:
    run_ranks(fit_with_other_settings, str(tmp_path))
    for rank in range(2):
        lines = (tmp_path / f"{rank}.err").read_text().splitlines()
        assert [line for line in lines if line.startswith("tide:")] == [
            "tide: error: ranks were started with different settings: model.sae.init_args.k is 4 on rank 0 and 5 on "
            "rank 1; start all of them with the same command and files"
        ]
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_fit_of_one_process_stops_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with endless_fit(tmp_path) as (fit, _, checkpoint):
        fit.terminate()
        lines = said(fit)
    assert fit.returncode == EXIT_CODE
    step = int(lines[0].split("behind step ")[1].split(";")[0])
    monkeypatch.chdir(tmp_path)
    assert main([*FIT, *SMALL, f"--trainer.max_steps={step + 1}", "--ckpt_path=last"]) == 0
    assert torch.load(checkpoint, weights_only=True)["global_step"] == step + 1


def test_outside_of_a_fit_it_stops_at_once() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stoppable(), pytest.raises(Stopped):
        os.kill(os.getpid(), signal.SIGTERM)
    with stoppable() as stop:
        stop.waits = True
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
    assert signal.getsignal(signal.SIGTERM) == before

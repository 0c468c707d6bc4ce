"""TensorBoard shows each run once."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from torch.utils.tensorboard import SummaryWriter

from tide_lightning.board import link_runs
from tide_lightning.cli import main
from tide_lightning.runs import point_latest


def runs_of(folder: Path) -> set[str]:
    return set(EventMultiplexer().AddRunsFromDirectory(str(folder)).Runs())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for stamp in ("20260101-120000", "20260101-130000"):
        run = tmp_path / "runs" / "debug" / stamp
        with SummaryWriter(str(run)) as writer:
            writer.add_scalar("train/loss", 1.0, 0)
        point_latest(run)
    return tmp_path / "runs"


def test_each_run_once_also_when_one_is_added(root: Path, tmp_path: Path) -> None:
    assert len(runs_of(root)) == 3, "TensorBoard follows no links any more: `tide tensorboard` is not needed"
    links = tmp_path / "links"
    link_runs(root, links)
    assert runs_of(links) == {"debug/20260101-120000", "debug/20260101-130000"}
    with SummaryWriter(str(root / "other" / "20260102-120000")) as writer:
        writer.add_scalar("train/loss", 1.0, 0)
    link_runs(root, links)
    assert runs_of(links) == {"debug/20260101-120000", "debug/20260101-130000", "other/20260102-120000"}


def test_the_command_serves_until_it_is_interrupted(root: Path) -> None:
    command = [sys.executable, "-m", "tide_lightning", "tensorboard", f"--runs={root}", "--port=0"]
    settings: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    # Where tests run in the background, Ctrl-C is ignored, and so by their children.
    with subprocess.Popen(
        command, **settings, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    ) as board:
        assert board.stdout is not None
        try:
            url = board.stdout.readline().split(": ")[1].split()[0]
            with urllib.request.urlopen(f"{url}data/environment") as answer:
                assert answer.status == 200
        finally:
            board.send_signal(signal.SIGINT)
        assert board.wait(120) == 130


def test_no_runs_are_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tensorboard", f"--runs={tmp_path / 'nowhere'}"]) == 2
    assert "no such folder; make a run" in capsys.readouterr().err


def test_a_port_that_is_taken_is_told_in_one_line(root: Path) -> None:
    with socket.create_server(("localhost", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "tide_lightning", "tensorboard", f"--runs={root}", f"--port={port}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"tide: error: --port {port}: TensorBoard could not bind" in done.stderr
    assert "Traceback" not in done.stderr

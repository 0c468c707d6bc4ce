"""Progress in a terminal and in a log file."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
from rich.console import Console

from tests.training.fitting import make_data, make_module, make_trainer
from tide_lightning.callbacks import ShowProgress

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",  # Lightning's own, with torch 2.13
)


def test_a_log_file_gets_whole_lines(pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_data(pretrained)
    changes = {"enable_progress_bar": True, "limit_val_batches": 1, "val_check_interval": 4}
    trainer = make_trainer(tmp_path, 6, [ShowProgress(every_seconds=0)], **changes)
    trainer.fit(make_module(data), datamodule=data)
    trainer.predict(make_module(data), datamodule=data, return_predictions=False)
    lines = capsys.readouterr().out.splitlines()
    fit = [line for line in lines if line.startswith("fit")]
    assert [line.split()[2] for line in fit] == [f"{step}/6" for step in (1, 2, 3, 4, 5, 6, 6)]
    for part in ("tokens/s", "loss ", "EV ", "dead ", "0:00 left"):
        assert part in fit[-1]
    assert any(line.startswith("validate  step 4  explained variance 0.") for line in lines)
    assert any(line.startswith("predict  batch 1/1 (100%)") for line in lines)
    assert not any("\r" in line or "\x1b" in line for line in lines)


def test_between_two_lines_there_is_time(pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_data(pretrained)
    trainer = make_trainer(tmp_path, 6, [ShowProgress(every_seconds=1000)], enable_progress_bar=True)
    trainer.fit(make_module(data), datamodule=data)
    assert [line.split()[2] for line in capsys.readouterr().out.splitlines() if line.startswith("fit")] == ["6/6"]


def test_a_terminal_gets_one_live_line(pretrained: Path, tmp_path: Path) -> None:
    data, progress = make_data(pretrained), ShowProgress()
    with (tmp_path / "terminal").open("w") as terminal:
        progress._console = Console(file=terminal, force_terminal=True, width=120)
        trainer = make_trainer(tmp_path, 6, [progress], enable_progress_bar=True)
        trainer.fit(make_module(data), datamodule=data)
    shown = (tmp_path / "terminal").read_text()
    assert "6/6" in shown
    assert "tokens/s" in shown
    assert shown.endswith("\x1b[?25h")  # the cursor is back


def test_a_disabled_one_is_silent(pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, progress = make_data(pretrained), ShowProgress(every_seconds=0)
    progress.disable()
    make_trainer(tmp_path, 2, [progress], enable_progress_bar=True).fit(make_module(data), datamodule=data)
    assert "fit" not in capsys.readouterr().out


def test_travels_to_spawned_processes() -> None:
    progress = ShowProgress(3.0)
    for twin in (copy.deepcopy(progress), pickle.loads(pickle.dumps(progress))):
        assert twin.every_seconds == 3.0
        assert isinstance(twin._console, Console)

"""Where a command cannot write in the end, it says so before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from tide_lightning.cli import main

PICTURE = {
    "steer": ["--find", "red"],
    "style": ["--prompt", "a cube", "--style", "a ball"],
    "erase": [
        *("--suppress", "prompts.txt", "--keep", "prompts.txt"),
        *("--judge", "tide_lightning.grounds.toybox.judge.ToyboxJudge", "--judge_of", "colour:red"),
    ],
}
FOLDER = {
    "atlas": ["quickstart", "--out"],
    "compare": ["quickstart", "--out"],
    "export": ["quickstart"],
    "publish": ["quickstart", "user/name", "--license", "mit", "--out"],
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("folder.png").mkdir()
    Path("prompts.txt").write_text("a cube\na ball\n")


def told(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(list(args)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


@pytest.mark.parametrize("command", PICTURE)
def test_a_picture(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    args = command, "quickstart", *PICTURE[command], "--out"
    assert "file/a.png cannot be written: " in told(capsys, *args, "file/a.png")
    assert "folder.png is a folder" in told(capsys, *args, "folder.png")


@pytest.mark.parametrize("command", FOLDER)
def test_a_folder(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "file is a file: name another" in told(capsys, command, *FOLDER[command], "file")
    assert "file/a/b cannot be written: " in told(capsys, command, *FOLDER[command], "file/a/b")

"""Progress of what takes longer than a second."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time

import pytest

from tide_lightning import waiting

WORK = """
import sys, time
from tide_lightning import waiting
waiting.FIRST_SECONDS = waiting.EVERY_SECONDS = 0.05
for _ in waiting.track(range(4), "Reading tokens"):
    time.sleep(0.06)
with waiting.waiting("Loading the denoiser"):
    time.sleep(0.2)
print("done")
"""


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(waiting, "EVERY_SECONDS", 0.01)


@pytest.mark.usefixtures("soon")
def test_a_log_gets_lines_with_the_time_that_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in waiting.track(iter(range(3)), "Reading tokens", total=3):
        time.sleep(0.02)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "Reading tokens  1/3 (33%)  0:00 left",
        "Reading tokens  2/3 (67%)  0:00 left",
        "Reading tokens  3/3 (100%) in 0:00",
    ]


@pytest.mark.usefixtures("soon")
def test_steps_are_counted_whatever_they_are_called_with(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting.stepping("Drawing", 2) as step:
        for number in range(2):
            time.sleep(0.02)
            step(number, "timestep")
    assert capsys.readouterr().err.splitlines() == ["Drawing  1/2 (50%)  0:00 left", "Drawing  2/2 (100%) in 0:00"]


@pytest.mark.usefixtures("soon")
def test_what_cannot_be_counted_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting.waiting("Loading the denoiser"):
        time.sleep(0.1)
    assert capsys.readouterr().err == "Loading the denoiser …\n"


def test_what_is_done_at_once_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(waiting.track([1, 2, 3], "Reading tokens")) == [1, 2, 3]
    with waiting.waiting("Loading the denoiser"):
        pass
    assert list(waiting.track(range(2), "hidden", is_shown=False)) == [0, 1]
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_live_line_that_goes() -> None:
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", WORK],
        stdout=subprocess.PIPE,
        stderr=theirs,
        check=True,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.stdout == b"done\n"
    assert "Reading tokens" in shown
    assert "4/4" in shown
    assert "Loading the denoiser …" in shown
    assert "\x1b" in shown

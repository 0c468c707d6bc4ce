"""Commands that are not Lightning's: from a function's signature to its command line."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tide_lightning.cli import main
from tide_lightning.commands import COMMANDS, Command
from tide_lightning.errors import UserError


def count(*words: str, times: int = 1, loud: bool = False) -> None:
    """Count words.

    Args:
        *words: what is
            counted.
        times: how often.
        loud: say so loudly.
    """
    if times < 1:
        raise UserError(f"--times {times}: at least once,\nplease")
    print(f"{len(words)} words {times} times{'!' if loud else '.'}")


@pytest.fixture(autouse=True)
def register(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "count", Command("tests.test_commands:count", "Count some words."))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["a"], "1 words 1 times."),
        (["a", "b", "--times", "3"], "2 words 3 times."),
        (["--loud", "a", "b", "--times=2"], "2 words 2 times!"),
        (["a", "--loud"], "1 words 1 times!"),
    ],
)
def test_arguments_reach_the_function(args: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["count", *args]) == 0
    assert capsys.readouterr().out == said + "\n"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "words"),
        (["a", "--times=often"], "times"),
        (["a", "--quietly"], "unrecognized arguments: --quietly"),
        (["a", "--times=0"], "--times 0: at least once, please"),
    ],
)
def test_mistakes_are_told_in_one_line(args: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["count", *args]) == 2
    told = capsys.readouterr().err
    assert told.startswith("tide: error: ")
    assert told.count("\n") == 1
    assert said in told


def test_help_lists_commands_and_explains_their_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    for args, words in (
        (["--help"], ("fit", "Count some words.")),
        (["count", "--help"], ("what is counted.", "--loud")),
    ):
        with pytest.raises(SystemExit) as end:
            main(args)
        assert end.value.code == 0
        told = " ".join(capsys.readouterr().out.split())
        assert all(word in told for word in words)


def test_every_command_can_be_imported(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        with pytest.raises(SystemExit) as end:
            main([name, "--help"])
        assert end.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: tide {name}")


def test_tide_alone_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "fit,validate,test" in capsys.readouterr().err


SETS_LARGE_PAGES = """
import os, runpy, sys
import tide_lightning.cli
assert "THP_MEM_ALLOC_ENABLE" not in os.environ
sys.argv = ["tide", "--version"]
try:
    runpy.run_module("tide_lightning", run_name="__main__")
finally:
    print(os.environ["THP_MEM_ALLOC_ENABLE"])
"""


def test_the_command_asks_for_large_pages_and_the_package_does_not() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    done = subprocess.run(
        [sys.executable, "-c", SETS_LARGE_PAGES], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "1"

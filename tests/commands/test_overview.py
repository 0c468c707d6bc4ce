"""`tide` without a command: what it answers, and that it answers before anything heavy is imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import tide_lightning
from tide_lightning.cli import main

HEAVY = ("torch", "lightning", "diffusers", "transformers", "jsonargparse", "matplotlib", "huggingface_hub", "rich")

ANSWERS = f"""
import sys
from tide_lightning.cli import main
codes = [main(args) for args in (["--version"], ["--help"], ["fitt"], [], ["fit"], ["plan", "--machines=H100"])]
assert codes == [0, 0, 2, 2, 2, 2], codes
for command in ("fit", "validate", "test", "predict", "sites", "plan"):
    try:
        main([command, "--help"])
    except SystemExit as end:
        assert end.code == 0
loaded = [name for name in {HEAVY} if name in sys.modules]
assert not loaded, loaded
"""


def complaint(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(list(args)) == 2
    told = capsys.readouterr().err
    assert told.startswith("tide: error: ")
    assert told.count("\n") == 1
    return told


def test_questions_and_mistakes_are_answered_without_pytorch() -> None:
    done = subprocess.run([sys.executable, "-c", ANSWERS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_version_and_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tide {tide_lightning.__version__}\n"
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    for name in ("fit", "steer", "publish"):
        assert f"\n  {name} " in told


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "fit, validate, test"),
        (["fitt"], "did you mean fit?"),
        (["colour"], "no command 'colour'. There are fit,"),
        (["--seed=3"], "--seed=3 stands where a command belongs"),
        (["fit"], "try `tide fit --config quickstart`"),
        (["fit", "quickstart"], "did you mean `tide fit --config quickstart`?"),
        (["fit", "--config=quickstrat"], "did you mean quickstart?"),
    ],
)
def test_what_is_no_command_or_no_config(args: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in complaint(capsys, *args)


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

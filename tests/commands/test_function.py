"""Commands that are not Lightning's: from a function's signature to its command line."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pkgutil import resolve_name

import pytest

from tide_lightning.cli import main
from tide_lightning.commands import COMMANDS, Command
from tide_lightning.commands.signature import signature_of
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
    monkeypatch.setitem(COMMANDS, "count", Command("tests.commands.test_function:count", "Count some words."))


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
        (["a", "--quietly"], "--quietly: there is no such option. There are times, loud"),
        (["a", "--loud", "true", "b"], "'b' stands alone: options have names"),
        (["a", "--lod"], "did you mean --loud?"),
        (["a", "--tim=3"], "did you mean --times?"),
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
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert "fit " in told
    assert "Count some words." in told
    with pytest.raises(SystemExit) as end:
        main(["count", "--help"])
    assert end.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "what is counted." in told
    assert "--loud" in told


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_explains_itself_as_its_function_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    function, shown = resolve_name(COMMANDS[name].function), signature_of(COMMANDS[name].function)
    assert inspect.getdoc(shown) == inspect.getdoc(function)
    assert inspect.signature(shown) == inspect.signature(function, eval_str=True)
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: tide {name}")


@pytest.mark.parametrize("name", ["find", "steer", "atlas", "play", "style", "erase", "compare", "publish"])
def test_help_waits_for_nothing_that_it_does_not_need(name: str) -> None:
    asked = f"from tide_lightning.cli import main\ntry:\n    main(['{name}', '--help'])\nfinally:\n"
    asked += "    import sys; print({'lightning', 'diffusers', 'torchmetrics', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"

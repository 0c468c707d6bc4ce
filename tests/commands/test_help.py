"""`--help` of the commands that take a run's YAML."""

from __future__ import annotations

import pytest

from tide_lightning.cli import main
from tide_lightning.commands import LIGHTNING, LOOKS
from tide_lightning.commands.described import sections_of
from tide_lightning.commands.help import stored_sections
from tools.parsers import parser_of


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Help is as wide as the terminal: so the same wherever tests run."""
    monkeypatch.setenv("COLUMNS", "120")


def asked(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(list(args))
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", [*LIGHTNING, *LOOKS])
def test_help_is_short_and_in_our_words(capsys: pytest.CaptureFixture[str], command: str) -> None:
    told = asked(capsys, command, "--help")
    lines = told.splitlines()
    assert lines[0].startswith(f"usage: tide {command} ")
    assert (LIGHTNING | LOOKS)[command] in lines
    assert len(lines) < 140
    assert max(map(len, lines)) <= 130
    for word in ("--config", "d_sae", "expansion_factor", "samples_per_batch", "max_steps", "--help_all"):
        assert word in told, word
    assert "num_sanity_val_steps" not in told
    assert "linked from the datamodule" not in told
    assert told.index("Data") < told.index("SAE: ") < told.index("Trainer")


@pytest.mark.parametrize("command", [*LIGHTNING, *LOOKS])
def test_help_tells_what_the_parser_takes(command: str) -> None:
    assert stored_sections(command) == sections_of(command, parser_of(command)), "run `python -m tools.write_help`"


def test_help_all_lists_lightnings_options_too(capsys: pytest.CaptureFixture[str]) -> None:
    told = asked(capsys, "fit", "--help_all")
    for word in ("num_sanity_val_steps", "save_on_exception", "samples_per_batch"):
        assert word in told


def test_the_options_of_another_class(capsys: pytest.CaptureFixture[str]) -> None:
    assert "prefixes" in asked(capsys, "fit", "--model.sae.help", "MatryoshkaSAE")

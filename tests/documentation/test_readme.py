"""What README prints is typed as it stands: its commands one after another, its programs whole.

What a comment before a block leaves out is listed with its reason where pytest is given `-rP`.
Lines with `make` are tried without being carried out; what they make is tested elsewhere.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.documentation.readme import README, SHELLS, Block, blocks

BLOCKS = blocks(README.read_text())
COMMANDS = [block for block in BLOCKS if block.language in SHELLS]
PROGRAMS = [block for block in BLOCKS if block.language == "python"]


def environment() -> dict[str, str]:
    """That of who has activated `.venv`: `tide` is on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "TERM": "dumb"}


def test_commands_are_read_with_what_is_left_out() -> None:
    text = "one\n\n<!-- not run: needs a GPU -->\n```\ntide fit --config flux\n```\n\ntwo\n\n"
    text += "<!-- not run `tide play`: serves until it is stopped -->\n"
    text += "```bash\ntide find \\\n  quickstart red\ntide play x\n```\n"
    first, second = blocks(text)
    assert (first.left_out, first.line) == ("needs a GPU", 5)
    assert second.left_out is None
    assert second.script == "tide find quickstart red"
    [third] = blocks("<!-- not run: for another block -->\n\nprose\n\n```\ntide --version\n```\n")
    assert third.left_out is None


def test_a_block_whose_command_fails_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="exit code 2"):
        type_in(Block("", 1, "tide find quickstart\n"), tmp_path)


def test_commands_of_readme_do_what_they_say(tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(sys.prefix)  # so that it can be activated
    typed = 0
    for block in COMMANDS:
        for beginning, reason in block.without.items():
            print(f"README line {block.line}, `{beginning}` not run: {reason}")
            assert re.search(rf"^(\$ )?{re.escape(beginning)}", block.text, re.MULTILINE), (
                f"no line begins with {beginning}"
            )
        if block.left_out is not None:
            print(f"README line {block.line}, not run: {block.left_out}")
            continue
        type_in(block, tmp_path)
        typed += 1
    assert typed, "README leaves all of its commands out"


@pytest.mark.parametrize("program", PROGRAMS, ids=[f"line{block.line}" for block in PROGRAMS])
def test_programs_of_readme_run_as_printed(program: Block, tmp_path: Path) -> None:
    if program.left_out is not None:
        print(f"README line {program.line}, not run: {program.left_out}")
        compile(program.text, "README.md", "exec")
        return
    (tmp_path / "program.py").write_text(program.text)
    run([sys.executable, "program.py"], tmp_path, f"the program at line {program.line} of README")


def type_in(block: Block, folder: Path) -> None:
    """Type a block's lines into a shell; those with `make` are tried only."""
    lines = block.script.splitlines()
    make = [line for line in lines if line.startswith("make ")]
    other = [line for line in lines if not line.startswith("make ")]
    for line in make:
        run(
            ["bash", "-euo", "pipefail", "-c", "make --dry-run " + line.removeprefix("make ")],
            README.parent,
            f"`{line}`",
        )
    run(["bash", "-euo", "pipefail", "-c", "\n".join(other)], folder, f"the commands at line {block.line} of README")


def run(command: list[str], folder: Path, what: str) -> None:
    """Run, and show what was printed where it fails."""
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, f"{what}: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"

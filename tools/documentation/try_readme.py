"""README's commands one after another, as printed and timed, in a fresh clone or with the wheel outside of one.

    python -m tools.documentation.try_readme                      # a clone of HEAD; `make setup` makes its environment
    python -m tools.documentation.try_readme --wheel              # the wheel in an empty environment; no `make`
    python -m tools.documentation.try_readme --skip "make test"   # without what begins so

All lines are typed into one shell, so that an activated environment stays. What README's comments leave out is listed
with its reason. Exit code 1 where a line fails.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools.documentation.readme import README, SHELLS, Block, blocks

ONE_TRY = {"PIP_RETRIES": "0"}
"""An index that cannot be reached, beside one that can, is not asked five times more, with pauses, for each package."""


def lines_of(block: Block, skipped: tuple[str, ...]) -> list[str]:
    """What is typed of a block: its lines, or a program as a file."""
    if block.language == "python":
        return [f"python - <<'PROGRAM'\n{block.text}PROGRAM"]
    return [line for line in block.script.splitlines() if line.strip() and not line.startswith(skipped)]


def type_in(lines: list[str], folder: Path, path: str) -> list[tuple[str, float | None]]:
    """Seconds of each line; None for the one that failed, with which it ends."""
    times = folder.parent / "times"
    script = ["set -euo pipefail"]
    for line in lines:
        script += [f"echo {shlex.quote('$ ' + line.splitlines()[0])} >&2", "begun=$EPOCHREALTIME", line]
        script += [f'echo "$begun $EPOCHREALTIME" >> {shlex.quote(str(times))}']
    kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    subprocess.run(["bash", "-c", "\n".join(script)], cwd=folder, env=ONE_TRY | kept | {"PATH": path}, check=False)
    spans = [line.split() for line in times.read_text().splitlines()] if times.exists() else []
    done = [float(end) - float(begun) for begun, end in spans]
    return list(zip(lines[: len(done) + 1], [*done, None], strict=False))


def _wheel(folder: Path, pip_args: str) -> tuple[Path, str]:
    """An empty folder, and the path of an environment that has nothing but the wheel."""
    environment, outside = folder / "environment", folder / "outside"
    outside.mkdir()
    python = environment / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    subprocess.run([python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, README.parent], check=True)
    (wheel,) = folder.glob("*.whl")
    install: list[str | Path] = [python, "-m", "pip", "install", "-q", *shlex.split(pip_args), wheel]
    subprocess.run(install, env=ONE_TRY | os.environ, check=True)
    return outside, f"{python.parent}{os.pathsep}{_outside_path()}"


def _outside_path() -> str:
    """PATH without the environment that this runs in."""
    own = str(Path(sys.executable).parent)
    return os.pathsep.join(one for one in os.environ["PATH"].split(os.pathsep) if one != own)


def main() -> int:
    """Type everything, and print how long each line took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--wheel", action="store_true", help="the wheel in an empty environment outside of the checkout"
    )
    parser.add_argument("--pip_args", default="", help="of the wheel's installation, such as an index of CPU builds")
    parser.add_argument("--skip", nargs="*", default=[], help="beginnings of lines that are not typed")
    options = parser.parse_args()
    skipped = (*options.skip, *(("make ", "source ") if options.wheel else ()))
    lines: list[str] = []
    for block in blocks(README.read_text()):
        for beginning, reason in block.without.items():
            print(f"not run: {beginning} ({reason})")
        if block.left_out is not None:
            print(f"not run: the block at line {block.line} of README ({block.left_out})")
        elif block.language in SHELLS | {"python"}:
            lines += lines_of(block, skipped)
    with tempfile.TemporaryDirectory() as temporary:
        folder, begun = Path(temporary), time.perf_counter()
        if options.wheel:
            where, path = _wheel(folder, options.pip_args)
        else:
            where, path = folder / "clone", _outside_path()
            subprocess.run(["git", "clone", "-q", README.parent, where], check=True)
        prepared = time.perf_counter() - begun
        typed = type_in(lines, where, path)
    print(f"\n| {'wheel, environment' if options.wheel else 'clone'} | {prepared:.1f} s |\n| --- | --- |")
    for line, seconds in typed:
        print(f"| `{line.splitlines()[0]}` | {'FAILED' if seconds is None else f'{seconds:.1f} s'} |")
    return int(any(seconds is None for _, seconds in typed))


if __name__ == "__main__":
    sys.exit(main())

"""Everything worth knowing of this engine from one call on a machine with a GPU and PyTorch.

    python -m benchmarks.gpu_check [--minutes 6] [--out FOLDER] [--device cpu]

It runs from a checkout; nothing of ours need be installed. Lightning, diffusers, jsonargparse and other libraries' SAEs
are used where they can be imported (as wheels on PYTHONPATH, too), and what lacks them is said. Each section is a
process of its own with its share of the time: none can take the others down. Afterwards FOLDER has gpu_check.md, one
page, and gpu_check.json: figure, goal, reached or not, what could not be run and why. With `--device cpu` sizes are
small.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.gpu_check import page
from benchmarks.gpu_check.section import Figure

ROOT = Path(__file__).parents[2]
SECTIONS = {
    "correctness": 5,
    "fits": 9,
    "repeats": 4,
    "quickstart": 3,
    "steps": 4,
    "floors": 2,
    "harvests": 4,
    "ranks": 2,
}
"""Most valuable first, with their shares of the time."""
LEAST_SECONDS = 2.0
GRACE = 0.03
"""The share of all time that a section may take beyond its own to come to an end."""


class Started(NamedTuple):
    """A section's process, waiting for the word."""

    name: str
    process: subprocess.Popen[str]
    figures: Path
    log: Path


def main() -> int:
    """Run the sections, each as long as it may; write the page after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=6.0, help="that all may take (6)")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu_check"), help="where page and JSON go")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="only these")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("gpu_check: PyTorch sees no GPU; `--device cpu` checks the same at small sizes", file=sys.stderr)
        return 2
    began = time.monotonic()
    end = began + 60 * args.minutes
    out = args.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    about, figures = page.machine(device), list[Figure]()
    print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    names = [name for name in SECTIONS if name in args.sections]
    with _starting(names, args.device, out) as sections:
        for place, section in enumerate(sections):
            _await(section, end)
            left = end - time.monotonic()
            seconds = left * SECTIONS[section.name] / sum(SECTIONS[name] for name in names[place:])
            figures += _run(section, seconds, 60 * GRACE * args.minutes)
            path = page.write(out, about, (time.monotonic() - began) / 60, figures)
    print("\n" + path.read_text())
    print(f"{path} and {path.with_suffix('.json').name}")
    return 0


@contextlib.contextmanager
def _starting(names: list[str], device: str, out: Path) -> Iterator[Iterator[Started]]:
    """Sections in turn, the next one made ready beside each; none outlives this."""
    started: list[Started] = []

    def start(name: str) -> None:
        figures, log = out / f"{name}.jsonl", out / f"{name}.log"
        figures.with_suffix(".ready").unlink(missing_ok=True)
        figures.write_text("")
        program = [sys.executable, "-m", "benchmarks.gpu_check.section", name, "--device", device]
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with log.open("w") as output:
            process = subprocess.Popen(
                [*program, "--folder", str(out / name), "--figures", str(figures)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
        started.append(Started(name, process, figures, log))

    def each() -> Iterator[Started]:
        for place in range(len(names)):
            for name in names[len(started) : place + 2]:
                start(name)
            yield started[place]

    try:
        yield each()
    finally:
        for section in started:
            _end(section)


def _await(section: Started, end: float) -> None:
    """Until it has imported what it needs."""
    ready = section.figures.with_suffix(".ready")
    while not ready.exists() and section.process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)


def _run(section: Started, seconds: float, grace: float) -> list[Figure]:
    """Let it measure; what it found, and why it ended early if it did."""
    print(f"{section.name}: {max(0, seconds):.0f} s ...", flush=True)
    why = ""
    if seconds < LEAST_SECONDS:
        why = "no time was left"
    else:
        began = time.monotonic()
        with contextlib.suppress(BrokenPipeError):
            assert section.process.stdin is not None
            section.process.stdin.write(f"{seconds}\n")
            section.process.stdin.close()
        try:
            if section.process.wait(seconds + grace):
                why = f"it ended with {section.process.returncode}: {_last_line(section.log)}"
        except subprocess.TimeoutExpired:
            why = f"it was stopped after {time.monotonic() - began:.0f} s"
    _end(section)
    lines = section.figures.read_text().splitlines()
    figures = [Figure(**json.loads(line)) for line in lines if line.endswith("}")]
    return [*figures, Figure(section.name, "the whole section", None, note=why)] if why else figures


def _end(section: Started) -> None:
    """The process and whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(section.process.pid, signal.SIGKILL)
    section.process.wait()


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


if __name__ == "__main__":
    sys.exit(main())

"""How long `tide` takes to answer: processor time as a ratio to `python -c "import torch"`, side by side in one run.

    python -m benchmarks.startup [--repeats 3] [--before FOLDER]

FOLDER is another checkout, as `git worktree add` makes one of an older commit.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median

TORCH = ["-c", "import torch"]
ASKED = {
    "import tide_lightning": ["-c", "import tide_lightning"],
    "tide --version": ["-m", "tide_lightning", "--version"],
    "tide --help": ["-m", "tide_lightning", "--help"],
    "tide fitt (mistyped)": ["-m", "tide_lightning", "fitt"],
    "tide fit (without a config)": ["-m", "tide_lightning", "fit"],
    "tide compare --help": ["-m", "tide_lightning", "compare", "--help"],
    "tide find --help": ["-m", "tide_lightning", "find", "--help"],
    "tide fit --help": ["-m", "tide_lightning", "fit", "--help"],
}


def seconds(arguments: list[str], folder: Path) -> float:
    """Processor time that a Python process takes in all, with the package of a checkout."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    subprocess.run([sys.executable, *arguments], capture_output=True, check=False, env=environment, cwd=folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Time each command in turn, so that a busy machine is busy for all of them, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--before", type=Path, help="another checkout, to be timed in the same run")
    given = parser.parse_args()
    here = Path(__file__).parents[1]
    folders = {"now": here} if given.before is None else {"before": given.before.resolve(), "now": here}
    torch: list[float] = []
    taken: dict[tuple[str, str], list[float]] = {}
    for _ in range(given.repeats):
        torch.append(seconds(TORCH, here))
        for name, arguments in ASKED.items():
            for label, folder in folders.items():
                taken.setdefault((name, label), []).append(seconds(arguments, folder))
    unit = median(torch)
    print(f'python -c "import torch": {unit:.2f} s of processor time, median of {given.repeats}')
    for name in ASKED:
        parts = [f"{label} {(took := median(taken[name, label])):.2f} s = {took / unit:.2f}" for label in folders]
        print(f"{name:<30}{'   '.join(parts)}", flush=True)


if __name__ == "__main__":
    main()

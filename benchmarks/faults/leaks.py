"""What a long fit holds as it goes on: memory, threads and file handles.

    python -m benchmarks.faults.leaks [--steps 3000] [--every 500]

Fits the config debug for so many steps and prints a row for each place; they should be the same, but for what caches
still take at first.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from tide_lightning.cli import main as tide


class CountHeld(Callback):
    """Appends to a file, as JSON lines, what the process holds behind some steps."""

    def __init__(self, steps: list[int], file: str) -> None:
        self.steps, self.file = steps, file

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Count."""
        if trainer.global_step in self.steps:
            with Path(self.file).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": trainer.global_step, **held()}) + "\n")


def held() -> dict[str, float]:
    """Resident memory in MB, threads, open files, of this process."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "megabytes": round(int(status["VmRSS"].split()[0]) / 1024, 1),
        "threads": int(status["Threads"]),
        "files": len(os.listdir("/proc/self/fd")),
    }


def main() -> int:
    """Fit and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--every", type=int, default=500)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        counted = Path(folder) / "held.jsonl"
        init = f"{{steps: {list(range(args.every, args.steps + 1, args.every))}, file: {counted}}}"
        callbacks = f"[{{class_path: benchmarks.faults.leaks.CountHeld, init_args: {init}}}, ResampleDeadLatents]"
        code = tide(["fit", "--config=debug", f"--trainer.max_steps={args.steps}", f"--trainer.callbacks={callbacks}"])
        rows = [json.loads(line) for line in counted.read_text().splitlines()] if counted.exists() else []
        os.chdir("/")
    print("| step | memory (MB) | threads | open files |\n| ---: | ---: | ---: | ---: |")
    for row in rows:
        print(f"| {row['step']:,} | {row['megabytes']:,} | {row['threads']} | {row['files']} |")
    return code


if __name__ == "__main__":
    sys.exit(main())

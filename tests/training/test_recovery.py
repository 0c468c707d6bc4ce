"""A known dictionary is found again. How sae-lens does at the same budget stands in docs/results/rivals.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_known_dictionary_is_recovered(tmp_path: Path) -> None:
    sizes = "--d_in 24 --num_features 36 --num_active 3 --batch_size 256 --steps 2000 --seeds 0"
    program = [sys.executable, "-m", "benchmarks.recovery", "--trainers", "tide-lightning", *sizes.split()]
    done = subprocess.run(
        [*program, "--json", str(tmp_path / "found.json")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "found.json").read_text())["recovered"]["0"]["tide-lightning"]
    assert found > 0.93  # rows drawn at random are at 0.4

"""The check of a machine with a GPU, at sizes for a CPU: it ends in time and with its page, whatever fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def check(out: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """What it found, and its page."""
    program = [sys.executable, "-m", "benchmarks.gpu_check", "--device", "cpu", "--out", str(out), *arguments]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    page = (out / "gpu_check.md").read_text()
    assert page in done.stdout
    return json.loads((out / "gpu_check.json").read_text()), page


def test_kernels_are_checked_and_timed(tmp_path: Path) -> None:
    found, page = check(tmp_path, "--minutes", "5", "--sections", "correctness", "floors")
    checked = [figure for figure in found["figures"] if figure["section"] == "correctness"]
    assert len(checked) > 60
    assert all(figure["reached"] for figure in checked if figure["value"] is not None), page
    assert {"device", "torch", "commit"} <= set(found["machine"])
    timed = {figure["name"] for figure in found["figures"] if figure["section"] == "floors"}
    assert {"product, 256 tokens", "fit values, 256 tokens"} <= timed


def test_what_finds_no_time_is_said(tmp_path: Path) -> None:
    found, page = check(tmp_path, "--minutes", "0", "--sections", "correctness", "ranks")
    assert [figure["value"] for figure in found["figures"]] == [None, None]
    assert "- ranks: the whole section: no time was left" in page


def test_a_machine_without_a_gpu_is_told_so_in_one_line(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "benchmarks.gpu_check", "--out", str(tmp_path)]
    environment = {"CUDA_VISIBLE_DEVICES": "", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [
        "gpu_check: PyTorch sees no GPU; `--device cpu` checks the same at small sizes"
    ]

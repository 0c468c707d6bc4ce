"""Cores are counted as the process may use them; cgroups are folders, so these tests make some."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tide_lightning.cores import usable_cores

needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")


def cgroups(root: Path, line: str, **quotas: str) -> tuple[Path, Path]:
    """A process's cgroup line and mounted cgroups with some files."""
    (root / "proc").write_text(line + "\n")
    for name, text in quotas.items():
        path = root / "cgroup" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root / "proc", root / "cgroup"


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)


@needs_affinity
def test_affinity_counts(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores(tmp_path / "absent", tmp_path) == 1
    finally:
        os.sched_setaffinity(0, before)
    assert 1 <= usable_cores() <= len(before)


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    ("line", "quotas", "cores"),
    [
        ("0::/", {}, 64),
        ("0::/", {"cpu_dot_max": "max 100000"}, 64),
        ("0::/", {"cpu_dot_max": "250000 100000"}, 2),
        ("0::/", {"cpu_dot_max": "50000 100000"}, 1),
        ("0::/job/step", {"job__cpu_dot_max": "400000 100000", "job__step__cpu_dot_max": "max 100000"}, 4),
        ("0::/job/step", {"job__cpu_dot_max": "400000 100000", "job__step__cpu_dot_max": "300000 100000"}, 3),
        ("1:cpu,cpuacct:/", {"cpu__cpu.cfs_quota_us": "-1", "cpu__cpu.cfs_period_us": "100000"}, 64),
        ("1:cpu,cpuacct:/", {"cpu__cpu.cfs_quota_us": "300000", "cpu__cpu.cfs_period_us": "100000"}, 3),
        ("1:cpu:/pod", {"cpu__pod__cpu.cfs_quota_us": "200000", "cpu__pod__cpu.cfs_period_us": "100000"}, 2),
        ("3:memory:/", {"memory__cpu.cfs_quota_us": "200000", "memory__cpu.cfs_period_us": "100000"}, 64),
    ],
)
def test_quotas_count(tmp_path: Path, line: str, quotas: dict[str, str], cores: int) -> None:
    assert usable_cores(*cgroups(tmp_path, line, **quotas)) == cores

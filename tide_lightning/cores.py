"""How many processor cores this process may use, which is often fewer than the machine has."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch


def usable_cores(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores by the process's affinity (taskset, Slurm) and the quotas of its cgroups (containers); at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min([cores, *_quotas(proc, root)])))


def core_to_spare(device: torch.device) -> bool:
    """Whether another thread that works on this device can have a core of its own: PyTorch uses fewer than we may."""
    return device.type == "cpu" and torch.get_num_threads() < usable_cores()


def _quotas(proc: Path, root: Path) -> list[float]:
    """Cores that the process's cgroups and those above them allow, where they set a limit."""
    try:
        lines = proc.read_text(encoding="utf-8").splitlines()
    except OSError:  # another system than Linux
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            mounts, read = [root, root / "unified"], _quota_v2
        elif "cpu" in controllers.split(","):  # version 1
            mounts, read = [root / controllers, root / "cpu"], _quota_v1
        else:
            continue
        for mount in mounts:
            group = mount / path.lstrip("/")
            found += [quota for folder in (group, *group.parents) if (quota := read(folder)) is not None]
    return found


def _quota_v2(folder: Path) -> float | None:
    return _ratio(_text(folder / "cpu.max").split())


def _quota_v1(folder: Path) -> float | None:
    return _ratio([_text(folder / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")])


def _ratio(numbers: list[str]) -> float | None:
    """Quota over period; None where there is none ("max", -1)."""
    return int(numbers[0]) / int(numbers[1]) if len(numbers) == 2 and all(n.isdigit() for n in numbers) else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""

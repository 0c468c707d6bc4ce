"""A disk that fills during a fit: a small tmpfs where one may be mounted, a limit on the size of files elsewhere."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
from pathlib import Path
from random import Random

from benchmarks.faults.fits import FIT, RESUME, Reference, checkpoints, fresh, latest, what_is_lost
from benchmarks.faults.trial import Trial, judged, run

GOAL, SECONDS = 40, 300


def prepare(reference: Reference, folder: Path) -> Reference:
    """What an undisturbed fit ends with."""
    return reference


def attempt(reference: Reference, draw: Random, folder: Path) -> Trial:
    """Fit where there is no room for all of it; then, with room, go on."""
    fresh(folder)
    kilobytes = draw.randrange(16, 9000)
    room = folder / "room"
    room.mkdir()
    is_mounted = _mount(room, kilobytes)
    limit = None if is_mounted else lambda: _limit(kilobytes * 1024 // 4)
    try:
        what = f"{'a disk' if is_mounted else 'files'} of {kilobytes if is_mounted else kilobytes // 4} KB"
        trial = judged(run([*FIT, f"--runs={room / 'runs'}"], folder, limit), what)
        shutil.copytree(room, folder / "kept", symlinks=True)
    finally:
        if is_mounted:
            subprocess.run(["umount", str(room)], check=True)
    if trial.outcome == "traceback":
        return trial
    whole, torn = checkpoints(folder / "kept")
    if torn:
        return Trial("wrong", f"{what}: {torn[0].name} is torn")
    again = run([*(RESUME if whole else FIT), f"--runs={folder / 'kept' / 'runs'}"], folder)
    run_folder = latest(folder / "kept")
    if again.code or run_folder is None:
        return Trial("wrong", f"{what}: with room it does not go on: {again.last_words}")
    if lost := what_is_lost(run_folder, reference):
        return Trial("wrong", f"{what}: {lost}")
    return trial


def _mount(folder: Path, kilobytes: int) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _limit(size: int) -> None:
    """Writing beyond this is an error from now on, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

"""SIGKILL at random moments of a fit, two in three of them inside a write; then the fit goes on where it was."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.faults.fits import FIT, RESUME, STEPS, Reference, checkpoints, fresh, latest, load, same_training
from benchmarks.faults.fits import undisturbed as prepare
from benchmarks.faults.trial import Child, Trial, judged, run

GOAL, SHARE = 100, 30

__all__ = ["GOAL", "SHARE", "attempt", "prepare"]


def attempt(reference: Reference, draw: Random, folder: Path) -> Trial:
    """Kill a fit, resume it, and see whether it ends with the bits of one that was not disturbed."""
    fresh(folder)
    inside = draw.random() < 2 / 3
    fit = Child(FIT, folder, in_a_write(draw) if inside else None)
    what = "killed inside a write"
    if not inside:
        moment = draw.uniform(0.2, 1.0) * reference.seconds
        what = f"killed after {moment:.2f} s"
        while fit.runs and time.monotonic() < fit.began + moment:
            time.sleep(0.005)
        fit.signal(signal.SIGKILL)
    fit.wait()
    latest(folder)
    whole, torn = checkpoints(folder)
    if torn:
        return Trial("wrong", f"{what}: {torn[0].name} is torn")
    reached = load(whole[-1])["global_step"] if whole else 0
    again = run(RESUME if whole else FIT, folder)
    what += f" at step {reached} of {STEPS}"
    if again.code:
        trial = judged(again, f"{what}, then resumed")
        return trial if trial.outcome == "traceback" else Trial("wrong", f"{what}: {again.last_words}")
    whole, torn = checkpoints(folder)
    run_folder = latest(folder)
    if torn or run_folder is None:
        return Trial("wrong", f"{what}: after resuming a checkpoint is torn")
    if left := list(run_folder.rglob("*.part")):
        return Trial("wrong", f"{what}: {left[0].name} was left behind")
    if not same_training(load(run_folder / "checkpoints" / "last.ckpt"), reference.content):
        return Trial("wrong", f"{what}: the resumed fit ends with other weights")
    return Trial("survived", what)


def in_a_write(draw: Random) -> Callable[[], None]:
    """What lets a process die while it writes the n-th file: some time after it was opened, or just before its name."""
    number, seconds, at_rename = draw.randrange(1, 30), draw.uniform(1e-5, 0.01), draw.random() < 0.3

    def arm() -> None:
        count = 0

        def hook(event: str, args: tuple[Any, ...]) -> None:
            nonlocal count
            wanted = "os.rename" if at_rename else "open"
            if event != wanted or not str(args[0]).endswith(".part"):
                return
            count += 1
            if count == number:
                if at_rename:
                    os.kill(os.getpid(), signal.SIGKILL)
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.setitimer(signal.ITIMER_REAL, seconds)

        sys.addaudithook(hook)

    return arm

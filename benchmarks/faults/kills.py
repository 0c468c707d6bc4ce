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

from benchmarks.faults.fits import FIT, RESUME, STEPS, Reference, checkpoints, fresh, latest, load, what_is_lost
from benchmarks.faults.trial import Child, Ended, Trial, judged, run

GOAL, SECONDS = 100, 450


def prepare(reference: Reference, folder: Path) -> Reference:
    """What an undisturbed fit ends with."""
    return reference


def attempt(reference: Reference, draw: Random, folder: Path) -> Trial:
    """Kill a fit, resume it, and see whether it ends with the bits of one that was not disturbed."""
    while (killed := _killed(reference, draw, fresh(folder))).code == 0:
        pass  # it ended before its time had come
    if killed.code > 0:
        return Trial("traceback", f"not killed, but {killed.last_words}")
    sort = "inside a write" if list(folder.rglob("*.part")) else "between writes"
    what = f"killed {sort} after {killed.seconds:.2f} s"
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
    if lost := what_is_lost(run_folder, reference):
        return Trial("wrong", f"{what}: {lost}")
    return Trial("survived", what, sort)


def _killed(reference: Reference, draw: Random, folder: Path) -> Ended:
    """A fit that dies, two in three times while it writes a file."""
    if draw.random() < 2 / 3:
        return Child(FIT, folder, in_a_write(draw)).wait()
    fit, moment = Child(FIT, folder), draw.uniform(0.2, 1.0) * reference.seconds
    while fit.runs and time.monotonic() < fit.began + moment:
        time.sleep(0.005)
    fit.signal(signal.SIGKILL)
    return fit.wait()


def in_a_write(draw: Random) -> Callable[[], None]:
    """What lets a process die while it writes the n-th file: some time after it was opened, or just before its name."""
    number, seconds, at_rename = draw.randrange(1, 12), draw.uniform(1e-5, 0.004), draw.random() < 0.3

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

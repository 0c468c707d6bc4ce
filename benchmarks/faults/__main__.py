"""What becomes of a run when a cluster kills it, a disk fills, a bit flips, a number is none, or a stranger made it.

    python -m benchmarks.faults [--minutes 10] [--seed 0] [--kinds kills ranks …] [--out FILE]

Each kind of fault is a module with `attempt`; it runs in a process of its own until it has had its number of trials
(GOAL in 30 minutes, more where there is more time), or its part of the time is over: kinds share it as the SECONDS that
their GOAL takes on one core. Ranks, which mostly wait for each other, are tried beside the other kinds. A trial follows
from seed, kind and number alone: `--kinds kills --only 17` does that kill again. The exit code is 1 if anything ended
in a traceback or went wrong in silence.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from random import Random

from benchmarks.faults.fits import Reference, undisturbed
from benchmarks.faults.trial import OUTCOMES, Outcome, Trial, in_a_line

KINDS = ["flips", "sae_folders", "inputs", "requests", "configs", "nonfinite", "disks", "strangers", "kills", "ranks"]
"""Cheap ones first: what they leave of their time goes to the others."""

_GRACE = 400.0  # seconds that a last trial may take: more than its commands may (300)
_EVERY = 30.0  # seconds between lines that say how many were tried


def main() -> int:
    """Try all kinds, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="that all may take (10)")
    parser.add_argument("--seed", type=int, default=None, help="of all trials; a random one, printed, unless given")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="only these")
    parser.add_argument("--trials", type=int, default=None, help="most trials of a kind")
    parser.add_argument("--only", type=int, default=None, help="only the trial of this number")
    parser.add_argument("--out", type=Path, default=None, help="where the table goes as well")
    args = parser.parse_args()
    seed = secrets.randbelow(10**6) if args.seed is None else args.seed
    print(f"seed {seed}, {args.minutes:g} minutes", flush=True)
    _warm_up()
    end = time.monotonic() + 60 * args.minutes
    scratch = Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        reference = undisturbed(scratch / "undisturbed")

        def tried(kinds: Sequence[str]) -> dict[str, dict[Outcome, int]]:
            counts = {}
            for place, kind in enumerate(kinds):
                module = import_module(f"benchmarks.faults.{kind}")
                needed = [import_module(f"benchmarks.faults.{name}").SECONDS for name in kinds[place:]]
                seconds = max(0.0, end - time.monotonic()) * module.SECONDS / sum(needed)
                goal = math.ceil(module.GOAL * max(1.0, args.minutes / 30))
                goal = goal if args.trials is None else min(goal, args.trials)
                numbers = range(goal) if args.only is None else range(args.only, args.only + 1)
                counts[kind] = _try(kind, seed, numbers, seconds, reference, scratch / kind)
            return counts

        others = [kind for kind in args.kinds if kind != "ranks"]
        finish = _beside(lambda: tried(["ranks"])) if "ranks" in args.kinds else dict
        counts = tried(others) | finish()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    table = _table(counts)
    print(f"\n{table}", flush=True)
    if args.out is not None:
        args.out.write_text(f"seed {seed}, {args.minutes:g} minutes\n\n{table}\n", encoding="utf-8")
    return int(any(found[bad] for found in counts.values() for bad in ("traceback", "wrong")))


def _warm_up() -> None:
    """Import once what every trial needs; one thread, for processes are forked from this one."""
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    import torch

    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="PIL")  # of what was spoilt
    for name in (
        "tide_lightning.cli",
        "tide_lightning.commands.configured",
        "tide_lightning.explore",
        "tide_lightning.grounds.toybox",
        "tensorboard",
    ):
        import_module(name)
    for kind in KINDS:
        import_module(f"benchmarks.faults.{kind}")


def _beside(work: Callable[[], dict[str, dict[Outcome, int]]]) -> Callable[[], dict[str, dict[Outcome, int]]]:
    """Begin the work in a process of its own; call what is returned for its result."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        code = 1
        try:
            with os.fdopen(theirs, "w", encoding="utf-8") as pipe:
                json.dump(work(), pipe)
            code = 0
        finally:
            os._exit(code)
    os.close(theirs)

    def finish() -> dict[str, dict[Outcome, int]]:
        with os.fdopen(ours, encoding="utf-8") as pipe:
            found = pipe.read()
        os.waitpid(pid, 0)
        counts: dict[str, dict[Outcome, int]] = json.loads(found)
        return counts

    return finish


def _try(
    kind: str, seed: int, numbers: range, seconds: float, reference: Reference, folder: Path
) -> dict[Outcome, int]:
    """The trials of a kind, in a process of its own, which may not take others down."""
    counts: dict[Outcome, int] = dict.fromkeys(OUTCOMES, 0)
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        os.setpgid(0, 0)
        _trials(kind, seed, numbers, seconds, reference, folder, theirs)
    os.close(theirs)
    began, number, sorts = time.monotonic(), numbers.start, Counter[str]()
    spoke = began
    signal.signal(signal.SIGALRM, lambda *_: os.killpg(pid, signal.SIGKILL))
    signal.alarm(math.ceil(seconds + _GRACE))
    with os.fdopen(ours, encoding="utf-8") as lines:
        for line in lines:
            trial = Trial(*json.loads(line))
            counts[trial.outcome] += 1
            sorts[trial.sort] += 1
            if trial.outcome in ("traceback", "wrong"):
                print(f"{kind} {number}: {OUTCOMES[trial.outcome]}: {trial.what}", flush=True)
            number += 1
            if time.monotonic() > spoke + _EVERY:
                spoke = time.monotonic()
                print(f"{kind}: {number - numbers.start} tried so far", flush=True)
    signal.alarm(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        counts["traceback"] += 1
        print(f"{kind} {number}: traceback: the process of these trials ended with {status}", flush=True)
    told = "".join(f", {count} {sort}" for sort, count in sorts.most_common() if sort)
    print(f"{kind}: {sum(counts.values())} tried in {time.monotonic() - began:.0f} s{told}", flush=True)
    return counts


def _trials(kind: str, seed: int, numbers: range, seconds: float, reference: Reference, folder: Path, out: int) -> None:
    """In the process: until the time is over or enough was tried; does not return."""
    module, end, code = import_module(f"benchmarks.faults.{kind}"), time.monotonic() + seconds, 1
    errors = os.dup(2)
    try:
        with os.fdopen(out, "w", encoding="utf-8") as pipe:
            prepared = module.prepare(reference, folder / "prepared")
            for number in numbers:
                if number > numbers.start and time.monotonic() > end:
                    break
                draw = Random(f"{seed}/{kind}/{number}")
                try:
                    trial = module.attempt(prepared, draw, folder / "trial")
                except Exception as error:
                    trial = Trial("traceback", in_a_line(error))
                pipe.write(json.dumps(trial) + "\n")
                pipe.flush()
        code = 0
    except BaseException as error:
        os.write(errors, f"{kind}: {in_a_line(error)}\n".encode("utf-8", "replace"))
    os._exit(code)


def _table(counts: dict[str, dict[Outcome, int]]) -> str:
    """As Markdown."""
    rows = [["kind", "tried", *OUTCOMES.values()]]
    for kind, found in counts.items():
        rows.append([kind.replace("_", " "), f"{sum(found.values()):,}", *(f"{found[one]:,}" for one in OUTCOMES)])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "| --- |" + " ---: |" * (len(rows[0]) - 1), *lines[1:]])


if __name__ == "__main__":
    sys.exit(main())

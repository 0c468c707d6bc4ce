"""Ranks that die, stop, fail, are asked to stop, or were started with other settings: the others end, and say why."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from lightning import Callback, LightningModule, Trainer

from benchmarks.faults.fits import FIT, Reference, checkpoints, fresh, latest, load
from benchmarks.faults.trial import Child, Ended, Trial
from tide_lightning.errors import UserError

GOAL, SECONDS = 30, 450
_STOPPING, _ENDING = 30.0, 60.0  # seconds that are promised
_ENDLESS = ["--trainer.max_steps=1000000", "--trainer.strategy=ddp", "--data.samples_per_batch=6"]  # for 2 and 3


class FailOnRank(Callback):
    """Raises an error on one rank, behind a step."""

    def __init__(self, rank: int, step: int) -> None:
        self.rank, self.step = rank, step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Fail."""
        if trainer.global_rank == self.rank and trainer.global_step >= self.step:
            raise UserError("the moon is full")


def prepare(reference: Reference, folder: Path) -> None:
    """Nothing."""


def attempt(_: None, draw: Random, folder: Path) -> Trial:
    """Let something happen to one of two or three ranks."""
    fresh(folder)
    world = draw.choice([2, 2, 3])
    which = draw.randrange(world)
    fault = draw.choice(["kill", "kill", "kill", "term", "term", "term", "all", "stop", "fail", "settings"])
    what = f"{fault} to rank {which} of {world}"
    args = [*FIT, *_ENDLESS, f"--trainer.devices={world}"]
    if fault == "fail":
        init = f"{{rank: {which}, step: {draw.randrange(5)}}}"
        args += [f"--trainer.callbacks=[{{class_path: benchmarks.faults.ranks.FailOnRank, init_args: {init}}}]"]
    ranks = _started(args, world, folder, which if fault == "settings" else None)
    try:
        if fault in ("settings", "fail"):
            _until(lambda: not all(rank.runs for rank in ranks))
        elif not _until(lambda: bool(list(folder.glob("runs/debug/*/checkpoints/last.ckpt"))), ranks):
            return Trial("traceback", f"{what}: it did not start: {ranks[0].wait(1).last_words}")
        else:
            time.sleep(draw.uniform(0, 1))
        number = {"term": signal.SIGTERM, "all": signal.SIGTERM, "stop": signal.SIGSTOP}.get(fault, signal.SIGKILL)
        if fault not in ("settings", "fail"):
            for rank in range(world) if fault == "all" else [which]:
                ranks[rank].signal(number)
        began = time.monotonic()
        others = [rank for rank in range(world) if rank != which or fault not in ("kill", "stop")]
        ended = {rank: ranks[rank].wait(max(0.0, began + 100 - time.monotonic())) for rank in others}
        seconds = time.monotonic() - began
    finally:
        for child in ranks:
            child.signal(signal.SIGKILL)
            child.wait()
    if any("Traceback" in one.errors or one.code not in (2, 128 + signal.SIGTERM) for one in ended.values()):
        words = "; ".join(f"rank {rank}: {one.code} {one.last_words}" for rank, one in ended.items())
        return Trial("traceback", f"{what}: {words}")
    bad = _missing(fault, which, ended, seconds, folder)
    return Trial("wrong", f"{what}: {bad}", fault) if bad else Trial("refused", what, fault)


def _missing(fault: str, which: int, ended: dict[int, Ended], seconds: float, folder: Path) -> str | None:
    """What is promised and not held."""
    lines = [line for one in ended.values() for line in one.lines]
    whole, torn = checkpoints(folder / "runs")
    if torn:
        return f"{torn[0].name} is torn"
    if fault in ("term", "all"):
        if seconds > _STOPPING:
            return f"it took {seconds:.0f} s to stop"
        if len(lines) != 1 or not lines[0].startswith("tide: stopped by SIGTERM behind step "):
            return f"it said {lines}"
        step = int(lines[0].split("behind step ")[1].split(";")[0])
        run = latest(folder)
        assert run is not None
        kept = load(run / "checkpoints" / "last.ckpt")["global_step"]
        return None if kept == step else f"it kept step {kept} of {step}"
    if seconds > _ENDING:
        return f"the others took {seconds:.0f} s to end"
    if fault == "settings":
        return None if all("different settings" in line for line in lines) and lines else f"it said {lines}"
    named = [line for line in lines if f"rank {which} ended" in line]
    if not named:
        return f"nobody named the rank, but {lines}"
    if fault == "fail" and not all("the moon is full" in line for line in lines):
        return f"the error is not told, but {lines}"
    return None if whole or fault == "fail" else "no checkpoint is left"


def _started(args: list[str], world: int, folder: Path, odd: int | None) -> list[Child]:
    """Ranks as torchrun starts them; one of them may have a setting of its own."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    ranks = []
    for rank in range(world):
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        variables = {name: str(number) for name, number in numbers.items()}
        variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "faults"}
        own = ["--model.sae.init_args.k=4"] if rank == odd else []
        ranks.append(Child([*args, *own], folder, None, variables))
    return ranks


def _until(seen: Callable[[], bool], ranks: Sequence[Child] = ()) -> bool:
    """Wait for something, as long as these ranks run."""
    until = time.monotonic() + 200
    while time.monotonic() < until and all(rank.runs for rank in ranks):
        if seen():
            return True
        time.sleep(0.05)
    return False

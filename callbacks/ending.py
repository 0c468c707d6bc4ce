"""Ranks that end together: when asked to stop, and when one of them is gone."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch
import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from tide_lightning.callbacks.leaving import path_of_last, write_last
from tide_lightning.reduction import is_distributed
from tide_lightning.stopping import Stopped, StopSignal
from tide_lightning.watch import Ended, Watch, start_watch

_LOOK_SECONDS = 1.0  # between two times at which ranks ask each other whether to stop
_MOST_STEPS = 1000  # between the same
_FINDING = 45.0  # seconds in which a rank that is gone has been found
_log = logging.getLogger(__name__)


class EndTogether(Callback):
    """Stops all ranks behind the same step, with a checkpoint, when SIGTERM came to one; ends all when one is gone.

    It has to be the last of the callbacks, for what it saves is what a resumed fit begins with.

    Args:
        stop: whether SIGTERM came to this process.
    """

    def __init__(self, stop: StopSignal) -> None:
        self.stop = stop
        self.watch: Watch | None = None
        self._looked = (0, 0.0)  # step and time
        self._next_look = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin to watch."""
        self.stop.listen()
        if not is_distributed() or self.watch is not None:
            return
        started = getattr(trainer.strategy.launcher, "procs", [])
        children = {trainer.global_rank + place: child for place, child in enumerate(started, start=1)}
        started.clear()  # otherwise Lightning's observer kills all, this process included, before anyone can say why
        environment = getattr(trainer.strategy, "cluster_environment", None)
        address = getattr(environment, "main_address", "127.0.0.1")
        self.watch = start_watch(address, trainer.local_rank, children)
        if self.watch is None:
            _log.warning("ranks cannot reach each other by TCP: when one dies, the others may wait for long")

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning has set a handler of its own in between."""
        self.stop.listen()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A validation is not waited for."""
        self._do_not_wait()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nor is a test."""
        self._do_not_wait()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nor are predictions."""
        self._do_not_wait()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on a step is completed first."""
        self._looked = (trainer.global_step, time.monotonic())
        self._next_look = trainer.global_step + 1
        self._wait()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Back to training."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._wait()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Behind an optimiser's step, see whether to stop."""
        step = trainer.global_step
        if step >= self._next_look and self._all_stop(step, trainer):
            raise Stopped(f"stopped by SIGTERM behind step {step}; {_keep(trainer)}", by_all=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A fit that is at its end completes it."""
        self.stop.waits = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Tell the others before anything is put away, unless they are what ails this rank."""
        self.stop.waits = True
        if isinstance(exception, Stopped):
            if exception.by_all:
                return
            kept = getattr(trainer.checkpoint_callback, "last_model_path", "")
            if trainer.state.fn == TrainerFn.FITTING and kept:
                exception.args = (f"{exception} behind step {trainer.global_step}; go on from {kept}, the newest",)
        if self.watch is not None and not is_of_others(exception):
            said = str(exception).strip().splitlines()
            self.watch.fail(said[0] if said else type(exception).__name__)

    def who_ended(self, error: BaseException) -> Ended | None:
        """The rank whose end brought this error about, if one did."""
        if self.watch is None:
            return Ended(None, "it ended while the ranks were starting") if is_of_others(error) else None
        return self.watch.who_ended(_FINDING if is_of_others(error) else 0.0)

    @property
    def speaks(self) -> bool:
        """Whether what all ranks of a machine have to say is said by this one."""
        return self.watch is None or self.watch.speaks

    def leave(self) -> None:
        """Part from the others in good order."""
        if self.watch is not None:
            self.watch.leave()
            self.watch = None

    def _wait(self) -> None:
        self.stop.listen()
        self.stop.waits = True

    def _do_not_wait(self) -> None:
        self.stop.listen()
        self.stop.waits = False
        if self.stop.asked:
            raise Stopped("stopped by SIGTERM")

    def _all_stop(self, step: int, trainer: Trainer) -> bool:
        """Whether any rank was asked to stop: the same answer on all, at the same step."""
        self._next_look = step + 1
        if not is_distributed():
            return self.stop.asked
        since, then = self._looked
        now = time.monotonic()
        pace = (step - since) / max(now - then, 1e-3)
        steps = min(max(int(pace * _LOOK_SECONDS), 1), _MOST_STEPS)
        answer = torch.tensor([float(self.stop.asked), -float(steps)], device=trainer.strategy.root_device)
        dist.all_reduce(answer, dist.ReduceOp.MAX)
        asked, fewest = answer.tolist()
        self._looked, self._next_look = (step, now), step + int(-fewest)
        return bool(asked)


def is_of_others(error: BaseException) -> bool:
    """Whether an error is what a collective says when another rank is gone."""
    names = ("gloo", "NCCL", "onnection closed by peer", "onnection reset", "roken pipe")
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(name in str(error) for name in names)
    )


def _keep(trainer: Trainer) -> str:
    """Write a checkpoint; every rank must call it."""
    last = path_of_last(trainer.checkpoint_callback)
    if last is None:
        return "no checkpoint was written, for the run keeps none"
    write_last(trainer, last)
    return f"go on from {last} with --ckpt_path last"

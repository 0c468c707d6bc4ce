"""A callback that watches a fit: how fast its steps are, what it loses, and how its weights end."""

from __future__ import annotations

import hashlib
import os
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from tide_lightning.cli import main


class Watch(Callback):
    """Stops a fit so many seconds after its first step, or at a step of the whole run, and keeps what it saw."""

    last: Watch
    """The one of the newest fit in this process."""

    def __init__(self, seconds: float = 1e9, steps: float = 1e9) -> None:
        self.seconds, self.steps = seconds, steps
        self.times: list[float] = []
        self.losses: list[float] = []
        self.peak_bytes = 0
        self.tokens = 0
        self.bits = ""
        self.replayed = 0
        Watch.last = self

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the time without a wait for the GPU in most steps."""
        self.replayed = getattr(pl_module, "num_replayed", 0)
        self.tokens = max(len(tokens) for tokens in batch.values())
        if len(self.times) % 10 == 0 and torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        self.losses.append(loss.detach())
        if trainer.global_step >= self.steps or self.times[-1] - self.times[0] > self.seconds:
            trainer.should_stop = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What is known in the end."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            self.peak_bytes = torch.cuda.max_memory_allocated()
        self.losses = [float(loss) for loss in self.losses]
        self.bits = bits_of(pl_module)

    def step_seconds(self) -> float:
        """Of a step; the median over tens, without the first ten."""
        marks = self.times[10::10]
        spans = [(later - sooner) / 10 for sooner, later in pairwise(marks)]
        return median(spans) if spans else (self.times[-1] - self.times[0]) / max(1, len(self.times) - 1)


def bits_of(module: torch.nn.Module) -> str:
    """A name for all of a module's weights and buffers, to the last bit."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def fit(
    folder: Path,
    device: torch.device,
    *arguments: str,
    seconds: float = 1e9,
    steps: float = 1e9,
    is_alone: bool = False,
) -> Watch:
    """`tide fit` with these arguments, and what was seen of it.

    It ends so many seconds after its first step, or at a step. If it `is_alone`, it goes without the config's
    callbacks, which look at a whole run from time to time.
    """
    os.environ["TIDE_DEBUG"] = "1"  # errors come here
    accelerator = ["--trainer.accelerator", "gpu" if device.type == "cuda" else "cpu", "--trainer.devices", "1"]
    watched = ["--trainer.min_epochs", "0", "--trainer.limit_val_batches", "0"]
    watched += ["--trainer.callbacks", "[]"] if is_alone else []
    watched += ["--trainer.callbacks+", "benchmarks.gpu_check.watching.Watch"]
    watched += [f"--trainer.callbacks.seconds={seconds}", f"--trainer.callbacks.steps={steps}"]
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    code = main(["fit", *arguments, "--runs", str(folder), *accelerator, *watched])
    if code:
        raise RuntimeError(f"tide fit ended with {code}")
    return Watch.last

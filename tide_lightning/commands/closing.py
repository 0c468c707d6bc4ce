"""The last line of a fit: where the run lies, and what comes next."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from lightning import Trainer


def last_line(trainer: Trainer, run: Path, is_interrupted: bool) -> str:
    """What a fit has left, and the command that goes on from there."""
    shown = shlex.quote(_short(run))
    saes, checkpoints = (run / "saes").is_dir(), any((run / "checkpoints").glob("*.ckpt"))
    kept = " and ".join(
        [*(["its SAEs (saes)"] if saes else []), *(["a checkpoint (checkpoints)"] if checkpoints else [])]
    )
    step = f"step {trainer.global_step}"
    if not is_interrupted:
        return f"fit  done at {step}: {shown} holds {kept or 'nothing'}. Next: tide test --run {shown}"
    if not checkpoints:
        return f"fit  stopped at {step}: no checkpoint was written; begin again by the same command"
    if not trainer.global_step:
        return f"fit  stopped at {step}: {shown} is as it was"
    again = f"tide fit --config {shlex.quote(_short(run / 'config.yaml'))} --ckpt_path last"
    return f"fit  stopped at {step}: {shown} holds {kept}. Go on: {again}"


def _short(path: Path) -> str:
    """A path from here, where it lies below; the whole one elsewhere."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)

"""A fit of seconds on the toybox, and what it ends with when nothing disturbs it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.faults.trial import run
from tide_lightning.training.checkpoints import what_is_wrong

STEPS = 8
FIT = [
    "fit",
    "--config=debug",
    "--data.num_calibration_samples=16",
    "--data.samples_per_batch=4",
    "--data.batches_per_epoch=1000",
    "--trainer.limit_val_batches=0",
    f"--trainer.max_steps={STEPS}",
    "--trainer.log_every_n_steps=2",
    "--checkpoint.every_n_train_steps=1",
]
RESUME = [*FIT, "--ckpt_path=last"]


class Reference(NamedTuple):
    """An undisturbed fit's folder, the content of its last checkpoint, and the seconds that it took."""

    run: Path
    content: dict[str, Any]
    seconds: float


def undisturbed(folder: Path, *more: str) -> Reference:
    """Fit from beginning to end."""
    ended = run([*FIT, *more], folder)
    if ended.code:
        raise RuntimeError(f"a fit without any fault failed: {ended.errors}")
    found = latest(folder)
    assert found is not None
    return Reference(found, load(found / "checkpoints" / "last.ckpt"), ended.seconds)


def latest(folder: Path) -> Path | None:
    """The run that `latest` points to; a link to nothing is an error."""
    link = folder / "runs" / "debug" / "latest"
    if link.is_symlink() and not link.exists():
        raise RuntimeError(f"{link} points to nothing")
    return link.resolve() if link.exists() else None


def checkpoints(folder: Path) -> tuple[list[Path], list[Path]]:
    """Those below a folder: whole ones, oldest first, and torn ones."""
    found = sorted(folder.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    whole = [path for path in found if what_is_wrong(path) is None]
    return whole, [path for path in found if path not in whole]


def load(path: Path) -> dict[str, Any]:
    """What a checkpoint holds."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


def what_is_lost(run: Path, reference: Reference) -> str | None:
    """What of a resumed fit is not that of an undisturbed one, bit for bit; None where all is."""
    ours, theirs = (
        {str(path.relative_to(one)): path.read_bytes() for path in (one / "saes").rglob("*") if path.is_file()}
        for one in (run, reference.run)
    )
    if ours != theirs:
        return "the resumed fit exports other SAEs"
    last = load(run / "checkpoints" / "last.ckpt")
    parts = ("state_dict", "optimizer_states", "global_step")
    is_same = all(same(last.get(part), reference.content.get(part)) for part in parts)
    return None if is_same else "the resumed fit ends with other weights"


def same(ours: object, theirs: object) -> bool:
    """Whether two nested values are the same, bit for bit."""
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        return ours.dtype == theirs.dtype and ours.shape == theirs.shape and ours.equal(theirs)
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return type(ours) is type(theirs) and (ours == theirs or repr(ours) == repr(theirs))


def fresh(folder: Path) -> Path:
    """An empty folder of that name."""
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    return folder

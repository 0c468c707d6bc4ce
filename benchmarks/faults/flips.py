"""Flipped bits, lost blocks and cut ends in checkpoints and in SAEs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from benchmarks.faults.fits import Reference, fresh, load, same
from benchmarks.faults.trial import Trial
from tide_lightning.errors import UserError
from tide_lightning.saes import SAE
from tide_lightning.training.checkpoints import WholeCheckpointIO

GOAL, SECONDS = 300, 15


class Whole(NamedTuple):
    """What is damaged: a checkpoint's file and an SAE's folder, each with what it holds."""

    checkpoint: Path
    content: dict[str, Any]
    sae: Path
    weights: tuple[object, ...]


def prepare(reference: Reference, folder: Path) -> Whole:
    """A run."""
    sae = next((reference.run / "saes").iterdir())
    return Whole(reference.run / "checkpoints" / "last.ckpt", reference.content, sae, _opened(sae))


def attempt(whole: Whole, draw: Random, folder: Path) -> Trial:
    """Damage one file and load it: the damage is seen, or makes no difference."""
    fresh(folder)
    kind = draw.choice(["checkpoint", "checkpoint", "sae.safetensors", "sae.safetensors", "cfg.json"])
    source = whole.checkpoint if kind == "checkpoint" else whole.sae / kind
    if kind != "checkpoint":
        shutil.copytree(whole.sae, folder / "sae")
    target = folder / "last.ckpt" if kind == "checkpoint" else folder / "sae" / kind
    content = bytearray(source.read_bytes())
    how = _damage(content, draw)
    target.write_bytes(content)
    os.utime(target, ns=(draw.randrange(2**60), draw.randrange(2**60)))
    what = f"{kind}: {how}"
    try:
        if kind == "checkpoint":
            WholeCheckpointIO().load_checkpoint(target, weights_only=True)
            is_same = same(load(target), whole.content)
        else:
            is_same = same(_opened(target.parent), whole.weights)
    except UserError:
        return Trial("refused", what, kind)
    return Trial("survived" if is_same else "wrong", what, kind)


def _damage(content: bytearray, draw: Random) -> str:
    place = draw.randrange(len(content))
    how = draw.choice(["flip", "flip", "flip", "block", "cut"])
    if how == "flip":
        bit = draw.randrange(8)
        content[place] ^= 1 << bit
        return f"bit {bit} of byte {place} flipped"
    if how == "block":
        content[place : place + 512] = bytes(len(content[place : place + 512]))
        return f"512 bytes from {place} on are zero"
    del content[place:]
    return f"cut off at byte {place}"


def _opened(folder: Path) -> tuple[object, ...]:
    sae = SAE.from_pretrained(folder)
    return type(sae).__name__, sae.config, vars(sae.shape), dict(sae.state_dict())

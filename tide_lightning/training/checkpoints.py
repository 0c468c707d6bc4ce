"""Checkpoints on disk: whole or absent, and looked at before they are trusted."""

from __future__ import annotations

import sys
import zipfile
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor

from tide_lightning.errors import UserError
from tide_lightning.files import unfinished, whole_file
from tide_lightning.training.finite import not_finite


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, waits for the disk and then lets it take the place.

    Lightning removes an older checkpoint after the newer one is written, so there is a whole one at any time.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Save; what goes wrong leaves the older file as it was."""
        if "://" in str(path):  # a remote file system has its own ways
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with whole_file(Path(path)) as part, part.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # PyTorch's word for what the disk said
                raise error.__cause__ or error.__context__ or OSError(str(error).splitlines()[0]) from error

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load what is whole."""
        if "://" not in str(path) and (fault := what_is_wrong(Path(path))) is not None:
            raise UserError(f"{path}: {fault}; use another checkpoint of the same folder")
        return super().load_checkpoint(path, *args, **kwargs)


def what_is_wrong(path: Path) -> str | None:
    """Why a file is no checkpoint to be trusted; None for one whose every record agrees with its checksum."""
    if not path.is_file():
        return "there is no such file"
    state = path.stat()
    return _fault(path, state.st_mtime_ns, state.st_size)


@cache
def _fault(path: Path, written: int, size: int) -> str | None:
    """Read once for each state of the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith("data.pkl") for name in archive.namelist()):
                return "not a checkpoint"
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError):
        return "not a checkpoint, or cut off"
    if damaged is not None:
        return f"its record {damaged} is damaged"
    try:
        torch.load(path, map_location="cpu", mmap=True, weights_only=True)  # the archive's directory has no checksum
    except (RuntimeError, EOFError, UnpicklingError, ValueError, KeyError) as error:
        return f"it cannot be read ({str(error).splitlines()[0]})"
    return None


def last_checkpoint(run: Path) -> Path | None:
    """The newest whole checkpoint of a run; newer ones that are damaged are named. None where there is none at all."""
    faults: list[str] = []
    for path in sorted((run / "checkpoints").glob("*.ckpt"), key=_age, reverse=True):
        if (fault := what_is_wrong(path)) is None:
            for line in faults:
                print(f"tide: {line}; going on from {path.name}", file=sys.stderr)
            return path
        faults.append(f"{path}: {fault}")
    if faults:
        raise UserError("no checkpoint is whole: " + "; ".join(faults))
    return None


def remove_unfinished(run: Path) -> None:
    """Remove what a kill has left of checkpoints and exports in the making."""
    for folder in ("checkpoints", "saes", "floors"):
        for path in (run / folder).rglob(unfinished(Path("*")).name):
            path.unlink(missing_ok=True)


def _age(path: Path) -> tuple[float, bool]:
    """By the time of writing; of two written together, `last` is the one to go on from."""
    return path.stat().st_mtime, path.name.startswith("last")


def check_tensors(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not finite, or of other names or sizes than the configured ones."""
    if (name := not_finite(theirs)) is not None:
        raise UserError(f"the checkpoint's {name} is not finite: use an older one")
    for name, tensor in ours.items():
        if name not in theirs:
            raise UserError(f"the checkpoint has no {name}: its sites or its SAEs differ from the configured ones")
        if theirs[name].shape != tensor.shape:
            raise UserError(
                f"the checkpoint's {name} is {list(theirs[name].shape)}, the configuration makes it "
                f"{list(tensor.shape)}: give the configuration of the run that it comes from"
            )


def check_groups(checkpoint: Mapping[str, Any], num_saes: int) -> None:
    """Refuse an optimiser's state that does not have a group for each SAE."""
    groups = [len(state["param_groups"]) for state in checkpoint.get("optimizer_states", [])]
    if groups and groups != [num_saes]:
        raise UserError(
            f"the checkpoint's optimiser has {groups[0]} group(s) for {num_saes} SAEs: fit anew, "
            "from its SAEs if you like (--model.pretrained RUN/saes)"
        )

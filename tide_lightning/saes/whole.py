"""Writing a description and the weights that it belongs to: each file appears whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from tide_lightning.errors import UserError


def write_pair(
    folder: str | Path,
    cfg_name: str,
    cfg: Mapping[str, object],
    weights_name: str,
    tensors: Mapping[str, Tensor],
    hashed: bool = False,
) -> Path:
    """Write JSON and safetensors; `hashed` lets the JSON name the hash of the other."""
    folder = Path(folder)
    weights, description = folder / f"{weights_name}.part", folder / f"{cfg_name}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, weights)
        hash_of_weights = {"sha256": sha256(weights)} if hashed else {}
        text = json.dumps({**cfg, **hash_of_weights}, indent=2, allow_nan=False)
        description.write_text(text + "\n", encoding="utf-8")
        weights.chmod(description.stat().st_mode)  # safetensors lets nobody else read
        for part in (weights, description):
            with part.open("rb+") as written:
                os.fsync(written.fileno())
            part.replace(part.with_suffix(""))
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            weights.unlink(missing_ok=True)
            description.unlink(missing_ok=True)
        raise UserError(f"{folder} cannot be written: {getattr(error, 'strerror', None) or error}") from error
    return folder


def sha256(path: Path) -> str:
    """The hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

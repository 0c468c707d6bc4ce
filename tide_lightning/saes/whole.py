"""Writing a description and the weights that it belongs to: each file appears whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from tide_lightning.errors import UserError
from tide_lightning.files import whole_file


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
    with whole_file(folder / cfg_name) as description, whole_file(folder / weights_name) as weights:
        try:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, weights)
        except SafetensorError as error:
            raise UserError(f"{folder / weights_name} cannot be written: {error}") from error
        hash_of_weights = {"sha256": sha256(weights)} if hashed else {}
        text = json.dumps({**cfg, **hash_of_weights}, indent=2, allow_nan=False)
        description.write_text(text + "\n", encoding="utf-8")
        weights.chmod(description.stat().st_mode)  # safetensors lets nobody else read
    return folder


def sha256(path: Path) -> str:
    """The hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

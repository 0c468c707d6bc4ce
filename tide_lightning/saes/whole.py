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
    """Write JSON and safetensors; `hashed` lets the JSON name the hash of the other, and its own."""
    folder = Path(folder)
    with whole_file(folder / cfg_name) as description, whole_file(folder / weights_name) as weights:
        try:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, weights)
        except SafetensorError as error:
            raise UserError(f"{folder / weights_name} cannot be written: {error}") from error
        written = sealed({**cfg, "sha256": sha256(weights)}) if hashed else cfg
        description.write_text(json.dumps(written, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        weights.chmod(description.stat().st_mode)  # safetensors lets nobody else read
    return folder


def sealed(cfg: Mapping[str, object]) -> dict[str, object]:
    """A description with its own hash, `cfg_sha256`: of all its other keys, as JSON without spaces, keys sorted."""
    told = json.loads(json.dumps({key: cfg[key] for key in cfg if key != "cfg_sha256"}, allow_nan=False))
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return {**told, "cfg_sha256": hashlib.sha256(text.encode()).hexdigest()}


def sha256(path: Path) -> str:
    """The hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""An SAE on disk: a folder with cfg.json and sae.safetensors, local or on the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import tide_lightning
from tide_lightning.errors import UserError

SCHEMA = 1


def write_folder(folder: str | Path, cfg: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    """Write both files; each appears whole or not at all, so an interrupted save damages nothing."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"schema": SCHEMA, "tide_lightning": tide_lightning.__version__, **cfg}, indent=2)
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, folder / "sae.safetensors.part")
    (folder / "cfg.json.part").write_text(text + "\n", encoding="utf-8")
    for name in ("sae.safetensors", "cfg.json"):
        (folder / f"{name}.part").replace(folder / name)
    return folder


def find_folder(source: str | Path, site: str | None = None, revision: str | None = None) -> Path:
    """The folder that holds cfg.json: `source` itself, its sub-folder `site`, or a hub repository's.

    Args:
        source: a folder or a hub id.
        site: the sub-folder, where there are several.
        revision: of the hub repository.
    """
    folder = Path(source)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(str(source), revision=revision))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise UserError(f"{source}: neither a folder nor a hub repository that can be reached") from error
    folder = folder / site if site else folder
    if not (folder / "cfg.json").is_file():
        inside = sorted(path.parent.name for path in folder.glob("*/cfg.json"))
        raise UserError(f"{folder}: no cfg.json there" + (f"; choose a site: {', '.join(inside)}" if inside else ""))
    return folder


def read_cfg(folder: Path) -> dict[str, Any]:
    """What cfg.json says."""
    try:
        cfg = json.loads((folder / "cfg.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{folder}/cfg.json is not JSON: {error}") from error
    if not isinstance(cfg, dict) or cfg.get("schema") != SCHEMA:
        found = cfg.get("schema") if isinstance(cfg, dict) else None
        raise UserError(f"{folder}/cfg.json has schema {found}; this version reads {SCHEMA}")
    return cfg


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `write_folder` wrote."""
    cfg = read_cfg(folder)
    try:
        return cfg, load_file(folder / "sae.safetensors")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder}/sae.safetensors cannot be read ({error}): save or download it again") from error

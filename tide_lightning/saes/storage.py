"""An SAE on disk as it is written here: a folder with cfg.json and sae.safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

import tide_lightning
from tide_lightning.errors import UserError
from tide_lightning.saes.untrusted import read_json, read_safetensors
from tide_lightning.saes.whole import sealed, sha256, write_pair

SCHEMA = 2
CFG, WEIGHTS = "cfg.json", "sae.safetensors"


def write_folder(folder: str | Path, cfg: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    """Write both files; each appears whole or not at all, and cfg.json says which weights it belongs to."""
    head = {"schema": SCHEMA, "tide_lightning": tide_lightning.__version__}
    return write_pair(folder, CFG, {**head, **cfg}, WEIGHTS, tensors, hashed=True)


def is_ours(folder: Path) -> bool:
    """Whether a folder was written by `write_folder`, as far as its cfg.json tells."""
    return (folder / CFG).is_file() and "schema" in read_json(folder / CFG)


def read_cfg(folder: Path) -> dict[str, Any]:
    """What cfg.json says."""
    cfg = read_json(folder / CFG)
    if cfg.get("schema") != SCHEMA:
        raise UserError(f"{folder / CFG} has schema {cfg.get('schema')}; this version reads {SCHEMA}")
    if "cfg_sha256" in cfg and cfg["cfg_sha256"] != sealed(cfg)["cfg_sha256"]:  # older ones do not have it
        raise UserError(f"{folder / CFG} is damaged, or was changed by hand: save or download it again")
    return cfg


def read_site(folder: Path) -> str:
    """The site that an SAE of a run belongs to."""
    site = read_cfg(folder).get("site")
    if not isinstance(site, str):
        raise UserError(f"{folder / CFG} names no site: it was not written by a run")
    return site


def saes_in(folder: Path) -> dict[str, Path]:
    """The folders of a run's SAEs, which lie in its folder `saes`, by their sites."""
    return {read_site(path.parent): path.parent for path in sorted(folder.glob(f"*/{CFG}"))}


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `write_folder` wrote."""
    cfg, path = read_cfg(folder), folder / WEIGHTS
    tensors = read_safetensors(path)
    if "sha256" in cfg and cfg["sha256"] != sha256(path):  # older ones do not have it
        raise UserError(f"{path} is damaged, or not what {CFG} was written with: save or download it again")
    return cfg, tensors

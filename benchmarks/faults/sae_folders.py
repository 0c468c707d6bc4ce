"""Folders of SAEs that no software of ours made: odd descriptions, tensors of other sizes, numbers that are none."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

from benchmarks.faults.fits import Reference, fresh, same
from benchmarks.faults.trial import Trial, limit_memory
from tide_lightning.errors import UserError
from tide_lightning.saes import SAE
from tide_lightning.saes.whole import sealed, sha256

GOAL, SECONDS = 300, 15

_VALUES: list[Any] = [
    None, True, -1, 0, 1, 3, 10**6, 10**12, 10**400, 0.5, 1e308, "", "a", "\0", "TideSAE", "os.system", "../..",
    "a" * 10000, [], [1, 2], [[]], [10**9, 10**9], {}, {"a": 1}, math.nan, math.inf,
]  # fmt: skip


class Folder(NamedTuple):
    """An SAE's, and what its two files hold."""

    path: Path
    cfg: dict[str, Any]
    tensors: dict[str, torch.Tensor]


def prepare(reference: Reference, folder: Path) -> Folder:
    """An SAE."""
    path = next((reference.run / "saes").iterdir())
    limit_memory()
    return Folder(path, json.loads((path / "cfg.json").read_text()), load_file(path / "sae.safetensors"))


def attempt(given: Folder, draw: Random, folder: Path) -> Trial:
    """Write an odd folder and load it."""
    fresh(folder)
    cfg = json.loads(json.dumps(given.cfg))
    tensors = {name: tensor.clone() for name, tensor in given.tensors.items()}
    kind = draw.choice(["cfg", "cfg", "cfg", "missing", "tensor", "json", "links"])
    path = folder / "sae"
    shutil.copytree(given.path, path)
    what = f"{kind} changed"
    if kind in ("cfg", "missing"):
        place = draw.choice([cfg, cfg, *(value for value in cfg.values() if isinstance(value, dict) and value)])
        key = draw.choice(sorted(place))
        value = draw.choice(_VALUES)
        what = f"without {key}" if kind == "missing" else f"{key}: {value!r:.60}"
        if kind == "missing":
            del place[key]
        else:
            place[key] = value
    elif kind == "tensor":
        what = _change(tensors, draw)
        save_file(tensors, path / "sae.safetensors")
        cfg["sha256"] = sha256(path / "sae.safetensors")
    text = json.dumps(cfg if draw.random() < 0.3 else _resealed(cfg))
    if kind == "json":
        text = draw.choice(
            ["", "[]", "null", "{", "[" * 100_000, text.replace(":", ";", 1), "\ud800", '{"schema": 1e999}']
        )
        what = f"cfg.json is {text[:30]!r}"
    if kind == "links":
        name = draw.choice(["cfg.json", "sae.safetensors"])
        (path / name).unlink()
        (path / name).symlink_to(draw.choice([name, "/dev/null", "..", "nowhere"]))
        what = f"{name} links to {os.readlink(path / name)}"
    else:
        (path / "cfg.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        sae = SAE.from_pretrained(path)
    except UserError:
        return Trial("refused", what)
    described = (cfg["class"], cfg["shape"], cfg["sae"]) == tuple(given.cfg[key] for key in ("class", "shape", "sae"))
    finite = all(tensor.isfinite().all() for tensor in sae.state_dict().values())
    is_same = same({name: sae.state_dict()[name] for name in given.tensors}, given.tensors)
    if not finite or (described and not is_same and kind != "tensor"):
        return Trial("wrong", what)
    return Trial("survived", what)


def _resealed(cfg: dict[str, Any]) -> dict[str, Any]:
    """With the hash that whoever forges it would write, where there can be one."""
    try:
        return sealed(cfg)
    except ValueError:
        return {key: value for key, value in cfg.items() if key != "cfg_sha256"}


def _change(tensors: dict[str, torch.Tensor], draw: Random) -> str:
    name = draw.choice(sorted(tensors))
    tensor = tensors[name]
    how = draw.choice(["nan", "inf", "shape", "dtype", "missing", "more", "empty"])
    if how in ("nan", "inf") and tensor.is_floating_point() and tensor.numel():
        tensor.view(-1)[0] = float(how)
    elif how == "shape":
        tensors[name] = torch.zeros(3, 5)
    elif how == "dtype":
        tensors[name] = tensor.to(draw.choice([torch.int32, torch.float64, torch.bool]))
    elif how == "missing":
        del tensors[name]
    elif how == "more":
        tensors["more"] = torch.zeros(2)
    else:
        tensors[name] = torch.zeros(0)
    return f"{name}: {how}"

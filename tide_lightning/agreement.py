"""Ranks that were started with different settings would each train its own SAEs, and none would say so."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch.distributed as dist

from tide_lightning.errors import UserError
from tide_lightning.reduction import is_distributed


def agree_on(settings: Mapping[str, Any]) -> None:
    """Refuse to start where a rank's settings differ from rank 0's; every rank must call it."""
    if not is_distributed():
        return
    ours = dict(_flat(settings))
    text = json.dumps(ours, sort_keys=True)
    hashes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(hashes, hashlib.sha256(text.encode()).hexdigest())
    if len(set(hashes)) == 1:
        return
    all_settings: list[Any] = [None] * len(hashes)
    dist.all_gather_object(all_settings, ours)
    first = all_settings[0]
    rank = next(rank for rank, found in enumerate(hashes) if found != hashes[0])
    theirs = all_settings[rank]
    name = next(name for name in sorted({*first, *theirs}) if first.get(name) != theirs.get(name))
    raise UserError(
        f"ranks were started with different settings: {name} is {first.get(name, 'absent')} on rank 0 and "
        f"{theirs.get(name, 'absent')} on rank {rank}; start all of them with the same command and files"
    )


def _flat(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Every setting by its dotted name, as text."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple) and value:
        for place, inner in enumerate(value):
            yield from _flat(inner, f"{name}.{place}")
    else:
        yield name, str(value)

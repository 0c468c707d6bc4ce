"""Batches as named tensors, and back; what all sites share is held once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tide_lightning.datamodules.shards import Shard
from tide_lightning.tokens import TokenBatch

Parts = list[dict[str, TokenBatch]]
"""One batch: {site: tokens} for each of its sources."""


def pack(batches: Sequence[Parts]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Batches of equal size as tensors on the CPU, one after the other.

    Returns:
        Tensors by `<part>|<site>|<field>`, and for each such name, in order, that of the tensor that holds it.
    """
    tensors: dict[str, Tensor] = {}
    held_by: dict[str, str] = {}
    for number, part in enumerate(batches[0]):
        first_of: dict[int, str] = {}
        for site, tokens in part.items():
            for field, value in tokens.tensors().items():
                name = f"{number}|{site}|{field}"
                held_by[name] = first_of.setdefault(id(value), name)
                if held_by[name] == name:
                    tensors[name] = torch.cat([getattr(parts[number][site], field).cpu() for parts in batches])
    return tensors, held_by


def unpack(tensors: dict[str, Tensor], held_by: dict[str, str], num_batches: int) -> list[Parts]:
    """The batches that `pack` was given."""
    split = {name: value.chunk(num_batches) for name, value in tensors.items()}
    named: dict[int, dict[str, dict[str, Any]]] = {}
    for name, holder in held_by.items():  # tensors come back from a file in any order
        number, site, field = name.split("|")
        named.setdefault(int(number), {}).setdefault(site, {})[field] = split[holder]
    order = [[(site, named[number][site]) for site in named[number]] for number in sorted(named)]
    return [
        [
            {site: TokenBatch(**{field: values[place] for field, values in found.items()}) for site, found in part}
            for part in order
        ]
        for place in range(num_batches)
    ]


def join_ranks(ranks: Sequence[Parts], shard: Shard, num_samples: int) -> Parts:
    """One rank's samples of a batch that other ranks made: slot s of S belongs to rank s mod W."""
    joined: Parts = []
    for parts in zip(*ranks, strict=True):
        whole = {site: TokenBatch.concatenate([part[site] for part in parts]) for site in parts[0]}
        joined.append(
            {
                site: tokens.select(tokens.sample % num_samples % shard.world == shard.rank)
                for site, tokens in whole.items()
            }
        )
    return joined

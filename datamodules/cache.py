"""Harvested activations on disk: safetensors shards, each with its checksum in its name.

    <folder>/cache.json                                        what the cache holds
    <folder>/<purpose>/<number>-<rank>of<world>-<checksum>.safetensors   some consecutive batches of one rank

A shard appears whole or not at all, and may be deleted at any time: what is missing is harvested again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor
from torchdata.nodes import BaseNode

from tide_lightning.datamodules.loader import ActivationNode, Tokens, join_sources
from tide_lightning.datamodules.sampling import Shard, gather_objects
from tide_lightning.errors import UserError
from tide_lightning.files import write_bytes
from tide_lightning.tokens import TokenBatch

SCHEMA = 2

Parts = list[dict[str, TokenBatch]]
"""One batch: {site: tokens} for each of its sources."""

_NAME = re.compile(r"(\d+)-(\d+)of(\d+)-([0-9a-f]{16})\.safetensors")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DiskCache:
    """Where harvested activations are kept, to train many SAEs from one harvest.

    Args:
        folder: of one harvest; made if it is not there.
        max_gib: disk space, over all ranks. Once it is used up, further batches are harvested each time.
        batches_per_shard: batches in a file.
    """

    folder: str
    max_gib: float = 100.0
    batches_per_shard: int = 16

    def __post_init__(self) -> None:
        """Check."""
        if self.max_gib <= 0 or self.batches_per_shard < 1:
            raise UserError("cache: max_gib must be above 0 and batches_per_shard at least 1")

    def open(self, contents: dict[str, Any]) -> Path:
        """The folder, for activations that `contents` describes; an error if it holds others."""
        folder = Path(self.folder).expanduser()
        path = folder / "cache.json"
        ours = {"schema": SCHEMA, "batches_per_shard": self.batches_per_shard, **contents}
        try:
            if not path.is_file():
                write_bytes(path, (json.dumps(ours, indent=2) + "\n").encode(), shared=True)  # by every rank
            theirs = dict(json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, ValueError):
            raise UserError(f"{path} is damaged: delete the folder, or name another in data.cache.folder") from None
        except OSError as error:
            raise UserError(f"cannot use the cache in {folder}: {error.strerror or error}") from None
        except UserError as error:
            raise UserError(f"cannot use the cache in {folder}: {error}") from None
        for name, value in json.loads(json.dumps(ours)).items():
            there = theirs.get(name)
            if there != value:
                raise UserError(
                    f"the cache in {folder} holds other activations: {name} is {there} there and {value} here; "
                    "name another folder in data.cache.folder"
                )
        return folder


class CachedNode(BaseNode[Tokens]):  # type: ignore[misc]  # torchdata is untyped here
    """Gives the very batches of the node inside, in its order; those made on the way are kept on disk."""

    def __init__(self, inner: ActivationNode, files: ShardFiles, device: torch.device) -> None:
        super().__init__()
        self._inner = inner
        self._files = files
        self._device = device
        self._num_batches = 0
        self._complete: set[int] = set()
        self._filling: list[Parts] = []
        self._shards: dict[int, Future[list[Parts]]] = {}
        self._reader = ThreadPoolExecutor(max_workers=1)

    def reset(self, initial_state: dict[str, Any] | None = None) -> None:
        """Go to the beginning, or to where a state was taken; all ranks must do so."""
        super().reset(initial_state)
        self._inner.reset(initial_state)
        self._num_batches = self._inner.num_batches
        self._complete = self._files.complete()
        self._filling.clear()
        self._shards.clear()

    def get_state(self) -> dict[str, Any]:
        """As the node inside has it; where the cache is ahead of it, without trajectories (they are found again)."""
        if self._inner.num_batches != self._num_batches:
            self._inner.seek(self._num_batches)
        return self._inner.get_state()

    def next(self) -> Tokens:
        """The next batch, its sources joined."""
        return join_sources(self.parts())

    def parts(self) -> Parts:
        """The next batch, one dictionary per source."""
        number, place = divmod(self._num_batches, self._files.batches_per_shard)
        if number in self._complete:
            parts = self._shard(number)[place]
            self._num_batches += 1
            to = partial(TokenBatch.to, device=self._device, non_blocking=True)
            return [{site: to(tokens) for site, tokens in part.items()} for part in parts]
        if self._inner.num_batches != self._num_batches:
            self._inner.seek(self._num_batches)
        parts = self._inner.parts()
        self._num_batches += 1
        self._keep(number, place, parts)
        return parts

    def _shard(self, number: int) -> list[Parts]:
        """A shard's batches, while the next one is being read."""
        for wanted in (number, number + 1):
            if wanted in self._complete and wanted not in self._shards:
                self._shards[wanted] = self._reader.submit(self._files.read, wanted)
        for passed in [other for other in self._shards if other < number]:
            del self._shards[passed]
        return self._shards[number].result()

    def _keep(self, number: int, place: int, parts: Parts) -> None:
        if place == 0:
            self._filling.clear()
        if len(self._filling) != place:
            return  # its beginning was made by an earlier run
        self._filling.append([{site: tokens.to("cpu") for site, tokens in part.items()} for part in parts])
        if len(self._filling) == self._files.batches_per_shard:
            self._files.write(number, self._filling)
            self._filling.clear()


class ShardFiles:
    """One rank's shards of one purpose.

    Args:
        folder: of the purpose.
        shard: this rank's share of the slots.
        num_samples: samples in a batch over the whole world, from which follows whose a sample is.
        batches_per_shard: batches in a file.
        max_bytes: disk space of this rank.
        for_gpu: what is read goes to memory from which a GPU copies without the host's waiting.
    """

    def __init__(
        self,
        folder: Path,
        shard: Shard,
        num_samples: int,
        batches_per_shard: int,
        max_bytes: float,
        for_gpu: bool = False,
    ) -> None:
        self._folder = folder
        self._shard = shard
        self._num_samples = num_samples
        self.batches_per_shard = batches_per_shard
        self._max_bytes = max_bytes
        self._for_gpu = for_gpu
        self._is_open = True  # for more
        self._paths: dict[tuple[int, int, int], Path] = {}
        for path in sorted(folder.glob("*.safetensors")):
            if match := _NAME.fullmatch(path.name):
                number, rank, world = (int(digits) for digits in match.groups()[:3])
                self._paths[number, rank, world] = path

    def complete(self) -> set[int]:
        """The shards that every rank finds; all ranks must ask."""
        mine = {number: True for number in {number for number, _, _ in self._paths} if self._sources(number)}
        return set.intersection(*(set(found) for found in gather_objects(mine, self._shard)))

    def read(self, number: int) -> list[Parts]:
        """The batches of a shard, this rank's samples of each."""
        files = [unpack(*self._read_file(path), self.batches_per_shard) for path in self._sources(number)]
        if (number, self._shard.rank, self._shard.world) in self._paths:
            return files[0]
        return [join_ranks(parts, self._shard, self._num_samples) for parts in zip(*files, strict=True)]

    def _read_file(self, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
        tensors, held_by = _read_whole(path)
        return {name: tensor.pin_memory() for name, tensor in tensors.items()} if self._for_gpu else tensors, held_by

    def write(self, number: int, batches: list[Parts]) -> None:
        """Keep a shard, if there is room for it."""
        if not self._is_open:
            return
        tensors, held_by = pack(batches)
        content = save(tensors, {"held_by": json.dumps(held_by)})
        rank, world = self._shard.rank, self._shard.world
        path = self._folder / f"{number:06}-{rank}of{world}-{_checksum(content)}.safetensors"
        used = sum(other.stat().st_size for other in self._folder.glob(f"*-{rank}of{world}-*.safetensors"))
        if used + len(content) > self._max_bytes:
            self._close(f"max_gib is used up after {number} shards")
            return
        try:
            write_bytes(path, content)
        except UserError as error:
            self._close(str(error))

    def _close(self, reason: str) -> None:
        self._is_open = False
        _log.warning("the activation cache does not grow any more: %s; batches are harvested as without it", reason)

    def _sources(self, number: int) -> list[Path]:
        """The files that hold this rank's samples: its own, or all of another number of ranks."""
        own = self._paths.get((number, self._shard.rank, self._shard.world))
        if own is not None:
            return [own]
        for world in sorted({world for of, _, world in self._paths if of == number}):
            paths = [self._paths.get((number, rank, world)) for rank in range(world)]
            if world != self._shard.world and None not in paths:
                return [path for path in paths if path is not None]
        return []


def _read_whole(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the cache shard {path}: {error.strerror or error}") from None
    if _checksum(content) not in path.name:
        raise UserError(
            f"the cache shard {path} is damaged (its checksum differs): delete it, and it is harvested again"
        )
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return load(content), json.loads(header["__metadata__"]["held_by"])


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


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
                    tensors[name] = torch.cat([parts[number][site].tensors()[field].cpu() for parts in batches])
    return tensors, held_by


def unpack(tensors: dict[str, Tensor], held_by: dict[str, str], num_batches: int) -> list[Parts]:
    """The batches that `pack` was given."""
    split = {name: value.chunk(num_batches) for name, value in tensors.items()}
    named: dict[int, dict[str, dict[str, tuple[Tensor, ...]]]] = {}
    for name, holder in held_by.items():  # tensors come back from a file in any order
        number, site, field = name.split("|")
        named.setdefault(int(number), {}).setdefault(site, {})[field] = split[holder]
    order = [[(site, named[number][site]) for site in named[number]] for number in sorted(named)]
    return [
        [
            {site: TokenBatch.of({field: values[place] for field, values in found.items()}) for site, found in part}
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

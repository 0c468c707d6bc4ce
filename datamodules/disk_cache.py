"""Harvested activations on disk: safetensors shards, each with its checksum in its name.

    <folder>/cache.json                                        what the cache holds
    <folder>/<purpose>/<number>-<rank>of<world>-<checksum>.safetensors   some consecutive batches of one rank

A shard appears whole or not at all, and may be deleted at any time: what is missing is harvested again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load, save

from tide_lightning.datamodules.packing import Parts, join_ranks, pack, unpack
from tide_lightning.datamodules.shards import Shard, gather_objects
from tide_lightning.errors import UserError

SCHEMA = 1
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

    def open(self, contents: dict[str, Any]) -> Path:
        """The folder, for activations that `contents` describes; an error if it holds others."""
        folder = Path(self.folder).expanduser()
        path = folder / "cache.json"
        ours = {"schema": SCHEMA, "batches_per_shard": self.batches_per_shard, **contents}
        try:
            if not path.is_file():
                folder.mkdir(parents=True, exist_ok=True)
                _write_whole(path, (json.dumps(ours, indent=2) + "\n").encode())
            theirs = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise UserError(f"{path} is damaged: delete the folder, or name another in data.cache.folder") from None
        except OSError as error:
            raise UserError(f"cannot use the cache in {folder}: {error.strerror or error}") from None
        for name, value in json.loads(json.dumps(ours)).items():
            there = theirs.get(name)
            if there != value:
                raise UserError(
                    f"the cache in {folder} holds other activations: {name} is {there} there and {value} here; "
                    "name another folder in data.cache.folder"
                )
        return folder


class ShardFiles:
    """One rank's shards of one purpose.

    Args:
        folder: of the purpose.
        shard: this rank's share of the slots.
        num_samples: samples in a batch over the whole world, from which follows whose a sample is.
        batches_per_shard: batches in a file.
        max_bytes: disk space of this rank.
    """

    def __init__(self, folder: Path, shard: Shard, num_samples: int, batches_per_shard: int, max_bytes: float) -> None:
        self._folder = folder
        self._shard = shard
        self._num_samples = num_samples
        self.batches_per_shard = batches_per_shard
        self._max_bytes = max_bytes
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
        files = [unpack(*_read_whole(path), self.batches_per_shard) for path in self._sources(number)]
        if (number, self._shard.rank, self._shard.world) in self._paths:
            return files[0]
        return [join_ranks(parts, self._shard, self._num_samples) for parts in zip(*files, strict=True)]

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
            self._folder.mkdir(parents=True, exist_ok=True)
            _write_whole(path, content)
        except OSError as error:
            self._close(f"cannot write {path}: {error.strerror or error}")

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


def _write_whole(path: Path, content: bytes) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


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

"""Batches from the disk cache where it has them, from the denoiser where it does not."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torchdata.nodes import BaseNode

from tide_lightning.datamodules.disk_cache import ShardFiles
from tide_lightning.datamodules.loader import ActivationNode, Tokens, join_sources
from tide_lightning.datamodules.packing import Parts


class CachedNode(BaseNode[Tokens]):  # type: ignore[misc]  # torchdata is untyped here
    """Gives the very batches of the node inside, in its order; those made on the way are kept on disk.

    Args:
        inner: harvests.
        files: what is kept.
        device: where batches go.
    """

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
            return [{site: tokens.to(self._device) for site, tokens in part.items()} for part in parts]
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

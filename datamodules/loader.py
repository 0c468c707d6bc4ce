"""The training loader: slices of an endless stream that carries its own state, made beside the training."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import torch
from torchdata.nodes import BaseNode

from tide_lightning.cores import core_to_spare
from tide_lightning.datamodules.sampling import DenoiseStream, NoiseStream, Shard, gather_objects
from tide_lightning.diffusion.streams import hold
from tide_lightning.errors import UserError
from tide_lightning.tokens import TokenBatch

_MOST_AHEAD = 2  # batches

T = TypeVar("T")
Tokens = dict[str, TokenBatch]


class ActivationNode(BaseNode[Tokens]):  # type: ignore[misc]  # torchdata is untyped here
    """A torchdata node without an end: batch k joins the k-th batches of its sources.

    Args:
        noise: the `noise` source, or None.
        denoise: the `denoise` source, or None.
        shard: this rank's share.
        signature: what must not change between saving and resuming.
    """

    def __init__(
        self,
        noise: NoiseStream | None,
        denoise: DenoiseStream | None,
        shard: Shard,
        signature: dict[str, Any],
    ) -> None:
        super().__init__()
        self._noise = noise
        self._denoise = denoise
        self._shard = shard
        self._signature = signature
        self.num_batches = 0

    @property
    def is_counted(self) -> bool:
        """Whether the number of batches made is all that the next one depends on."""
        return self._denoise is None

    def reset(self, initial_state: dict[str, Any] | None = None) -> None:
        """Go to the beginning, or to where a state was taken."""
        super().reset(initial_state)
        state = initial_state or {"batches": 0, "trajectories": {}, "signature": self._signature}
        for name, value in self._signature.items():
            if state["signature"].get(name) != value:
                raise UserError(
                    f"the checkpoint's data was made with {name} {state['signature'].get(name)}, not {value}: "
                    "its samples cannot be continued"
                )
        self.seek(state["batches"])
        if self._denoise is not None and state["trajectories"]:
            self._denoise.trajectories.load_state_dict(state["trajectories"])

    def seek(self, num_batches: int) -> None:
        """Go to where making `num_batches` leads; the trajectories under way there are walked, nothing else is made."""
        self.num_batches = num_batches
        if self._denoise is not None:
            self._denoise.trajectories.seek(num_batches)

    def get_state(self) -> dict[str, Any]:
        """Batches made and the trajectories under way on all ranks; every rank must call it."""
        trajectories: dict[str, Any] = {}
        if self._denoise is not None:
            for states in gather_objects(self._denoise.trajectories.state_dict(), self._shard):
                trajectories.update(states)
        return {
            "batches": self.num_batches,
            "trajectories": trajectories,
            "signature": dict(self._signature),
        }

    def parts(self) -> list[Tokens]:
        """The next batch, one dictionary per source."""
        sources = [source for source in (self._noise, self._denoise) if source is not None]
        parts = [source.batch(self.num_batches) for source in sources]
        self.num_batches += 1
        return parts

    def next(self) -> Tokens:
        """The next batch, its sources joined."""
        return join_sources(self.parts())


def join_sources(parts: list[Tokens]) -> Tokens:
    """One batch of what several sources gave."""
    first, *others = parts
    if not others:
        return first
    return {site: TokenBatch.concatenate([first[site], *(part[site] for part in others)]) for site in first}


class ActivationLoader:
    """`num_batches` batches an epoch from a node without an end.

    Iterating goes on where the last iteration left off; nothing is made before it is asked for. After `load_state_dict`
    the next batch is the one that would have followed when the state was taken.

    On a GPU batches are made on a stream of their own. The host asks for the next batch as soon as it has asked for a
    step, long before the step is done, so both run side by side; the training's stream waits for the batch that it
    needs. Whatever else is made on the training's stream between two batches (validation, samples, spliced forwards)
    fills the same caches of prompts and latents, and they put both streams in order (`diffusion.streams`).

    On a CPU with a core to spare the next batches are made in a thread during the step, where the node's state counts
    batches and nothing else: two, so that the thread need not wait for a step that uses one core at its end.
    """

    def __init__(self, node: BaseNode[Tokens], num_batches: int, device: torch.device, ahead: bool = True) -> None:
        self._node = node
        self._num_batches = num_batches
        self._device, self._module = device, torch.get_device_module(device)
        self._stream: Any = self._module.Stream(device) if ahead and device.type == "cuda" else None
        self._ahead: Ahead[Tokens] | None = None
        if ahead and core_to_spare(device) and isinstance(node, ActivationNode) and node.is_counted:
            self._ahead = Ahead(lambda: next(node), _MOST_AHEAD)

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[Tokens]:
        if self._stream is not None:
            self._module.synchronize(self._device)
        for _ in range(self._num_batches):
            yield self._next()

    def _next(self) -> Tokens:
        if self._ahead is not None:
            return self._ahead.next()
        batch: Tokens = next(self._node) if self._stream is None else self._beside_training(self._stream)
        return batch

    def _beside_training(self, stream: Any) -> Tokens:
        with self._module.stream(stream):
            batch: Tokens = next(self._node)
        self._module.current_stream(self._device).wait_stream(stream)
        for tokens in batch.values():
            hold(tokens.tensors().values())  # lest its memory be used again before the step has read it
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is."""
        num_waiting = self._ahead.settle() if self._ahead is not None else 0
        state: dict[str, Any] = self._node.state_dict()
        return {**state, "batches": state["batches"] - num_waiting} if num_waiting else state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go there."""
        if self._ahead is not None:
            self._ahead.forget()
        self._node.reset(state)


class Ahead(Generic[T]):
    """Makes the next things in a thread while the last one is used.

    Args:
        make: called by one thread at a time; what it raises reaches who asked.
        number: of things that wait at most.
    """

    def __init__(self, make: Callable[[], T], number: int = 1) -> None:
        self._make = make
        self._number = number
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="harvest")
        self._waiting: deque[Future[T]] = deque()

    def next(self) -> T:
        """The next one; those after it are begun."""
        if not self._waiting:
            self._begin()
        made = self._waiting.popleft().result()
        while len(self._waiting) < self._number:
            self._begin()
        return made

    def _begin(self) -> None:
        self._waiting.append(self._thread.submit(self._make))

    def settle(self) -> int:
        """Wait until nothing is under way; how many were made that nobody has taken."""
        return sum(waiting.exception() is None for waiting in self._waiting)

    def forget(self) -> None:
        """Drop what was made."""
        self.settle()
        self._waiting.clear()


def one_ahead(items: Iterator[T], device: torch.device) -> Iterator[T]:
    """The same items, made on this device; with a core to spare, the next is made in a thread while one is used."""
    if not core_to_spare(device):
        yield from items
        return
    ahead = Ahead(lambda: next(items, None))
    try:
        while (item := ahead.next()) is not None:
            yield item
    finally:
        ahead.forget()

"""What stands in for CUDA graphs on a CPU: a tape of operations, with the addresses at which they read and write.

As a graph, it knows nothing of the Python that made it: numbers are those of the recording, tensors where they were.
Recording leaves everything as it was, and whatever the operations made is forgotten. Operations for which a host would
wait for its GPU are refused. Launches of Triton's kernels, which its interpreter runs here, are on the tape too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from triton.runtime.interpreter import InterpretedFunction

T = TypeVar("T")
_WAITS = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "is_nonzero",
    "_unique2",
    "lift_fresh",
    "equal",
    "bincount",
)


class _Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Callable[..., Any], Any, dict[str, Any], Any]] = []
        self.before: dict[int, tuple[Any, Any]] = {}  # memory from outside, and what was in it
        self.made: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        _refuse(func, args, kwargs or {})
        return self.call(func, args, kwargs or {})

    def call(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        with _disable_current_modes(), torch.autocast("cpu", enabled=False):  # types are settled
            return self._call(func, args, kwargs)

    def _call(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        for tensor in _tensors((args, kwargs)):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self.made:
                self.before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        made = func(*args, **kwargs)
        for tensor in _tensors(made):
            if tensor.untyped_storage().data_ptr() not in self.before:
                self.made.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        self.calls.append((func, args, kwargs, made))
        return made

    @contextmanager
    def listening(self) -> Iterator[None]:
        launch = InterpretedFunction.run

        def run(kernel: Any, *args: Any, **kwargs: Any) -> None:
            self.call(partial(launch, kernel), args, kwargs)

        with mock.patch.object(InterpretedFunction, "run", run), self:
            yield

    def forget(self) -> None:
        for storage, content in self.before.values():
            storage.copy_(content)
        for tensor in self.made.values():
            storage = tensor.untyped_storage()
            torch.empty(0, dtype=torch.uint8).set_(storage, 0, (len(storage),), (1,)).fill_(255)  # NaN, or -1

    def run(self) -> None:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            for func, args, kwargs, made in self.calls:
                for there, now in zip(_tensors(made), _tensors(func(*args, **kwargs)), strict=True):
                    if there.data_ptr() != now.data_ptr():
                        there.copy_(now)


class Tape:
    """Records steps as `CudaGraphs` does."""

    def __init__(self) -> None:
        self.num_recorded = 0

    def attempt(self, function: Callable[[], T]) -> T:
        with _Operations().listening():
            return function()

    def record(self, function: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        self.num_recorded += 1
        operations = _Operations()
        with operations.listening():
            made = function()
        operations.forget()
        return made, operations.run


def _refuse(func: Any, args: Any, kwargs: dict[str, Any]) -> None:
    name = func.overloadpacket.__name__
    by_mask = name.startswith("index") and any(
        tensor.dtype == torch.bool for tensor in tree_leaves(args[1:2]) if _is(tensor)
    )
    repeats = name == "repeat_interleave" and kwargs.get("output_size") is None
    if name in _WAITS or by_mask or repeats:
        raise RuntimeError(f"the host would wait: {name}")


def _is(leaf: Any) -> bool:
    return isinstance(leaf, Tensor)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.numel()]

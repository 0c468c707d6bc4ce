"""Weights sharded by rows over ranks (PyTorch's FSDP2), for dictionaries that do not fit one GPU.

Weight, gradient and Adam's moments of a latent live on one rank; a forward gathers the weights, and what it gathered is
freed again. All that is done to single rows (unit norm, projected gradients) is done where they live.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def shard_rows(module: nn.Module, mesh: Any, *methods: str) -> None:
    """Shard every parameter of a module, which is called by `forward` and by these methods."""
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    fully_shard(module, mesh=mesh, reshard_after_forward=True)
    for method in methods:
        register_fsdp_forward_method(module, method)


def is_sharded(module: nn.Module) -> bool:
    """Whether this rank holds a part of the weights only."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def class_of(module: nn.Module) -> type:
    """A module's class as it was before sharding derived one of its own."""
    from torch.distributed.fsdp import FSDPModule

    return next(known for known in type(module).__mro__ if not issubclass(known, FSDPModule))


def local_rows(tensor: Tensor) -> Tensor:
    """The rows that live here, sharing memory with the whole; all of them where nothing is sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def norm_over_ranks(norm: Tensor, like: Tensor | None) -> Tensor:
    """The norm of a tensor, given that of the rows of `like` that live here; every rank must ask."""
    if not isinstance(like, DTensor):
        return norm
    square = norm.square()
    dist.all_reduce(square)
    return square.sqrt()


def rows_here(rows: Tensor, like: Tensor) -> Tensor:
    """Which of some rows live here, numbered from the first that does."""
    if not isinstance(like, DTensor):
        return rows
    mesh = like.device_mesh
    share = -(-like.shape[0] // mesh.size())  # as torch.chunk has it
    first = share * mesh.get_local_rank()
    return rows[(rows >= first) & (rows < first + share)] - first


@contextmanager
def whole_weights(module: nn.Module) -> Iterator[None]:
    """Inside, parameters are plain tensors, and what is written to them is kept; every rank must enter."""
    parameters: list[tuple[nn.Module, str, Any]] = [
        (part, name, parameter) for part in module.modules() for name, parameter in part._parameters.items()
    ]
    sharded = [(part, name, shares) for part, name, shares in parameters if isinstance(shares, DTensor)]
    with torch.no_grad():
        for part, name, shares in sharded:
            part._parameters[name] = nn.Parameter(shares.full_tensor())
        try:
            yield
        finally:
            for part, name, shares in sharded:
                whole = part._parameters[name]
                assert whole is not None
                part._parameters[name] = shares  # type: ignore[assignment]  # a parameter and a DTensor in one
                mine = distribute_tensor(whole.detach(), shares.device_mesh, shares.placements)
                shares.to_local().copy_(mine.to_local())

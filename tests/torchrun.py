"""Processes as torchrun starts them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn


def run_ranks(work: Callable[..., None], *args: object, world: int = 2) -> None:
    """Call `work(rank, *args)` in as many processes; it must be a module's function."""
    spawn(_run_rank, (work, world, _free_port(), args), nprocs=world)


def _run_rank(rank: int, work: Callable[..., None], world: int, port: int, args: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    _join_world(rank, world, port)
    try:
        work(rank, *args)
    finally:
        if dist.is_initialized():  # gloo's threads abort a process that ends with them
            dist.destroy_process_group()


def _free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def _join_world(rank: int, world: int, port: int) -> None:
    """Give this process the environment that torchrun would."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    os.environ |= {name: str(number) for name, number in numbers.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}

"""Two processes on one device, joined by gloo: the same weights on both, near those of one process."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import torch
from torch.multiprocessing.spawn import spawn

from benchmarks.gpu_check.section import Section
from benchmarks.gpu_check.watching import fit

ARGUMENTS = ["--config", "debug"]
GLOO = ["--trainer.strategy", "DDPStrategy", "--trainer.strategy.process_group_backend", "gloo"]


def measure(section: Section) -> None:
    """As two nodes of one device each, so that both may take the same."""
    section.folder.mkdir(parents=True, exist_ok=True)
    with section.trying("two processes by gloo"):
        spawn(_rank, (_free_port(), str(section.device), str(section.folder)), nprocs=2)
        bits, losses = zip(*((section.folder / f"rank{rank}").read_text().split() for rank in range(2)), strict=True)
        section.holds("two processes by gloo end with the same bits", bits[0] == bits[1])
        alone = fit(section.folder, section.device, *ARGUMENTS, "--run_name", "alone").losses[-1]
        together = sum(map(float, losses)) / 2
        section.at_most("their last loss beside one process's, off by", abs(together / alone - 1), 0.05)


def _rank(rank: int, port: int, device: str, folder: str) -> None:
    numbers = {"RANK": rank, "GROUP_RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 1}
    os.environ |= {name: str(number) for name, number in numbers.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "gpu_check"}
    watch = fit(Path(folder), torch.device(device), *ARGUMENTS, "--run_name", "two", "--trainer.num_nodes", "2", *GLOO)
    (Path(folder) / f"rank{rank}").write_text(f"{watch.bits} {watch.losses[-1]}")
    torch.distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port

"""GPUs by their makers' public figures, and this machine by a measurement.

Peaks are those of dense matrix products (the figures with sparsity are twice as high) with float32 sums; links are one
direction between GPUs of one node: NVLink or Infinity Fabric where there is one, else PCIe 4 x16.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from tide_lightning.errors import UserError


@dataclass(frozen=True)
class Machine:
    """One device.

    Args:
        name: what people call it.
        half: peak of bfloat16 and float16 products, TFLOP/s.
        single: peak of float32 products as they are run (TF32 where there is such a thing), TFLOP/s.
        bandwidth: of its memory, GB/s.
        memory: GB.
        link: to its neighbours, GB/s in one direction.
    """

    name: str
    half: float
    single: float
    bandwidth: float
    memory: float
    link: float

    def peak(self, dtype: str) -> float:
        """Operations per second in a precision."""
        return 1e12 * (self.single if dtype == "float32" else self.half)


GPUS = {
    machine.name: machine
    for machine in (
        Machine("L4", 121, 60, 300, 24, 32),
        Machine("RTX 4090", 165, 83, 1008, 24, 32),
        Machine("L40S", 362, 183, 864, 48, 32),
        Machine("A100 80GB", 312, 156, 2039, 80, 300),
        Machine("H100 SXM", 989, 495, 3350, 80, 450),
        Machine("H200 SXM", 989, 495, 4800, 141, 450),
        Machine("B200", 2250, 1125, 8000, 180, 900),
        Machine("MI300X", 1307, 653, 5300, 192, 448),
    )
}


def gpu(name: str) -> Machine:
    """The one of that name, or the only one whose name begins so (H100)."""
    found = [known for known in GPUS if known.lower() == name.lower()]
    found = found or [known for known in GPUS if f"{known} ".lower().startswith(f"{name} ".lower())]
    if len(found) != 1:
        raise UserError(f"machines: there is no {name!r}; known are {', '.join(GPUS)}")
    return GPUS[found[0]]


def this_machine(device: torch.device, size: int = 1024, rounds: int = 7) -> Machine:
    """What this machine reaches on square products and on copying, median of some rounds."""

    def rate(dtype: torch.dtype) -> float:
        a, b = torch.randn(2, size, size, device=device).to(dtype)
        return 2 * size**3 / _seconds(lambda: a @ b, device, rounds) / 1e12

    source = torch.randn(2**24, device=device)
    target = torch.empty_like(source)
    copying = 2 * source.nbytes / _seconds(lambda: target.copy_(source), device, rounds) / 1e9
    memory = torch.cuda.get_device_properties(device).total_memory / 1e9 if device.type == "cuda" else float("inf")
    return Machine("this machine", rate(torch.bfloat16), rate(torch.float32), copying, memory, copying)


def _seconds(work: Callable[[], object], device: torch.device, rounds: int) -> float:
    times = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begun)
    return median(times[1:])

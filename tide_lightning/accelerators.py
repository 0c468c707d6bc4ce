"""What a fit takes of this machine where its configuration leaves that open: its GPU, and bf16 where that has it."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Gpu(NamedTuple):
    """A GPU that PyTorch sees, and whether it computes in bfloat16 itself."""

    name: str
    has_bf16: bool


class Taken(NamedTuple):
    """What a fit runs on, and a line on what was decided here; empty where the configuration said it all."""

    accelerator: str
    precision: str
    line: str


def gpu_here() -> Gpu | None:
    """The first GPU that PyTorch sees, and the SAEs' kernels know: one of NVIDIA's or AMD's."""
    if not torch.cuda.is_available():
        return None
    return Gpu(torch.cuda.get_device_name(0), torch.cuda.is_bf16_supported(including_emulation=False))


def take(accelerator: str, precision: str | None, gpu: Gpu | None) -> Taken:
    """Settle what is open: accelerator `auto`, and a precision that was not given.

    Apple's GPUs are left alone: they have no float64, in which figures are summed.
    """
    is_open = accelerator == "auto"
    if is_open:
        accelerator = "cpu" if gpu is None else "cuda"
    on_gpu = gpu is not None and accelerator in ("cuda", "gpu")
    chosen = precision or ("bf16-mixed" if on_gpu and gpu is not None and gpu.has_bf16 else "32-true")
    where = f"a GPU ({gpu.name})" if on_gpu and gpu is not None else "the CPU"
    why = ": PyTorch sees no GPU" if is_open and gpu is None else ""
    says_something = is_open or (on_gpu and precision is None)
    return Taken(accelerator, chosen, f"on {where} in {chosen}{why}" if says_something else "")

"""Which precision a device computes well in."""

from __future__ import annotations

import torch


def native_dtype(device: torch.device) -> str:
    """Bfloat16 where the device multiplies it at least as fast as float32, else float32."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu":  # AVX-512 and better: elsewhere PyTorch's bfloat16 products are very slow
        return "bfloat16" if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else "float32"
    return "float32"

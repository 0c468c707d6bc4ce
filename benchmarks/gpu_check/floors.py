"""Each kernel of a step beside its floor: what `benchmarks.kernels` measures, at one size."""

from __future__ import annotations

import torch

from benchmarks.gpu_check.section import Section
from benchmarks.kernels import Shape, measure_device
from benchmarks.kernels import measure as measure_kernels
from tide_lightning.kernels import DecodeBackend


def measure(section: Section) -> None:
    """At 8192 tokens, then at 32768."""
    dtype = torch.float32 if section.is_small else torch.bfloat16
    backends: list[DecodeBackend] = ["dense", "embedding_bag"] if section.is_small else ["triton", "dense"]
    speed = measure_device(dtype, section.device)
    section.found("memory", speed[0] / 1e9, "GB/s")
    section.found("matrix products", speed[1] / 1e12, "TFLOP/s")
    shapes = [Shape(48, 512, 8, 256)] if section.is_small else [Shape(1152, 18432, 64, n) for n in (8192, 32768)]
    for shape in shapes:
        with section.trying(f"kernels at {shape.batch} tokens"):
            for row in measure_kernels(shape, dtype, backends, section.device, 3 if section.is_small else 15, *speed):
                note = f"{row['times']:.1f} times its floor of {row['floor_ms']:.3f} ms"
                section.found(f"{row['kernel']}, {shape.batch} tokens", row["ms"], "ms", note)

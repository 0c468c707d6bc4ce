"""Time each kernel of a training step against its floor: `python -m benchmarks.kernels [--preset quick|full|gpu]`.

A kernel's floor is the larger of its bytes over the memory's speed and its operations over the matrix product's speed,
both measured first on the same device. Bytes count each operand and result once, but rows that are gathered as often as
they are read: for a sparse product N k rows, which a cache may serve faster than memory. Kernels run in turn, round by
round, so that whatever else the machine does hits all alike; times are medians over rounds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.timing import timed
from tide_lightning.kernels import (
    BatchTopK,
    DecodeBackend,
    Selected,
    TopK,
    encode,
    fit_values,
    normalise_rows,
    project_off_rows,
    topk,
)
from tide_lightning.kernels.backends import BACKENDS
from tide_lightning.kernels.csr import Csr, even_row_pointer

Row = dict[str, Any]


class Shape(NamedTuple):
    """One size of problem."""

    d_in: int
    d_sae: int
    k: int
    batch: int


class Work(NamedTuple):
    """One kernel's call, the bytes that it has to move and the operations of its dense products."""

    run: Callable[[], object]
    num_bytes: float
    num_operations: float


PRESETS: dict[str, tuple[list[Shape], list[torch.dtype], list[DecodeBackend], int]] = {
    "quick": (
        [Shape(128, 2048, 16, 1024), Shape(1152, 18432, 64, 1024)],
        [torch.float32],
        ["embedding_bag", "coo"],
        5,
    ),
    "full": (
        [
            *(Shape(128, 2048, k, 512) for k in (16, 64, 256, 512)),
            *(Shape(1152, 18432, k, 1024) for k in (16, 64, 256, 922)),
        ],
        [torch.float32, torch.bfloat16],
        ["dense", "embedding_bag", "coo"],
        5,
    ),
    "gpu": (
        [Shape(1152, 18432, 64, batch) for batch in (4096, 8192, 32768)],
        [torch.bfloat16],
        ["dense", "embedding_bag", "triton"],
        20,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    args = parser.parse_args()
    shapes, dtypes, backends, rounds = PRESETS[args.preset]
    device = torch.device(args.device)
    print(f"torch {torch.__version__} on {device}, {torch.get_num_threads()} thread(s), {rounds} rounds")
    rows: list[Row] = []
    for dtype in dtypes:
        speed = measure_device(dtype, device)
        print(f"\n{dtype}: {speed[0] / 1e9:.0f} GB/s, {speed[1] / 1e9:.0f} GFLOP/s\n")
        print(f"| {' | '.join(Shape._fields)} | kernel | ms | floor | times |\n|{' --- |' * 8}")
        for shape in shapes:
            for row in measure(shape, dtype, backends, device, rounds, *speed):
                cells = [str(row[name]) for name in Shape._fields]
                cells += [row["kernel"], f"{row['ms']:.2f}", f"{row['floor_ms']:.2f}", f"{row['times']:.1f}"]
                print(f"| {' | '.join(cells)} |", flush=True)
                rows.append(row)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


def measure_device(dtype: torch.dtype, device: torch.device) -> tuple[float, float]:
    """Bytes a second of a copy and operations a second of a matrix product."""
    source, target = (torch.ones(2**26, dtype=torch.uint8, device=device) for _ in range(2))
    left, right = (torch.ones(size, dtype=dtype, device=device) for size in ((1024, 1152), (1152, 9216)))
    copy = median(timed(lambda: target.copy_(source), device) for _ in range(7))
    product = median(timed(lambda: left @ right, device) for _ in range(7))
    return 2 * source.numel() / copy, 2 * 1024 * 1152 * 9216 / product


def measure(
    shape: Shape,
    dtype: torch.dtype,
    backends: list[DecodeBackend],
    device: torch.device,
    rounds: int,
    bytes_a_second: float,
    operations_a_second: float,
) -> list[Row]:
    """A row for each kernel."""
    works = works_of(shape, dtype, backends, device)
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work.run()
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(timed(work.run, device))
    rows = []
    for name, work in works.items():
        floor = max(work.num_bytes / bytes_a_second, work.num_operations / operations_a_second)
        seconds = median(times[name])
        measured = {"ms": 1e3 * seconds, "floor_ms": 1e3 * floor, "times": seconds / floor}
        rows.append({"device": str(device), "dtype": str(dtype), **shape._asdict(), "kernel": name, **measured})
    return rows


def works_of(shape: Shape, dtype: torch.dtype, backends: list[DecodeBackend], device: torch.device) -> dict[str, Work]:
    """Every kernel of a step, on one problem."""
    torch.manual_seed(0)
    d, m, k, n = shape
    size = dtype.itemsize
    x, grad = (torch.randn(n, d, device=device, dtype=dtype) for _ in range(2))
    weight = nn.functional.normalize(torch.randn(m, d, device=device), dim=1)
    low, bias = weight.to(dtype), torch.zeros(m, device=device, dtype=dtype)
    pre = x @ low.T
    values, indices = topk(pre, k)
    code = values.flatten(), indices.flatten(), even_row_pointer(indices), m
    dense, entries, gathered, codes = size * m * d, n * k, size * n * k * d, n * k * (size + 8)
    product, weight_N = 2.0 * n * m * d, torch.rand(n, device=device) + 0.5
    works = {
        "product": Work(lambda: torch.mm(x, low.T, out=pre), size * (n * d + n * m) + dense, product),
        "encode": Work(lambda: encode(x, low, bias, TopK(k)), size * n * d + dense + codes, product),
        "encode, batch's budget": Work(
            lambda: encode(x, low, bias, BatchTopK(k)), size * n * d + dense + codes, product
        ),
        "encode, batch's weighted budget": Work(
            lambda: encode(x, low, bias, BatchTopK(k, weight_N)), size * n * d + dense + codes, product
        ),
        "encode, corrected": Work(
            lambda: encode(x, low, bias, TopK(k), start=Selected(values, indices, None)),
            size * n * d + dense + 2 * codes,
            product,
        ),
        "top-k by PyTorch": Work(lambda: topk(pre, k), size * n * m + codes, 0),
        "fit values": Work(lambda: fit_values(grad, values.relu(), indices, low), gathered + 4 * n * d + codes, 0),
        "sort by latent": Work(lambda: Csr(*code).transposed(), 3 * entries * 8, 0),
    }
    for name in backends:
        backend = BACKENDS[name]
        products = {"forward": product, "gradient of values": product, "gradient of weight": product}
        operations = products if name == "dense" else dict.fromkeys(products, 0.0)
        runs: dict[str, Callable[[], Tensor]] = {
            "forward": lambda b=backend: b.forward(Csr(*code), low),  # type: ignore[misc]
            "gradient of values": lambda b=backend: b.grad_values(Csr(*code), low, grad),  # type: ignore[misc]
            "gradient of weight": lambda b=backend: b.grad_weight(Csr(*code), grad),  # type: ignore[misc]
        }
        read = size * (m + n) * d if name == "dense" else gathered + size * n * d
        for part, run in runs.items():
            written = dense if part == "gradient of weight" else 0
            works[f"{name}: {part}"] = Work(run, read + codes + written, operations[part])
    parameter = nn.Parameter(weight.clone())
    parameter.grad = torch.randn_like(parameter)
    adam = torch.optim.Adam([parameter], fused=True)
    gradient, full = parameter.grad, 4.0 * m * d
    works["projection and norm"] = Work(lambda: project_off_rows(gradient, weight), 3 * full, 0)
    works["Adam"] = Work(adam.step, 7 * full, 0)
    works["unit rows"] = Work(lambda: normalise_rows(weight), 2 * full, 0)
    return works


if __name__ == "__main__":
    main()

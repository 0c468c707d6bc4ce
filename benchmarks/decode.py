"""Time the decode backends side by side: `python -m benchmarks.decode [--preset quick|full] [--json FILE]`.

Every round runs each backend once, so that whatever else the machine does hits all of them alike. A time is the median
over rounds of one forward and backward; `x dense` is the median of the rounds' ratios dense / backend.
"""

import argparse
import functools
import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple, get_args

import torch

from tide_lightning.kernels import DecodeBackend, decode, topk


class Shape(NamedTuple):
    """One size of problem."""

    channels: int
    latents: int
    k: int
    tokens: int


NAMED = [Shape(128, 2048, 16, 512), Shape(1152, 18432, 64, 1024), Shape(1152, 18432, 922, 1024)]
PRESETS: dict[str, tuple[list[Shape], list[torch.dtype], int]] = {
    "quick": (NAMED, [torch.float32], 3),
    "full": (
        [
            *(Shape(128, 2048, k, 512) for k in (16, 32, 64, 128, 256, 512)),
            *(Shape(1152, 18432, k, 1024) for k in (16, 64, 256, 922, 1843)),
        ],
        [torch.float32, torch.bfloat16],
        7,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    args = parser.parse_args()
    shapes, dtypes, rounds = PRESETS[args.preset]
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__} on {args.device}, {threads} thread(s), {rounds} rounds; milliseconds")
    rows = []
    for dtype in dtypes:
        for shape in shapes:
            row = measure(shape, dtype, torch.device(args.device), rounds)
            print(*(f"{name} {value}" for name, value in row.items()), sep="  ", flush=True)
            rows.append(row)
    print("\n" + markdown(rows))
    if args.json:
        args.json.write_text(json.dumps({"torch": torch.__version__, "threads": threads, "rows": rows}, indent=1))


def measure(shape: Shape, dtype: torch.dtype, device: torch.device, rounds: int) -> dict[str, object]:
    """One row of the table: the shape, then milliseconds and the gain over dense for each backend."""
    torch.manual_seed(0)
    randn = functools.partial(torch.randn, device=device, dtype=dtype)
    weight = randn(shape.latents, shape.channels).requires_grad_()
    grad = randn(shape.tokens, shape.channels)
    pre = randn(shape.tokens, shape.latents)
    values, indices = topk(pre, shape.k)
    values.requires_grad_()

    def step(backend: DecodeBackend) -> Callable[[], object]:
        return lambda: torch.autograd.grad(decode(values, indices, weight, None, backend), (values, weight), grad)

    steps = {backend: step(backend) for backend in available_backends()}
    times: dict[str, list[float]] = {backend: [] for backend in steps}
    for run in steps.values():
        run()
    for _ in range(rounds):
        for backend, run in steps.items():
            times[backend].append(1e3 * seconds(run, device))
    row: dict[str, object] = {**shape._asdict(), "density": f"{shape.k / shape.latents:.2%}", "dtype": str(dtype)[6:]}
    for name, measured in times.items():
        row[name] = round(median(measured), 3)
        row[f"{name} x dense"] = round(median(map(float.__truediv__, times["dense"], measured)), 2)
    return row


def available_backends() -> list[DecodeBackend]:
    """All but `auto`, and torch-sparse only where it is installed."""
    missing = {"auto"} if importlib.util.find_spec("torch_sparse") else {"auto", "torch_sparse"}
    return [backend for backend in get_args(DecodeBackend) if backend not in missing]


def seconds(run: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def markdown(rows: list[dict[str, object]]) -> str:
    """The rows as a table for docs/numerics.md."""
    header = [name for name in rows[0] if name != "dense x dense"]
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join("---" for _ in header) + " |"]
    return "\n".join(lines + ["| " + " | ".join(str(row[name]) for name in header) + " |" for row in rows])


if __name__ == "__main__":
    main()

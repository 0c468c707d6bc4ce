"""Time the decode backends side by side: `python -m benchmarks.decode [--preset quick|full] [--json FILE]`.

Every round runs each backend once, so that whatever else the machine does hits all of them alike. A time is the
median over rounds of one forward and backward; the gain is the median of the rounds' ratios dense / backend.
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
        5,
    ),
}
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu: this process's processor time, for a CPU shared with others (set OMP_NUM_THREADS=1)",
    )
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    args = parser.parse_args()
    shapes, dtypes, rounds = PRESETS[args.preset]
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__} on {args.device}, {threads} thread(s), {rounds} rounds")
    print(f"milliseconds of {args.clock} time, and gain over dense\n")
    columns = [*Shape._fields, "density", "dtype", *available_backends()]
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    rows = []
    for dtype in dtypes:
        for shape in shapes:
            timing = measure(shape, dtype, torch.device(args.device), rounds, CLOCKS[args.clock])
            cells = [*map(str, shape), f"{shape.k / shape.latents:.2%}", str(dtype)[6:]]
            cells += [f"{milliseconds:.1f} ({gain:.2g}x)" for milliseconds, gain in timing.values()]
            print(f"| {' | '.join(cells)} |", flush=True)
            rows.append({**shape._asdict(), "dtype": str(dtype), "milliseconds_and_gain": timing})
    if args.json:
        args.json.write_text(json.dumps({"torch": torch.__version__, "threads": threads, "rows": rows}, indent=1))


def measure(
    shape: Shape, dtype: torch.dtype, device: torch.device, rounds: int, clock: Callable[[], float]
) -> dict[str, tuple[float, float]]:
    """Milliseconds and gain over dense for each backend."""
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
            times[backend].append(1e3 * seconds(run, device, clock))
    gains = {
        backend: median(dense / own for dense, own in zip(times["dense"], measured, strict=True))
        for backend, measured in times.items()
    }
    return {backend: (median(measured), gains[backend]) for backend, measured in times.items()}


def available_backends() -> list[DecodeBackend]:
    """All but `auto`, and torch-sparse only where it is installed."""
    missing = {"auto"} if importlib.util.find_spec("torch_sparse") else {"auto", "torch_sparse"}
    return [backend for backend in get_args(DecodeBackend) if backend not in missing]


def seconds(run: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    start = clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


if __name__ == "__main__":
    main()

"""Time whole training steps, ours and other libraries': `python -m benchmarks.step [--preset quick|full|gpu]`.

Sizes of one's own: `--shape 1152 18432 64 1024 0.1 --rounds 9`.

A step is forward, backward, projection of the decoder's gradient, clipping, fused Adam and unit rows, from the same
weights, in every library that is installed (`pip install -e '.[bench]'`). First all are held to the same loss and
gradients. Then every round runs each of them once, and the bare encoder product x W_enc^T too, so that whatever else
the machine does hits all alike. Times are medians over rounds; `step / product` is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.profiler import ProfilerActivity, profile

from benchmarks.implementations import Implementation, available
from benchmarks.timing import timed

Row = dict[str, Any]
Makers = dict[str, Callable[[int, int, int], Implementation]]


class Shape(NamedTuple):
    """One size of problem; `dead` is the share of latents that AuxK is computed for."""

    d_in: int
    d_sae: int
    k: int
    batch: int
    dead: float


QUICK = [
    Shape(128, 2048, 16, 1024, 0.0),
    Shape(1152, 18432, 64, 1024, 0.0),
    Shape(1152, 18432, 64, 1024, 0.1),
    Shape(1152, 18432, 922, 1024, 0.0),  # the paper's 5 %
]
PRESETS: dict[str, tuple[list[Shape], list[str], int]] = {
    "quick": (QUICK, ["float32"], 3),
    "full": (
        [*QUICK, *(Shape(1152, 18432, k, 1024, 0.1) for k in (16, 256, 922)), Shape(3072, 24576, 64, 1024, 0.0)],
        ["float32", "bfloat16"],
        7,
    ),
    "gpu": (
        [Shape(1152, 18432, 64, batch, dead) for batch in (4096, 8192, 32768) for dead in (0.0, 0.1)],
        ["bfloat16"],
        20,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument(
        "--shape",
        nargs=len(Shape._fields),
        type=float,
        action="append",
        metavar=tuple(Shape._fields),
        help="instead of the preset's sizes; may be given several times",
    )
    parser.add_argument("--rounds", type=int, help="instead of the preset's number")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--plot", type=Path, help="write a bar chart to this file")
    args = parser.parse_args()
    shapes, dtypes, rounds = PRESETS[args.preset]
    if args.shape:
        shapes = [Shape(int(d_in), int(d_sae), int(k), int(batch), dead) for d_in, d_sae, k, batch, dead in args.shape]
    rounds = args.rounds or rounds
    device = torch.device(args.device)
    makers = available()
    for name, deviation in deviations(makers, device).items():
        if deviation is not None:
            raise SystemExit(f"{name} {deviation}")
    print(f"the same loss and gradients: {', '.join(makers)}")
    print(f"{_machine(device)}; {rounds} rounds\n")
    columns = ["impl", "dtype", *Shape._fields, "ms", "tokens_per_second", "step_over_encoder", "peak_bytes"]
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    rows: list[Row] = []
    for dtype in dtypes:
        for shape in shapes:
            for row in measure(makers, shape, dtype, device, rounds):
                print(f"| {' | '.join(_cell(row[column]) for column in columns)} |", flush=True)
                rows.append(row)
    if args.json:
        args.json.write_text(json.dumps({"machine": _machine(device), "rows": rows}, indent=1) + "\n")
    if args.plot:
        plot(rows, args.plot)


def deviations(makers: Makers, device: torch.device) -> dict[str, str | None]:
    """How each implementation departs from the dense one's loss and gradients, with and without dead latents.

    One that computes in bf16 whoever calls it is held to what that allows.
    """
    shape = Shape(64, 512, 8, 96, 0.2)
    weights, batches, dead = _problem(shape, device)
    found: dict[str, str | None] = dict.fromkeys(makers)
    for named in (None, dead):
        reference = _loss_and_gradients(_made(makers["dense"], shape, weights, device), batches[0], named)
        for name, make in makers.items():
            implementation = _made(make, shape, weights, device)
            is_rough = device.type == "cuda" and implementation.has_bf16_of_its_own_on_cuda
            own = _loss_and_gradients(implementation, batches[0], named)
            for key, value in own.items():
                if named is not None and implementation.lacks_encoder_gradient_of_auxk and key not in ("loss", "W_dec"):
                    continue
                off = float((value - reference[key]).norm() / reference[key].norm())
                if not off <= (5e-2 if is_rough else 1e-4):
                    found[name] = f"computes another {key} than the dense formula: off by {off:.1e} of its norm"
    return found


def _loss_and_gradients(implementation: Implementation, x: Tensor, dead: Tensor | None) -> dict[str, Tensor]:
    loss = implementation.loss(x, dead)
    loss.backward()
    return {"loss": loss.detach(), **implementation.gradients()}


def measure(makers: Makers, shape: Shape, dtype: str, device: torch.device, rounds: int) -> list[Row]:
    """A row for each implementation."""
    weights, batches, dead = _problem(shape, device)
    autocast = None if dtype == "float32" else getattr(torch, dtype)
    implementations = {name: _made(make, shape, weights, device) for name, make in makers.items()}
    operand, weight = (tensor.to(autocast or torch.float32) for tensor in (batches[0], weights["W_enc"]))
    pre = operand.new_empty(shape.batch, shape.d_sae)

    def run(implementation: Implementation, number: int) -> Callable[[], object]:
        return lambda: implementation.step(batches[number % len(batches)], dead, autocast)

    for _ in range(2):
        for implementation in implementations.values():
            run(implementation, 0)()
    products, steps = [], {name: list[float]() for name in implementations}
    for number in range(rounds):
        products.append(timed(lambda: torch.mm(operand, weight.T, out=pre), device))
        for name, implementation in implementations.items():
            steps[name].append(timed(run(implementation, number), device))
    rows = []
    for name, seconds in steps.items():
        ratios = [step / product for step, product in zip(seconds, products, strict=True)]
        rows.append(
            {
                "impl": name,
                "device": str(device),
                "dtype": dtype,
                **shape._asdict(),
                "ms": 1e3 * median(seconds),
                "tokens_per_second": shape.batch / median(seconds),
                "step_over_encoder": median(ratios),
                "peak_bytes": peak_bytes(implementations[name], run(implementations[name], 0), device),
            }
        )
    return rows


def peak_bytes(implementation: Implementation, run: Callable[[], object], device: torch.device) -> int:
    """The most that PyTorch's allocator holds for this implementation during a step: weights, moments and the rest."""
    parameters = sum(tensor.numel() * tensor.element_size() for tensor, _ in implementation.tensors.values())
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities, profile_memory=True) as profiler:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    held = most = 0
    results = profiler.profiler.kineto_results
    for event in sorted(results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]" and event.device_type().name.lower() == device.type:
            held += event.nbytes()
            most = max(most, held)
    return 3 * parameters + most  # Adam keeps two moments


def plot(rows: list[Row], path: Path) -> None:
    """Step / encoder product, a group of bars for each problem."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    problems = list(dict.fromkeys((row["dtype"], *(row[name] for name in Shape._fields)) for row in rows))
    names = list(dict.fromkeys(row["impl"] for row in rows))
    figure, axes = plt.subplots(figsize=(2 + 2.2 * len(problems), 3.6), layout="constrained")
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        heights = [
            row["step_over_encoder"]
            for problem in problems
            for row in rows
            if row["impl"] == name and (row["dtype"], *(row[field] for field in Shape._fields)) == problem
        ]
        places = [j + i * width for j in range(len(heights))]
        bars = axes.bar(places, heights, width, label=name)
        axes.bar_label(bars, fmt="%.1f", fontsize=7)
    labels = [f"{d}, {m}, k {k}\n{n} tokens, {dead:.0%} dead\n{dtype}" for dtype, d, m, k, n, dead in problems]
    axes.set_xticks([j + 0.4 - width / 2 for j in range(len(problems))], labels, fontsize=8)
    axes.set_ylabel("step / encoder product")
    axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
    figure.legend(fontsize=8, ncols=min(len(names), 2 * len(problems)), loc="outside upper center", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def _problem(shape: Shape, device: torch.device) -> tuple[dict[str, Tensor], list[Tensor], Tensor | None]:
    draw = torch.Generator().manual_seed(0)
    directions = normalize(torch.randn(shape.d_sae, shape.d_in, generator=draw), dim=1)
    weights = {
        "W_enc": directions,
        "b_enc": torch.zeros(shape.d_sae),
        "W_dec": directions,
        "b_dec": torch.zeros(shape.d_in),
    }
    batches = [torch.randn(shape.batch, shape.d_in, generator=draw).to(device) for _ in range(2)]
    dead = torch.randperm(shape.d_sae, generator=draw)[: round(shape.dead * shape.d_sae)].sort().values.to(device)
    return {name: tensor.to(device) for name, tensor in weights.items()}, batches, dead if len(dead) else None


def _made(
    make: Callable[[int, int, int], Implementation], shape: Shape, weights: dict[str, Tensor], device: torch.device
) -> Implementation:
    with torch.device(device):
        implementation = make(shape.d_in, shape.d_sae, shape.k)
    implementation.module.to(device)  # some libraries place their own tensors
    implementation.load(weights)
    return implementation


def _machine(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    peers = ("eai-sparsify", "sae-lens", "dictionary-learning", "overcomplete")
    versions = [f"{peer} {metadata.version(peer)}" for peer in peers if _installed(peer)]
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}" + "".join(f", {v}" for v in versions)


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
    return str(value)


if __name__ == "__main__":
    main()

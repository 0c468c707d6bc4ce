"""How little a harvest adds to the denoiser: `python -m benchmarks.harvest [--sites 1 3 8] [--json FILE]`.

A round makes one batch by way of the datamodule, trains one SAE a site on it, and lets the bare denoiser do just the
forwards that the source requires, on inputs made beforehand: for `noise` one conditional forward that ends after the
last site, for `denoise` a whole forward of both guidance halves. Rounds interleave, so that whatever else the machine
does hits all of them alike; a figure is the median over rounds.

    harvest = bare / making the batch                   everything but the SAEs' steps counts as the harvest's
    beside  = bare / (making the batch + the SAEs' steps)

Kept tokens a second go by the same ratios. On a CPU the SAEs' steps take the denoiser's own cores, so `harvest` tells
what the datamodule costs and `beside` how large the SAEs are. On a GPU batches are made beside the steps, so `beside`
is measured on bursts of both without a wait between them: what a user sees. Images and prompts are encoded before
the first round, as in a run after its first pass over them. On a GPU, for instance, `--device cuda --dtype bfloat16
--pretrained PixArt-alpha/PixArt-XL-2-512x512 --samples 64 --sites 1 4 28`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch

from tide_lightning.datamodules import ActivationDataModule, Call, HeldOutOptions, LoadingOptions, NoisedOptions, Shard
from tide_lightning.diffusion import Conditioning, Denoiser, Site
from tide_lightning.grounds.toybox import Scenes
from tide_lightning.saes import TideSAE, training_loss
from tide_lightning.tokens import SiteShape, TokenBatch
from tide_lightning.training.optimisation import IndependentAdam

WARM_UP = 3
"""Rounds that do not count: latents and prompts are encoded in them."""
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", default="package:tide_lightning.grounds.toybox/pipeline")
    parser.add_argument("--sources", nargs="+", default=["noise", "denoise"], choices=["noise", "denoise", "both"])
    parser.add_argument("--sites", nargs="+", type=int, default=[1, 3, 8], help="how many blocks are read")
    parser.add_argument("--dtype", default="float32", choices=["auto", "float32", "bfloat16", "float16"])
    parser.add_argument("--samples", type=int, default=32, help="in a batch")
    parser.add_argument("--tokens", type=float, default=1 / 16, help="share of a sample's tokens that is kept")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: processor time, on a busy machine")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    args = parser.parse_args()
    torch.manual_seed(0)
    print(f"torch {torch.__version__} on {args.device}, {torch.get_num_threads()} thread(s), {args.clock} time")
    columns = ["source", "sites", "tokens a batch", "bare (ms)", "batch (ms)", "SAEs (ms)", "harvest", "beside"]
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    rows = []
    for source in args.sources:
        for num_sites in args.sites:
            row = measure(source, num_sites, args)
            rows.append(row)
            cells = [
                source,
                num_sites,
                row["tokens"],
                *(f"{1e3 * row[name]:.1f}" for name in ("bare", "batch", "saes")),
            ]
            print("|", " | ".join(map(str, [*cells, f"{row['harvest']:.2f}", f"{row['beside']:.2f}"])), "|", flush=True)
    if args.json:
        args.json.write_text(json.dumps({"torch": torch.__version__, "device": args.device, "rows": rows}, indent=1))


def measure(source: Any, num_sites: int, args: argparse.Namespace) -> dict[str, Any]:
    """Median seconds of each part and the two ratios."""
    data = make_data(source, num_sites, args)
    data.denoiser.to(args.device)
    sites = data.denoiser.resolve_sites(data.site_patterns)
    step = training_step(data, args.device)
    bare = bare_forwards(source, data, sites)
    batches = iter(data.train_loader(Shard(), ahead=args.device != "cpu"))
    clock = timer(CLOCKS[args.clock], torch.device(args.device))
    rounds = []
    for _ in range(args.rounds + WARM_UP):
        began = clock()
        batch = next(batches)
        made = clock()
        step(batch)
        trained = clock()
        bare()
        rounds.append((clock() - trained, made - began, trained - made))
        step(batch)  # so that the next batch, as the bare forwards, finds the processor's caches full of SAEs
    rounds = rounds[WARM_UP:]
    beside = median(bare / (batch + saes) for bare, batch, saes in rounds)
    if args.device != "cpu":
        beside = median(in_bursts(batches, step, bare, clock) for _ in range(args.rounds))
    times = dict(zip(("bare", "batch", "saes"), map(median, zip(*rounds, strict=True)), strict=True))
    return {
        "source": source,
        "sites": num_sites,
        "tokens": len(next(iter(batch.values()))),
        **times,
        "harvest": median(bare / batch for bare, batch, _ in rounds),
        "beside": beside,
    }


def in_bursts(
    batches: Iterator[dict[str, TokenBatch]],
    step: Callable[[dict[str, TokenBatch]], None],
    bare: Callable[[], None],
    clock: Callable[[], float],
    length: int = 8,
) -> float:
    """Bare over batches and steps, neither waiting for the host."""
    began = clock()
    for _ in range(length):
        step(next(batches))
    trained = clock()
    for _ in range(length):
        bare()
    return (clock() - trained) / (trained - began)


def make_data(source: Any, num_sites: int, args: argparse.Namespace) -> ActivationDataModule:
    """Evenly spread blocks, the last one included; the toybox's own images, or such as the pipeline generates."""
    toybox = args.pretrained.startswith("package:tide_lightning.grounds.toybox")

    def reading(sites: list[str]) -> ActivationDataModule:
        return ActivationDataModule(
            args.pretrained,
            sites,
            images=Scenes("train", num_scenes=2 * args.samples) if toybox else None,
            prompts=None if toybox else [f"a photo of {thing}" for thing in ("a dog", "a cat", "a house", "a tree")],
            source=source,
            samples_per_batch=args.samples,
            tokens_per_sample=args.tokens,
            batches_per_epoch=10**9,
            noised=NoisedOptions(num_generated=2 * args.samples),
            heldout=HeldOutOptions(num_test_samples=args.samples),
            loading=LoadingOptions(dtype=args.dtype),
        )

    blocks = list(reading(["transformer_blocks.*"]).site_shapes)
    return reading([blocks[(place + 1) * len(blocks) // num_sites - 1] for place in range(num_sites)])


def training_step(data: ActivationDataModule, device: str) -> Callable[[dict[str, TokenBatch]], None]:
    """One optimiser step of an SAE a site."""
    saes = {site: TideSAE(SiteShape.of(shape), k=16).to(device) for site, shape in data.site_shapes.items()}
    optimizer = IndependentAdam((sae.parameters() for sae in saes.values()), 1e-3, (0.9, 0.999))

    def step(batch: dict[str, TokenBatch]) -> None:
        optimizer.zero_grad()
        for site, tokens in batch.items():
            training_loss(saes[site](tokens)).total.backward()
        for sae in saes.values():
            sae.project_decoder_gradient()
        optimizer.step()
        for sae in saes.values():
            sae.normalise_decoder()

    return step


def bare_forwards(source: str, data: ActivationDataModule, sites: list[Site]) -> Callable[[], None]:
    """The forwards that a batch requires, of a call made beforehand."""
    denoiser: Denoiser = data.denoiser
    call = next(iter(data.test_loader(Shard()))).call
    half = len(call) // 2
    noised = {"noise": call, "denoise": None, "both": call.select(slice(0, half))}[source]
    walked = {"noise": None, "denoise": call, "both": call.select(slice(half, None))}[source]
    guided = None if walked is None else guided_inputs(denoiser, walked)

    @torch.no_grad()
    def forwards() -> None:
        if noised is not None:
            with denoiser.record(sites, stop_early=True, select=lambda site, x: x[:0]):
                denoiser.predict(noised.x_t, noised.raw_t, noised.conditioning)
        if guided is not None:
            denoiser.predict(*guided)

    return forwards


def guided_inputs(denoiser: Denoiser, call: Call) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    """Both halves' rows."""
    blank = denoiser.encode_prompts([""] * len(call))
    both = Conditioning.concatenate([blank, call.conditioning])
    return torch.cat([call.x_t, call.x_t]), torch.cat([call.raw_t, call.raw_t]), both


def timer(clock: Callable[[], float], device: torch.device) -> Callable[[], float]:
    """The clock, once the device has done all it was asked for."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock()

    return now


if __name__ == "__main__":
    main()

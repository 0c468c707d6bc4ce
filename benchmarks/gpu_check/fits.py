"""`tide fit` on a PixArt-alpha XL/2 of random weights at 5 and at 28 sites, beside what `tide plan` says of them."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import time
from pathlib import Path
from statistics import median

import torch

from benchmarks.gpu_check.pixart import build
from benchmarks.gpu_check.section import Section
from benchmarks.gpu_check.watching import Watch, fit
from benchmarks.harvest import bare_forwards, make_data, timer
from tide_lightning.cli import main

SMALL = [
    "--trainer.precision",
    "32-true",
    "--model.sae.init_args.expansion_factor",
    "2",
    "--model.sae.init_args.k",
    "4",
]
SMALL += ["--data.samples_per_batch", "4", "--data.forward_batch_size", "4"]
PLANNED = {"H200": "H200 SXM", "H100": "H100 SXM", "A100": "A100 80GB", "L40S": "L40S", "4090": "RTX 4090", "L4": "L4"}


def measure(section: Section) -> None:
    """The fits first; then the bare denoiser."""
    pipeline = build(section.folder.parent / "pixart", section.device, section.is_small)
    watched: dict[int, Watch] = {}
    shares = {2: 0.35, 4: 0.5} if section.is_small else {5: 0.35, 28: 0.5}
    for num_sites, share in shares.items():
        with section.trying(f"a fit at {num_sites} sites"):
            watched[num_sites] = _fit(section, pipeline, num_sites, share * section.left())
    with section.trying("the bare denoiser"):
        seconds, samples = _bare(section, pipeline)
        for num_sites, watch in watched.items():
            batch = 4 if section.is_small else 64
            share = seconds * batch / samples / watch.step_seconds()
            name = f"a fit at {num_sites} sites, share of the bare denoiser's speed"
            if num_sites == 28 and not section.is_small:
                section.at_least(name, share, 0.7)
            else:
                section.found(name, share)


def _fit(section: Section, pipeline: Path, num_sites: int, seconds: float) -> Watch:
    arguments = ["--config", "pixart", "--data.pretrained", str(pipeline)]
    arguments += ["--data.prompts", str(pipeline.parent / "prompts.txt"), "--data.num_calibration_samples"]
    arguments += ["32" if section.is_small else "256"]
    arguments += ["--trainer.strategy", "auto", *(SMALL if section.is_small else [])]
    if num_sites != 5:  # the config's
        arguments += [
            "--data.sites",
            '["transformer_blocks.1", "transformer_blocks.3"]' if num_sites == 2 else '["transformer_blocks.*"]',
        ]
    tokens_planned, bytes_planned = _plan(section, arguments)
    ends = {"seconds": seconds / 2, "steps": 12 if section.is_small else 1e9}
    arguments += ["--run_name", f"sites{num_sites}"]
    watch = fit(section.folder, section.device, *arguments, is_alone=True, **ends)
    tokens = watch.tokens / watch.step_seconds()
    note = f"{len(watch.times)} steps of {1e3 * watch.step_seconds():.0f} ms, {watch.tokens} tokens a site"
    section.found(f"a fit at {num_sites} sites", tokens, "tokens/s", note)
    section.holds(f"finite losses at {num_sites} sites", all(loss == loss < torch.inf for loss in watch.losses))
    off = tokens / tokens_planned - 1
    note = f"tide plan: {tokens_planned:,.0f} tokens/s"
    if section.device.type == "cuda":
        section.at_most(f"tide plan's speed at {num_sites} sites, off by", abs(off), 0.2, note=note)
        note = f"{watch.peak_bytes / 1e9:.2f} GB at most; tide plan: {bytes_planned / 1e9:.2f} GB"
        off = abs(watch.peak_bytes / bytes_planned - 1)
        section.at_most(f"tide plan's memory at {num_sites} sites, off by", off, 0.2, note=note)
    else:
        section.found(f"tide plan's speed at {num_sites} sites, off by", abs(off), note=note)
    return watch


def _plan(section: Section, arguments: list[str]) -> tuple[float, float]:
    """Tokens a second and bytes."""
    name = torch.cuda.get_device_name(section.device) if section.device.type == "cuda" else ""
    known = next((planned for part, planned in PLANNED.items() if part in name), None)
    where = ["--here", "true", "--machines", "[]"] if known is None else ["--machines", f'["{known}"]']
    accelerator = ["--trainer.accelerator", "gpu" if section.device.type == "cuda" else "cpu", "--trainer.devices", "1"]
    os.environ["COLUMNS"] = "200"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = main(["plan", *arguments, *accelerator, *where])
    text = said.getvalue()
    if code:
        raise RuntimeError(f"tide plan ended with {code}")
    [gigabytes] = re.findall(r"in all\D+([\d.]+)", text)
    times = next(line for line in text.splitlines() if "fits" in line or "too small" in line)
    numbers = re.findall(r"[\d,.]+(?= )", times.split("ms")[-1])
    return float(numbers[0].replace(",", "")), 1e9 * float(gigabytes)


def _bare(section: Section, pipeline: Path) -> tuple[float, int]:
    """Seconds of the forwards that some samples need, and how many samples."""
    samples, dtype = (4, "float32") if section.is_small else (16, "bfloat16")
    args = argparse.Namespace(pretrained=str(pipeline), samples=samples, tokens=1 / 16, dtype=dtype)
    data = make_data("denoise", 1, args)
    data.denoiser.to(section.device)
    forwards = bare_forwards("denoise", data, data.denoiser.resolve_sites(data.site_patterns))
    clock = timer(time.perf_counter, section.device)
    seconds = []
    for _ in range(5):
        began = clock()
        forwards()
        seconds.append(clock() - began)
    return median(seconds[1:]), samples

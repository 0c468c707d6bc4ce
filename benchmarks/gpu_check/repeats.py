"""The same seed gives the same bits: twice, interrupted and resumed, with batches made ahead and in turn."""

from __future__ import annotations

import argparse
import inspect
from itertools import islice

import torch

from benchmarks.gpu_check.section import Section
from benchmarks.gpu_check.watching import fit
from benchmarks.harvest import make_data
from tide_lightning.datamodules import ActivationDataModule, Shard
from tide_lightning.training import TideModule

TOYBOX = "package:tide_lightning.grounds.toybox/pipeline"


def measure(section: Section) -> None:
    """Short fits of the config `debug`."""
    arguments = ["--config", "debug"]
    with section.trying("the same seed twice"):
        whole = fit(section.folder, section.device, *arguments, "--run_name", "whole").bits
        again = fit(section.folder, section.device, *arguments, "--run_name", "again").bits
        section.holds("the same seed twice, bit for bit", whole == again)
    with section.trying("interrupted and resumed"):
        broken = [*arguments, "--run_name", "broken"]
        fit(section.folder, section.device, *broken, steps=10)
        resumed = fit(section.folder, section.device, *broken, "--ckpt_path", "last")
        section.holds(
            "interrupted and resumed, bit for bit", resumed.bits == whole, f"{len(resumed.times)} steps after"
        )
    for source in ("noise", "denoise"):
        with section.trying(f"{source}: batches ahead and in turn"):
            section.holds(f"{source}: batches ahead and in turn, bit for bit", _same_batches(section, source))
    if section.device.type == "cuda":
        for source in ("noise", "denoise"):
            with section.trying(f"{source}: a batch for which the host does not wait"):
                waits = _waits(section, source)
                section.holds(f"{source}: the host waits for no forward while a batch is made", not waits, waits)
    if not any("graph" in name for name in inspect.signature(TideModule).parameters):
        section.could_not("with and without graphs", "there is no such option yet")


def _data(section: Section, source: str) -> ActivationDataModule:
    data = make_data(source, 2, argparse.Namespace(pretrained=TOYBOX, samples=8, tokens=1 / 16, dtype="float32"))
    data.denoiser.to(section.device)
    return data


def _same_batches(section: Section, source: str) -> bool:
    """Whether they are; between them the training's stream fills the same caches, as `KeepPredictions` does."""
    found = []
    for ahead in (False, True):
        data = _data(section, source)
        batches, calls = islice(data.train_loader(Shard(), ahead=ahead), 6), data.noised_calls(8)
        found.append([(batch, calls(number).x_t) for number, batch in enumerate(batches)])
    return all(
        torch.equal(x_t, other_x_t) and all(torch.equal(one[site].x, other[site].x) for site in one)
        for (one, x_t), (other, other_x_t) in zip(*found, strict=True)
    )


def _waits(section: Section, source: str) -> str:
    """Where the host waits for the GPU while a batch is made whose prompts and latents are kept already."""
    batches = iter(_data(section, source).train_loader(Shard()))
    for _ in range(4):
        next(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        next(batches)
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return ""

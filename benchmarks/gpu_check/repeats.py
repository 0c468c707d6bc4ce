"""The same seed gives the same bits: twice, interrupted and resumed, with batches made ahead and in turn."""

from __future__ import annotations

import argparse
import inspect
from itertools import islice

import torch

from benchmarks.gpu_check.section import Section
from benchmarks.gpu_check.watching import fit
from benchmarks.harvest import make_data
from tide_lightning.datamodules import Shard
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
    if not any("graph" in name for name in inspect.signature(TideModule).parameters):
        section.could_not("with and without graphs", "there is no such option yet")


def _same_batches(section: Section, source: str) -> bool:
    found = []
    for ahead in (False, True):
        args = argparse.Namespace(pretrained=TOYBOX, samples=8, tokens=1 / 16, dtype="float32")
        data = make_data(source, 2, args)
        data.denoiser.to(section.device)
        found.append(list(islice(data.train_loader(Shard(), ahead=ahead), 6)))
    return all(
        torch.equal(one[site].x, other[site].x) for one, other in zip(*found, strict=True) for site in one
    ) and len(found[0]) == len(found[1])

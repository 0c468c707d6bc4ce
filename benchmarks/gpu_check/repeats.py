"""The same seed gives the same bits.

Twice, interrupted and resumed, with batches made ahead and in turn or read from the disk, with CUDA graphs and without.
"""

from __future__ import annotations

import argparse
from itertools import islice

import torch

from benchmarks.gpu_check.section import Section
from benchmarks.gpu_check.watching import fit
from benchmarks.harvest import make_data
from tide_lightning.datamodules import ActivationDataModule, Shard

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
    with section.trying("batches from the disk cache"):
        cached = [
            *arguments,
            "--data.cache.folder",
            str(section.folder / "cache"),
            "--data.cache.batches_per_shard",
            "5",
        ]
        fit(section.folder, section.device, *cached, "--run_name", "filling")
        read = fit(section.folder, section.device, *cached, "--run_name", "cached").bits
        section.holds("batches read from the disk cache, bit for bit", read == whole)
    if section.device.type == "cuda":
        _with_and_without_graphs(section)
    else:
        section.could_not("with and without graphs, bit for bit", "a CPU has no CUDA graphs")
    for source in ("noise", "denoise"):
        with section.trying(f"{source}: batches ahead and in turn"):
            section.holds(f"{source}: batches ahead and in turn, bit for bit", _same_batches(section, source))
    if section.device.type == "cuda":
        for source in ("noise", "denoise"):
            with section.trying(f"{source}: a batch for which the host does not wait"):
                waits = _waits(section, source)
                section.holds(f"{source}: the host waits for no forward while a batch is made", not waits, waits)


def _with_and_without_graphs(section: Section) -> None:
    """Short fits of two configs, and a sweep of kinds of SAEs; and whether steps were replayed at all."""
    simple = ["--config", "debug", "--model.dead_after_tokens", "300"]
    rivals = [["--config", "quickstart", "--config", f"rivals/{name}"] for name in ("topk", "batchtopk", "matryoshka")]
    cases = {"debug, with dead latents": simple, "quickstart": ["--config", "quickstart"]}
    cases |= {arguments[-1]: arguments for arguments in rivals}
    for name, arguments in cases.items():
        with section.trying(f"{name}: with and without graphs"):
            few = [*arguments, "--data.num_calibration_samples", "64", "--trainer.max_steps", "60"]
            found = {
                wanted: fit(section.folder, section.device, *few, "--model.cuda_graphs", wanted, is_alone=True)
                for wanted in ("true", "false")
            }
            watched, plain = found["true"], found["false"]
            note = f"{watched.replayed} steps of SAEs replayed; {1e3 * watched.step_seconds():.1f} ms a step, "
            note += f"{1e3 * plain.step_seconds():.1f} without"
            same = watched.bits == plain.bits and watched.replayed > 0 and plain.replayed == 0
            section.holds(f"{name}: with and without graphs, bit for bit", same, note)


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

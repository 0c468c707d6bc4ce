"""The harvest beside the bare denoiser, at 1, 4 and 28 sites of a PixArt-alpha XL/2 of random weights."""

from __future__ import annotations

import argparse

from benchmarks.gpu_check.section import Section
from benchmarks.harvest import measure as measure_harvest

GOALS = {1: 0.95, 4: 0.9, 28: 0.8}


def measure(section: Section) -> None:
    """Real trajectories first: they are what the configs use."""
    pipeline, dtype, samples, rounds = "package:tide_lightning.grounds.toybox/pipeline", "float32", 4, 2
    if not section.is_small:
        from benchmarks.gpu_check.pixart import build

        folder = section.folder.parent / "pixart"  # where `fits` may have left it
        built = folder / "pipeline" if (folder / "prompts.txt").exists() else build(folder, section.device, False)
        pipeline, dtype, samples, rounds = str(built), "bfloat16", 32, 6
    for source in ("denoise", "noise"):
        for num_sites in (1, 2) if section.is_small else GOALS:
            name = f"{source}, {num_sites} sites: share of the bare denoiser's speed"
            if section.left() < (1 if section.is_small else 8):
                section.could_not(name, "no time was left")
                continue
            with section.trying(name):
                args = argparse.Namespace(
                    pretrained=pipeline,
                    dtype=dtype,
                    samples=samples,
                    tokens=1 / 16,
                    rounds=rounds,
                    device=str(section.device),
                    clock="wall",
                )
                row = measure_harvest(source, num_sites, args)
                note = f"bare {1e3 * row['bare']:.0f} ms, batch {1e3 * row['batch']:.0f}, SAEs {1e3 * row['saes']:.0f}"
                if section.is_small:
                    section.found(name, row["harvest"], note=note)
                else:
                    section.at_least(name, row["harvest"], GOALS[num_sites], note=note)
                    section.found(f"{source}, {num_sites} sites: the same with steps beside it", row["beside"])

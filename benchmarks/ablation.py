"""What each part of the method is worth: variants trained side by side on one harvest, at equal tokens.

    python -m benchmarks.ablation --page docs/results/ablation.md

The block of the toybox on which nothing was tuned (`benchmarks.worlds`). Resumable: what
docs/results/summaries/ablation.json holds already is not measured again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks.pages import over_seeds, read, save, write
from benchmarks.side_by_side import Rows, Way, add_options, builder, measured, sae_of
from benchmarks.worlds import WORLDS

OURS = "the default"
"""The SAE of the config quickstart."""

COLUMNS = {
    "explained_variance": ("explained variance", ".4f"),
    "loss_increase_even": ("loss increase, even in t", "%"),
    "loss_increase": ("over all samples", "%"),
    "l0_even": ("L0, even in t", ".1f"),
    "l0_largest": ("largest L0", ".1f"),
    "alive_fraction": ("alive", ".2f"),
    "f1": ("factor F1", ".3f"),
}

VARIANTS: dict[str, dict[str, Any]] = {
    OURS: {},
    "no refinement": {"refinements": 0},
    "one round of pursuit": {"pursuits": 1},
    "three rounds of pursuit": {"pursuits": 3},
    "no pursuit": {"pursuits": 0},
    "neither pursuit nor refinement": {"refinements": 0, "pursuits": 0},
    "a quarter of the budget by time": {"budget_over_time": 0.25},
    "three quarters of the budget by time": {"budget_over_time": 0.75},
    "16 latents for every token": {"budget": "token"},
    "one scale for all times": {"scale_by_timestep": False},
    "errors by the plain loss": {"fidelity_loss": "plain"},
    "half of the error by sensitivity": {"fidelity_weight": 0.5},
    "plain squared error": {"fidelity_weight": 0.0},
    "encoder rows of norm 1 at the start": {"encoder_norm": 1.0},
    "modulation, from the denoiser's adaLN": {"modulation": "adaln"},
    "modulation, from zero": {"modulation": "zero"},
    "no timestep at all": {"num_bins": 1, "scale_by_timestep": False},
    "known part: mean": {"known_part": "mean"},
    "known part: mean_t_position": {"known_part": "mean_t_position"},
    "no AuxK, no resampling": {},
    "no pursuit, no AuxK, no resampling": {"pursuits": 0},
}
"""Where each differs from the quickstart's SAE; what its name says of training is in `way`."""


def way(variant: str) -> Way:
    """How a variant is trained, by its name."""
    return Way(auxk="no AuxK" not in variant, resampling="no resampling" not in variant)


def main() -> None:
    """Measure what is missing, then print and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    folders = {"json": Path("docs/results/summaries/ablation.json"), "folder": Path("runs/ablation")}
    site, seeds = WORLDS["toybox"].reported, [20, 21, 22]
    settings = {"calibration_samples": 4096, "lr": 5e-3}
    add_options(parser, site=site, seeds=seeds, steps=1000, test_samples=2048, **folders, **settings)
    options = parser.parse_args()
    torch.set_float32_matmul_precision("medium")
    rows: dict[str, Rows] = read(options.json)
    for seed in [] if options.only_table else options.seeds:
        have = rows.setdefault(str(seed), {})
        for how in dict.fromkeys(map(way, options.variants)):
            missing = [name for name in options.variants if way(name) == how and name not in have]
            if not missing:
                continue
            print(f"seed {seed}: {', '.join(missing)}", flush=True)
            ours = sae_of("quickstart")
            builders = {name: builder(ours, **VARIANTS[name]) for name in missing}
            have |= measured(builders, how, seed, options.folder / f"seed-{seed}", options)
            save(options.json, rows)
    text = over_seeds(rows, list(VARIANTS), COLUMNS, "variant")
    print(text)
    if options.page:
        write(options.page, "table", text)


if __name__ == "__main__":
    main()

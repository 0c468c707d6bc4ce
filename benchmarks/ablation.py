"""What each part of the method is worth: variants trained side by side on one harvest, at equal tokens.

    python -m benchmarks.ablation --page docs/results/ablation.md
    python -m benchmarks.ablation --of one_scale --page docs/results/ablation.md
    python -m benchmarks.ablation --of parts --page docs/results/ablation.md
    python -m benchmarks.ablation --of without_pursuit --page docs/results/ablation.md

One middle block of the toybox. Resumable: what docs/results/summaries/ablation.json holds already is not measured
again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.pages import over_seeds, read, save, write
from benchmarks.side_by_side import Rows, Way, add_options, builder, measured, sae_of

COLUMNS = {
    "explained_variance": ("explained variance", ".4f"),
    "loss_increase_even": ("loss increase, even in t", "%"),
    "loss_increase": ("loss increase", "%"),
    "loss_increase_known": ("known alone", "%"),
    "alive_fraction": ("alive", ".3f"),
    "l0": ("L0", ".1f"),
    "f1": ("factor F1", ".3f"),
}

VARIANTS: dict[str, dict[str, Any]] = {
    "no refinement": {"refinements": 0},
    "no pursuit": {"pursuits": 0},
    "three rounds of pursuit": {"pursuits": 3},
    "neither pursuit nor refinement": {"refinements": 0, "pursuits": 0},
    "16 latents for every token": {"budget": "token", "budget_over_time": 0.0},
    "a budget blind to time": {"budget_over_time": 0.0},
    "a quarter of the budget by time": {"budget_over_time": 0.25},
    "half of the budget by time": {"budget_over_time": 0.5},
    "all of the budget by time": {"budget_over_time": 1.0},
    "one scale for all times": {"scale_by_timestep": False},
    "one scale for all times, a tenth of the budget by time": {"scale_by_timestep": False, "budget_over_time": 0.1},
    "all times weighted alike": {"scale_by_timestep": True},
    "encoder rows of norm 1 at the start": {"encoder_norm": 1.0},
    "nine tenths of the error by sensitivity": {"fidelity_weight": 0.9},
    "half of the error by sensitivity": {"fidelity_weight": 0.5},
    "plain squared error": {"fidelity_weight": 0.0},
    "modulation from zero": {"modulation": "zero"},
    "no modulation": {"modulation": "none"},
    "un-modulated decoding": {"unmodulate": True},
    "no timestep at all": {"modulation": "none", "num_bins": 1},
    "TopK, mean and scale per timestep": {
        "modulation": "none",
        "known_part": "mean_t",
        "scale_by_timestep": True,
        "fidelity_weight": 0.0,
        "refinements": 0,
        "pursuits": 0,
        "budget": "token",
        "budget_over_time": 0.0,
        "encoder_norm": 1.0,
        "expansion_factor": 16.5,  # as many parameters as with the modulation's MLP
    },
    "known: mean": {"known_part": "mean"},
    "known: mean_t": {"known_part": "mean_t"},
    "known: mean_t_position": {"known_part": "mean_t_position"},
    "known: noise_token (leaks)": {"known_part": "noise_token"},
    "no token sampling": {},
    "no AuxK, no resampling": {},
    "no pursuit, no AuxK": {"pursuits": 0},
    "no pursuit, no resampling": {"pursuits": 0},
    "no pursuit, no AuxK, no resampling": {"pursuits": 0},
}
"""Where a variant differs from its table's SAE; what its name says of training is in `way`."""


class Table(NamedTuple):
    """What the SAEs of a table have in common, and how they vary.

    Fields:
        unvaried: what the SAE is called that does not vary.
        arguments: where it differs from the quickstart's.
        variants: the other rows.
    """

    unvaried: str
    arguments: dict[str, Any]
    variants: list[str]


_PARTS = [
    "no refinement",
    "16 latents for every token",
    "encoder rows of norm 1 at the start",
    "plain squared error",
    "no modulation",
    "known: mean",
]

TABLES = {
    "default": Table(
        "TideSAE (the default)",
        {},
        [
            "no refinement",
            "half of the budget by time",
            "all of the budget by time",
            "one scale for all times",
            "one scale for all times, a tenth of the budget by time",
            "half of the error by sensitivity",
        ],
    ),
    "one_scale": Table(
        "TideSAE, one scale for all times",
        {"scale_by_timestep": False, "budget_over_time": 0.1},
        ["a budget blind to time", "a quarter of the budget by time", "nine tenths of the error by sensitivity"],
    ),
    "parts": Table(
        "TideSAE, nine tenths by sensitivity, blind to time",
        {"fidelity_weight": 0.9, "budget_over_time": 0.0, "scale_by_timestep": False},
        [
            "no pursuit",
            "three rounds of pursuit",
            "neither pursuit nor refinement",
            *_PARTS,
            "half of the error by sensitivity",
            "all times weighted alike",
            *(name for name in VARIANTS if name.startswith(("no AuxK", "no pursuit, no"))),
        ],
    ),
    "without_pursuit": Table(
        "encoder-only",
        {"pursuits": 0, "fidelity_weight": 0.5, "budget_over_time": 0.0, "scale_by_timestep": False},
        [
            *_PARTS,
            "modulation from zero",
            "un-modulated decoding",
            "no timestep at all",
            "TopK, mean and scale per timestep",
            *(name for name in VARIANTS if name.startswith("known: mean_t") or "leaks" in name),
            "no token sampling",
        ],
    ),
}


def way(variant: str) -> Way:
    """How a variant is trained, by its name."""
    return Way("no token sampling" in variant, "no AuxK" not in variant, "no resampling" not in variant)


def main() -> None:
    """Measure what is missing, then print and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--of", choices=list(TABLES), default="default", help="the table")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), help="those of the table unless given")
    folders = {"json": Path("docs/results/summaries/ablation.json"), "folder": Path("runs/ablation")}
    add_options(parser, steps=1000, test_samples=2048, **folders)
    options = parser.parse_args()
    torch.set_float32_matmul_precision("medium")
    table, content = TABLES[options.of], read(options.json)
    wanted = {name: VARIANTS[name] for name in options.variants or table.variants}
    if not options.variants:
        wanted = {table.unvaried: {}, **wanted}
    seeds: dict[str, Rows] = content.setdefault(options.of, {})
    for seed in [] if options.only_table else options.seeds:
        have = seeds.setdefault(str(seed), {})
        for how in dict.fromkeys(map(way, wanted)):
            missing = {name: changes for name, changes in wanted.items() if way(name) == how and name not in have}
            if not missing:
                continue
            print(f"seed {seed}: {', '.join(missing)}", flush=True)
            ours = sae_of("quickstart")
            builders = {name: builder(ours, **(table.arguments | changes)) for name, changes in missing.items()}
            have |= measured(builders, how, seed, options.folder / options.of / f"seed-{seed}", options)
            save(options.json, content)
    text = over_seeds(seeds, [table.unvaried, *table.variants], COLUMNS, "variant")
    print(text)
    if options.page:
        write(options.page, options.of, text)


if __name__ == "__main__":
    main()

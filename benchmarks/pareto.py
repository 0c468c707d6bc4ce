r"""Every rival against TideSAE, at equal L0 and on the same tokens: what is kept, what is meant, what can be steered.

    python -m benchmarks.pareto --preset quick                      # 20 minutes on two cores, one seed
    python -m benchmarks.pareto --ks 16 --factors 8                 # a piece of the full one; pieces add up
    python -m benchmarks.pareto --preset quick --steer_prompts 4    # the quick one's SAEs, steered with besides
    python -m benchmarks.pareto                                     # everything: about a day on two cores
    python -m benchmarks.pareto --only_table                        # what is there so far

One block of a ground. The rivals are those of configs/rivals, each as its paper has it, and with what we have, as far
as its class takes it: our known part (`-known`), besides it the quickstart's metric, scales and budget over time
(`-metric`), besides those its refinement and pursuit (`-pursuit`). TideSAE is configs/quickstart's; its settings were
found on the default site. All SAEs of a piece (a seed, a size, an L0) are trained on the same tokens,
from one harvest, which is kept on disk for the seed's other pieces. Resumable: rows that the JSON file holds are not
measured again, unless they were not steered with and shall be, and rows of other settings are refused.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.pages import over_seeds, read, save, write
from benchmarks.pareto_plot import PLOTTED, Pieces, plot
from benchmarks.side_by_side import Way, add_options, builder, key_of, measured, sae_of
from tide_lightning.command_line import packaged_configs
from tide_lightning.evaluation.comparison.reproducibility import match
from tide_lightning.evaluation.matching import directions
from tide_lightning.saes import SAE

OURS = "tide"
"""The quickstart's SAE."""
PAPER = "tide-paper"
"""The paper's own recipe, which stands as it is."""

EQUIPMENT = {
    "-known": ("known_part", "num_bins"),
    "-metric": ("fidelity_weight", "fidelity_loss", "scale_by_timestep", "budget", "budget_over_time"),
    "-pursuit": ("refinements", "pursuits"),
}
"""The quickstart's arguments that a rival gets with each of these behind its name, and with all before it."""

QUICK = {"ks": [16], "factors": [8], "seeds": [0], "steps": 800, "test_samples": 1024, "steer_prompts": 0}
"""The preset: one L0, one size, one seed, short fits, no steering; all rivals."""

SETTINGS = ("ground", "site", "lr", "steps", "scenes", "test_samples", "fidelity_samples", "labelled_images")
"""What rows of one file have in common; those that were steered with also the number of prompts."""

COLUMNS = {
    "l0": ("L0", ".1f"),
    "explained_variance": ("explained variance", ".3f"),
    "loss_increase_even": ("loss increase, even in t", ".0%"),
    "loss_increase": ("loss increase", ".0%"),
    "alive_fraction": ("alive", ".2f"),
    "f1": ("factor F1", ".3f"),
    "f1_amount": ("F1 of amounts", ".3f"),
    "kept_mentioned": ("mentioned factors kept", ".1%"),
    "kept_open": ("open factors kept", ".1%"),
    "matched_share": ("found by other seeds", ".2f"),
    "steering_success": ("steering", ".0%"),
}


def variants() -> dict[str, dict[str, Any]]:
    """By name, the class and the arguments of each SAE; of equipped ones that are the same, the first."""
    ours = sae_of("quickstart")
    found, given = {OURS: ours}, {"num_bins": 20} | ours["init_args"]
    for name in packaged_configs():
        if name.startswith("rivals/"):
            short, rival = name.removeprefix("rivals/"), sae_of(name)
            found[short] = rival
            for suffix, arguments in EQUIPMENT.items() if short != PAPER else ():
                known = {"num_bins", "fidelity_loss", *rival["init_args"]}
                taken = {key: given[key] for key in arguments if key in known}
                rival = rival | {"init_args": rival["init_args"] | taken}
                if rival not in found.values():
                    found[short + suffix] = rival
    return found


def piece_of(factor: float, k: int) -> str:
    """The name of a size and an L0."""
    return f"{factor:g}x k={k}"


def numbers(piece: str) -> tuple[float, int]:
    """The size and the L0 that a piece is called by."""
    factor, k = piece.split("x k=")
    return float(factor), int(k)


def folder_of(options: argparse.Namespace, seed: int | str, piece: str) -> Path:
    """Where the SAEs of a piece are kept."""
    folder: Path = options.folder / f"seed-{seed}" / key_of(piece)
    return folder


def load(options: argparse.Namespace) -> dict[str, Any]:
    """The file's content; of other settings it is an error."""
    wanted = {name: getattr(options, name) for name in SETTINGS + ("steer_prompts",) * bool(options.steer_prompts)}
    content = read(options.json) or {"settings": wanted, "pieces": {}}
    have: dict[str, Any] = content["settings"]
    if not options.only_table:
        if any(have.get(name, value) != value for name, value in wanted.items()):
            raise SystemExit(f"{options.json} was measured with {have}, not {wanted}: name another")
        have |= wanted
    return content


def find_again(pieces: Pieces, options: argparse.Namespace) -> None:
    """Add to each row the share of its decoder directions that the other seeds found too, where their SAEs are kept."""
    for piece, seeds in pieces.items():
        found: dict[str, dict[str, Tensor]] = {}
        for seed, rows in seeds.items():
            for name in rows:
                folder = folder_of(options, seed, piece) / key_of(name)
                if (folder / "cfg.json").is_file():
                    found.setdefault(name, {})[seed] = directions(SAE.from_pretrained(folder))
        for name, by_seed in found.items():
            for seed, rows_FD in by_seed.items():
                others = [match(rows_FD, other) for number, other in by_seed.items() if number != seed]
                if others:
                    share = sum(part["matched_share"] for part in others) / len(others)
                    seeds[seed][name]["matched_share"] = share


def parse() -> argparse.Namespace:
    """The command line; a preset gives other defaults."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--preset", choices=["quick", "full"], default="full")
    parser.add_argument("--ks", type=int, nargs="+", default=[8, 16, 64])
    parser.add_argument("--factors", type=float, nargs="+", default=[8, 32], help="latents per channel")
    parser.add_argument("--variants", nargs="+", choices=list(variants()), help="all unless given")
    parser.add_argument("--together", type=int, default=20, help="SAEs trained side by side")
    parser.add_argument("--mark", default="table", help="what the table is called in the page")
    parser.add_argument("--plot", type=Path, help="a PNG to write")
    parser.add_argument("--plotted", choices=list(PLOTTED), default="f1", help="what against the loss increase")
    folders = {"json": Path("runs/pareto.json"), "folder": Path("runs/pareto")}
    add_options(parser, steps=3500, test_samples=16384, steer_prompts=4, **folders)
    if parser.parse_known_args()[0].preset == "quick":
        parser.set_defaults(**QUICK)
    return parser.parse_args()


def main() -> None:
    """Measure what is missing, piece by piece; print their tables, and write them and the plot of all where wanted."""
    options, every = parse(), variants()
    torch.set_float32_matmul_precision("medium")
    content = load(options)
    pieces = [(seed, factor, k) for factor in options.factors for k in options.ks for seed in options.seeds]
    for seed, factor, k in [] if options.only_table else pieces:
        piece = piece_of(factor, k)
        rows = content["pieces"].setdefault(piece, {}).setdefault(str(seed), {})
        lasting = "steering_success" if options.steer_prompts else "l0"
        missing = [name for name in options.variants or every if lasting not in rows.get(name, {})]
        for start in range(0, len(missing), options.together):
            names = missing[start : start + options.together]
            print(f"seed {seed}, {piece}: {', '.join(names)}", flush=True)
            builders = {name: builder(every[name], k=k, expansion_factor=factor) for name in names}
            rows |= measured(builders, Way(), seed, folder_of(options, seed, piece), options)
            save(options.json, content)
    find_again(content["pieces"], options)
    save(options.json, content)
    tables = [
        f"### {piece}\n\n{over_seeds(content['pieces'][piece], list(every), COLUMNS, 'SAE')}"
        for piece in sorted(content["pieces"], key=numbers)
        if piece in {piece_of(factor, k) for _, factor, k in pieces}
    ]
    print(text := "\n\n".join(tables))
    if options.page:
        write(options.page, options.mark, text)
    if options.plot:
        plot({numbers(piece): rows for piece, rows in content["pieces"].items()}, options.plotted, options.plot)


if __name__ == "__main__":
    main()

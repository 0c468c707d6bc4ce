r"""Every rival against TideSAE, at equal L0 and on the same tokens: what is kept, what is meant, what can be steered.

    python -m benchmarks.pareto --preset quick                      # 20 minutes on two cores, one seed
    python -m benchmarks.pareto --ks 16 --factors 8                 # a piece of the full one; pieces add up
    python -m benchmarks.pareto --preset quick --steer_prompts 4    # the quick one's SAEs, steered with besides
    python -m benchmarks.pareto                                     # everything: about a day on two cores
    python -m benchmarks.pareto --only_table                        # what is there so far

One block of a ground. The rivals are those of configs/rivals, each as its paper has it, and with what we have, as far
as its class takes it: our known part (`-known`), besides it the quickstart's metric, scales and budget of a batch
(`-metric`), besides those its refinement, pursuit and start of the encoder (`-pursuit`). TideSAE is
configs/quickstart's, and what a BatchTopK with all of these is; its settings were found on another block
(`benchmarks.worlds`), and on it each SAE's learning rate is chosen of three, with a seed that is not reported. Beside
them stand principal components about the known part in the metric, k and 2k of them. All SAEs of a piece (a seed, a
size, an L0) are trained on the same tokens, from one harvest, which is kept on disk for the seed's other pieces.
Resumable: rows that the JSON file holds are not measured again, unless they were not steered with and shall be, or lack
wanted details; rows of other settings are refused. A CSV file beside it has every figure. A page gets the best rivals',
and with --details what tells each factor and what pushes cause, in the first piece.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.components import fit_components
from benchmarks.pages import paired, read, save, write, write_csv
from benchmarks.pareto_details import by_factor, causes
from benchmarks.pareto_plot import Pieces, plot
from benchmarks.pareto_tables import comparison, everything
from benchmarks.side_by_side import Builder, Way, add_options, builder, changed, harvest, kept, key_of, measured, sae_of
from benchmarks.worlds import WORLDS
from tide_lightning.command_line import packaged_configs
from tide_lightning.evaluation.comparison.reproducibility import match
from tide_lightning.evaluation.matching import directions
from tide_lightning.saes import SAE

OURS = "tide"
"""The quickstart's SAE."""
MODULATED = "tide-modulated"
"""The same with the temporal modulation and a quarter of the budget by time: the default until 27 November 2026."""
PAPER = "tide-paper"
"""The paper's own recipe, which stands as it is, 5 % of 16 d latents a token; and the same with the piece's k."""
COMPONENTS = {"pca-k": 1, "pca-2k": 2}
"""Controls without a dictionary, and how many times k their components are."""
ASIDE = {MODULATED, PAPER, *COMPONENTS}
"""What is shown wherever it was measured, and is no rival: ours in another form, of another L0, or no dictionary."""

TUNING_SEED = 1000
"""Of the fits from which learning rates are chosen; never reported."""

EQUIPMENT = {
    "-known": ("known_part", "num_bins"),
    "-metric": ("fidelity_weight", "fidelity_loss", "scale_by_timestep", "budget"),
    "-pursuit": ("refinements", "pursuits", "encoder_norm"),
}
"""The quickstart's arguments that a rival gets with each of these behind its name, and with all before it."""

QUICK = {"ks": [16], "factors": [8], "seeds": [0], "steps": 800, "test_samples": 1024, "steer_prompts": 0}
QUICK |= {"kept_images": 0, "lrs": [1.5e-3]}
"""The preset: one L0, one size, one seed, short fits, no steering; all rivals."""

SETTINGS = (
    "ground",
    "site",
    "tune_site",
    "lrs",
    "tune_steps",
    "steps",
    "scenes",
    "calibration_samples",
    "test_samples",
    "fidelity_samples",
    "labelled_images",
)
"""What rows of one file have in common; those that were steered with also the number of prompts."""


def variants() -> dict[str, dict[str, Any]]:
    """By name, the class and the arguments of each SAE; of equipped ones that are the same, the first."""
    ours = sae_of("quickstart")
    modulated = ours | {"init_args": ours["init_args"] | {"modulation": "adaln", "budget_over_time": 0.25}}
    found, given = {OURS: ours, MODULATED: modulated}, {"num_bins": 20} | ours["init_args"]
    for name in packaged_configs():
        if name.startswith("rivals/"):
            short, rival = name.removeprefix("rivals/"), sae_of(name)
            found[short] = rival
            for suffix, arguments in EQUIPMENT.items() if not short.startswith(PAPER) else ():
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


def builders(names: Sequence[str], factor: float, k: int) -> dict[str, Builder]:
    """What makes each SAE of a piece; the paper's own has its own size and k."""
    every = variants()
    return {
        name: builder(every[name]) if name == PAPER else builder(every[name], k=k, expansion_factor=factor)
        for name in names
    }


def learning_rates(
    content: dict[str, Any], names: Sequence[str], factor: float, k: int, options: argparse.Namespace
) -> dict[str, float]:
    """For each SAE the rate, of those tried, of the least even loss increase on the block that is not reported."""
    if len(options.lrs) == 1:
        return dict.fromkeys(names, options.lrs[0])
    piece = piece_of(factor, k)
    tried: dict[str, dict[str, float]] = content.setdefault("rates", {}).setdefault(piece, {})
    for lr in options.lrs:
        missing = [name for name in names if f"{lr:g}" not in tried.get(name, {})]
        if not missing:
            continue
        print(f"learning rate {lr:g} on {options.tune_site}, {piece}: {', '.join(missing)}", flush=True)
        less = {"steps": options.tune_steps, "test_samples": 512, "labelled_images": 64}
        less |= {"kept_images": 0, "steer_prompts": 0}
        tuning = changed(options, site=options.tune_site, lr=lr, folder=options.folder / "tuning", **less)
        folder = tuning.folder / key_of(piece) / f"{lr:g}"
        rows = measured(builders(missing, factor, k), Way(), TUNING_SEED, folder, tuning)
        for name, row in rows.items():
            tried.setdefault(name, {})[f"{lr:g}"] = row["loss_increase_even"]
        save(options.json, content)
    return {name: float(min(tried[name], key=lambda lr: tried[name][lr])) for name in names}


def parse() -> argparse.Namespace:
    """The command line; a preset gives other defaults."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--preset", choices=["quick", "full"], default="full")
    parser.add_argument("--ks", type=int, nargs="+", default=[8, 16, 64])
    parser.add_argument("--factors", type=float, nargs="+", default=[8, 32], help="latents per channel")
    parser.add_argument("--variants", nargs="+", choices=[*variants(), *COMPONENTS], help="all unless given")
    parser.add_argument("--together", type=int, default=20, help="SAEs trained side by side")
    parser.add_argument(
        "--lrs", type=float, nargs="+", default=[1.5e-3, 3e-3, 6e-3], help="tried; one is taken as it is"
    )
    parser.add_argument("--tune_site", help="on which the learning rate is chosen; the ground's own unless given")
    parser.add_argument("--tune_steps", type=int, default=1000, help="of these fits")
    parser.add_argument("--mark", default="table", help="what the table is called in the page")
    parser.add_argument("--plot", type=Path, help="a PNG of the first size and L0 to write")
    folders = {"json": Path("runs/pareto.json"), "folder": Path("runs/pareto")}
    defaults = {"site": None, "seeds": [20, 21, 22], "kept_images": 48}
    defaults["calibration_samples"] = 4096
    add_options(parser, steps=3000, test_samples=16384, steer_prompts=4, **defaults, **folders)
    if parser.parse_known_args()[0].preset == "quick":
        parser.set_defaults(**QUICK)
    options = parser.parse_args()
    options.site = options.site or WORLDS[options.ground].reported
    options.tune_site = options.tune_site or WORLDS[options.ground].tuned
    return options


def measure(
    names: Sequence[str], lr: float | None, seed: int, factor: float, k: int, options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """The rows of some SAEs of a piece with one learning rate; None for those that are not trained."""
    folder = folder_of(options, seed, piece_of(factor, k))
    if lr is None:
        data = harvest(seed, options)
        width = data.site_shapes[options.site]["d_in"]
        assert isinstance(width, int)
        counts = {key_of(name): min(COMPONENTS[name] * k, width) for name in names}
        fit_components(data, options.site, sae_of("quickstart")["init_args"], counts, folder)
        return measured(dict.fromkeys(names, kept), Way(), seed, folder, options)
    found = measured(builders(names, factor, k), Way(), seed, folder, changed(options, lr=lr))
    return {name: row | {"lr": lr} for name, row in found.items()}


def main() -> None:
    """Measure what is missing, piece by piece; write every figure, and the page's table and plot where wanted."""
    options, every = parse(), [*variants(), *COMPONENTS]
    torch.set_float32_matmul_precision("medium")
    content = load(options)
    pieces = [(seed, factor, k) for factor in options.factors for k in options.ks for seed in options.seeds]
    for seed, factor, k in [] if options.only_table else pieces:
        piece = piece_of(factor, k)
        rows = content["pieces"].setdefault(piece, {}).setdefault(str(seed), {})
        lasting = {"l0"} | ({"steering_success"} if options.steer_prompts else set())
        lasting |= {"factors"} if options.details else set()
        missing = [name for name in options.variants or every if not lasting <= set(rows.get(name, {}))]
        rates = learning_rates(content, [name for name in missing if name not in COMPONENTS], factor, k, options)
        groups = [[name for name in missing if rates.get(name) == lr] for lr in dict.fromkeys(map(rates.get, missing))]
        at_once = options.together
        for names in (some[at : at + at_once] for some in groups for at in range(0, len(some), at_once)):
            print(f"seed {seed}, {piece}: {', '.join(names)}", flush=True)
            rows |= measure(names, rates.get(names[0]), seed, factor, k, options)
            save(options.json, content)
    find_again(content["pieces"], options)
    for seeds in content["pieces"].values():
        paired(seeds, "loss_increase_even", OURS)
    save(options.json, content)
    shown = [
        piece
        for piece in sorted(content["pieces"], key=numbers)
        if piece in {piece_of(factor, k) for _, factor, k in pieces}
    ]
    head, lines = everything({piece: content["pieces"][piece] for piece in shown}, every)
    write_csv(options.json.with_suffix(".csv"), head, lines)
    tables = {piece: comparison(content["pieces"][piece], every, OURS, ASIDE) for piece in shown}
    text = "\n\n".join(f"### {piece}\n\n{table}" if len(tables) > 1 else table for piece, table in tables.items())
    print(text)
    if options.page:
        write(options.page, options.mark, text)
        if options.details:
            seeds = content["pieces"][shown[0]]
            write(options.page, f"{options.mark}-factors", by_factor(seeds, OURS))
            write(options.page, f"{options.mark}-causes", causes(seeds, OURS))
    if options.plot:
        factor, k = options.factors[0], options.ks[0]
        plot(
            content["pieces"][piece_of(factor, k)],
            OURS,
            ASIDE,
            f"{factor:g} d latents, {k} a token",
            options.plot,
        )


if __name__ == "__main__":
    main()

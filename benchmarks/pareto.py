r"""Every rival against TideSAE, at equal L0 and on the same tokens: what is kept, what is meant, what can be steered.

    python -m benchmarks.pareto --preset quick                      # 20 minutes on two cores, one seed
    python -m benchmarks.pareto --ks 16 --factors 8                 # a piece of the full one; pieces add up
    python -m benchmarks.pareto --preset quick --steer_prompts 4    # the quick one's SAEs, steered with besides
    python -m benchmarks.pareto                                     # everything: about a day on two cores
    python -m benchmarks.pareto --only_table                        # what is there so far

One middle block of the toybox. The rivals are those of configs/rivals, each as its paper has it and with our known
part, and TideSAE is configs/quickstart's. All SAEs of a piece (a seed, a size, an L0) are trained on the same tokens,
from one harvest, which is kept on disk for the seed's other pieces. Resumable: rows that the JSON file holds are not
measured again, and rows of other settings are refused.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer, seed_everything
from torch import Tensor

from benchmarks.configs import sae_of
from benchmarks.keeping import SITE, Figures, measure
from benchmarks.meaning import steer, understand
from benchmarks.pareto_page import PLOTTED, Pieces, plot, table
from benchmarks.tables import write
from tide_lightning.callbacks import ResampleDeadLatents, ShowProgress
from tide_lightning.command_line import packaged_configs
from tide_lightning.datamodules import ActivationDataModule, DiskCache
from tide_lightning.evaluation.comparison.reproducibility import match
from tide_lightning.evaluation.matching import directions
from tide_lightning.grounds.toybox import Scenes
from tide_lightning.saes import SAE
from tide_lightning.tokens import SiteShape
from tide_lightning.training import TideModule

OURS = "tide"
"""The quickstart's SAE."""
WITH_KNOWN = "-known"
"""Behind the name of a rival that got our known part."""

QUICK = {"ks": [16], "factors": [8], "seeds": [0], "steps": 800, "test_samples": 1024, "steer_prompts": 0}
"""The preset: one L0, one size, one seed, short fits, no steering; all rivals."""


def variants() -> dict[str, dict[str, Any]]:
    """By name, the class and the arguments of each SAE."""
    ours = sae_of("quickstart")
    found = {OURS: ours}
    for name in packaged_configs():
        if name.startswith("rivals/"):
            config, short = sae_of(name), name.removeprefix("rivals/")
            found[short] = config
            known = config["init_args"] | {"known_part": ours["init_args"]["known_part"], "num_bins": 20}
            found[short + WITH_KNOWN] = config | {"init_args": known}
    return found


def builder(variant: dict[str, Any], k: int, factor: float) -> Callable[[SiteShape], SAE]:
    """Makes the variant at an L0 and a size."""
    module, _, name = variant["class_path"].rpartition(".")
    made: Callable[[SiteShape], SAE] = getattr(import_module(module), name)
    return partial(made, **(variant["init_args"] | {"k": k, "expansion_factor": factor}))


def harvest(seed: int, options: argparse.Namespace) -> ActivationDataModule:
    """The data of a seed: 512 tokens a batch, kept on disk."""
    return ActivationDataModule(
        "package:tide_lightning.grounds.toybox/pipeline",
        [SITE],
        images=Scenes(split="train", num_scenes=options.scenes),
        heldout_images=Scenes(split="test", num_scenes=options.scenes // 4),
        samples_per_batch=16,
        tokens_per_sample=32,
        batches_per_epoch=options.steps,
        num_calibration_samples=1024,
        num_test_samples=options.test_samples,
        dtype="auto",
        cache=DiskCache(options.folder / f"harvest-{seed}"),
        seed=seed,
    )


def train(data: ActivationDataModule, saes: dict[str, Callable[[SiteShape], SAE]], seed: int, steps: int) -> TideModule:
    """The SAEs after `steps` batches: the quickstart's training for all of them."""
    seed_everything(seed, verbose=False)
    module = TideModule(data.site_shapes, saes=saes, lr=1.5e-3, warmup_steps=200, dead_after_tokens=30_000)
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        devices=1,
        logger=False,
        gradient_clip_val=1.0,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[ResampleDeadLatents(every_n_steps=100), ShowProgress()],
    )
    trainer.fit(module, datamodule=data)
    return module.eval()


def settings(options: argparse.Namespace) -> dict[str, int]:
    """What rows of one file have in common; rows may also be steered, with as many prompts each."""
    names = ["steps", "scenes", "test_samples", "fidelity_samples", "labelled_scenes"]
    return {name: getattr(options, name) for name in names + ["steer_prompts"] * bool(options.steer_prompts)}


def load(options: argparse.Namespace) -> dict[str, Any]:
    """The file's content; of other settings it is an error."""
    if not options.json.is_file():
        return {"settings": settings(options), "pieces": {}}
    found: dict[str, Any] = json.loads(options.json.read_text(encoding="utf-8"))
    wanted = settings(options)
    if not options.only_table and any(found["settings"].get(name, value) != value for name, value in wanted.items()):
        raise SystemExit(f"{options.json} was measured with {found['settings']}, not {wanted}: name another")
    found["settings"] |= wanted if not options.only_table else {}
    return found


def save(content: dict[str, Any], options: argparse.Namespace) -> None:
    """Write what was measured so far."""
    options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def piece_of(factor: float, k: int) -> str:
    """The name of a size and an L0."""
    return f"{factor:g}x k={k}"


def sae_folder(options: argparse.Namespace, seed: int | str, piece: str, name: str) -> Path:
    """Where a trained SAE is kept."""
    folder: Path = options.folder / f"seed-{seed}" / piece.replace(" k=", "-k") / name
    return folder


def run_piece(rows: dict[str, Figures], seed: int, factor: float, k: int, options: argparse.Namespace) -> None:
    """Train and measure what a piece has not yet, into its rows."""
    every = variants()
    missing = [name for name in options.variants or every if name not in rows]
    for start in range(0, len(missing), options.together):
        names = missing[start : start + options.together]
        print(f"seed {seed}, {factor:g}x, k = {k}: {', '.join(names)}", flush=True)
        data = harvest(seed, options)
        builders = {name: builder(every[name], k, factor) for name in names}
        module = train(data, builders, seed, options.steps)
        saes = {name: module.sae(f"{SITE}@{name}") for name in names}
        for name, sae in saes.items():
            sae.save_pretrained(sae_folder(options, seed, piece_of(factor, k), name), site=SITE)
        figures = measure(data, saes, options.fidelity_samples)
        meaning = understand(data, saes, options.labelled_scenes)
        rows.update({name: figures[name] | meaning[name] for name in names})


def steer_piece(rows: dict[str, Figures], seed: int, factor: float, k: int, options: argparse.Namespace) -> None:
    """Steer with those SAEs of a piece that are kept and were not steered with yet."""
    folders = {name: sae_folder(options, seed, piece_of(factor, k), name) for name in options.variants or rows}
    missing = [name for name in folders if name in rows and "steering_success" not in rows[name]]
    saes = {name: SAE.from_pretrained(folders[name]) for name in missing if (folders[name] / "cfg.json").is_file()}
    if saes and options.steer_prompts:
        print(f"seed {seed}, {factor:g}x, k = {k}: steering with {', '.join(saes)}", flush=True)
        data = harvest(seed, options)
        data.setup()
        for name, found in steer(data, saes, options).items():
            rows[name] |= found


def find_again(pieces: Pieces, options: argparse.Namespace) -> None:
    """Add to each row the share of its decoder directions that the other seeds found too, where their SAEs are kept."""
    for piece, seeds in pieces.items():
        found: dict[str, dict[str, Tensor]] = {}
        for seed, rows in seeds.items():
            for name in rows:
                folder = sae_folder(options, seed, piece, name)
                if (folder / "cfg.json").is_file():
                    found.setdefault(name, {})[seed] = directions(SAE.from_pretrained(folder))
        for name, by_seed in found.items():
            for seed, rows_FD in by_seed.items():
                others = [match(rows_FD, other) for number, other in by_seed.items() if number != seed]
                if others:
                    seeds[seed][name]["matched_share"] = sum(part["matched_share"] for part in others) / len(others)


def parse() -> argparse.Namespace:
    """The command line; a preset gives other defaults."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--preset", choices=["quick", "full"], default="full")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ks", type=int, nargs="+", default=[8, 16, 64])
    parser.add_argument("--factors", type=float, nargs="+", default=[8, 32], help="latents per channel")
    parser.add_argument("--variants", nargs="+", choices=list(variants()), help="all unless given")
    parser.add_argument("--together", type=int, default=20, help="SAEs trained side by side")
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--scenes", type=int, default=2048)
    parser.add_argument("--test_samples", type=int, default=16384)
    parser.add_argument("--fidelity_samples", type=int, default=256)
    parser.add_argument("--labelled_scenes", type=int, default=320)
    parser.add_argument("--steer_prompts", type=int, default=4, help="for each target and method; 0 does not steer")
    parser.add_argument("--json", type=Path, default=Path("pareto.json"))
    parser.add_argument("--folder", type=Path, default=Path("runs/pareto"), help="of the harvests and the SAEs")
    parser.add_argument("--page", type=Path, help="a Markdown file whose table to replace")
    parser.add_argument("--mark", default="table", help="what the table is called in the page")
    parser.add_argument("--plot", type=Path, help="a PNG to write")
    parser.add_argument("--plotted", choices=list(PLOTTED), default="f1", help="what against the loss increase")
    parser.add_argument("--only_table", action="store_true")
    if parser.parse_known_args()[0].preset == "quick":
        parser.set_defaults(**QUICK)
    return parser.parse_args()


def main() -> None:
    """Measure what is missing, piece by piece; then print the table, and write it and the plot where wanted."""
    options = parse()
    torch.set_float32_matmul_precision("medium")
    content = load(options)
    pieces = [(seed, factor, k) for factor in options.factors for k in options.ks for seed in options.seeds]
    for seed, factor, k in [] if options.only_table else pieces:
        rows = content["pieces"].setdefault(piece_of(factor, k), {}).setdefault(str(seed), {})
        for run in (run_piece, steer_piece):
            run(rows, seed, factor, k, options)
            save(content, options)
    find_again(content["pieces"], options)
    save(content, options)
    names = list(variants())
    print(text := table(content["pieces"], names))
    if options.page:
        write(options.page, options.mark, text)
    if options.plot:
        plot(content["pieces"], names, options.plotted, options.plot)


if __name__ == "__main__":
    main()

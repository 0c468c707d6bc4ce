"""What each part of the method is worth: variants trained side by side on one harvest, at equal tokens.

    python -m benchmarks.ablation --json docs/ablation.json --table docs/ablation.md
    python -m benchmarks.ablation --without_pursuit --json docs/ablation_without_pursuit.json --table docs/ablation.md

One middle block of the toybox; every variant of a seed sees the same tokens in the same order, apart from the one
without token sampling, which takes all 64 tokens of half of the images. Resumable: rows that the JSON file
holds already are not measured again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import Callback, LightningDataModule, Trainer, seed_everything
from torch import Tensor

from benchmarks.keeping import SITE, measure
from benchmarks.tables import markdown, spread, write
from benchmarks.variants import EncodesActivation, MixesChannels, WeighsErrors
from tide_lightning.callbacks import ResampleDeadLatents, ShowProgress
from tide_lightning.datamodules import ActivationDataModule
from tide_lightning.saes import SAE, TideSAE
from tide_lightning.tokens import Sensitivity, SiteShape, TokenBatch
from tide_lightning.toybox import Scenes
from tide_lightning.training import TideModule

COMMON: dict[str, Any] = {
    "k": 16,
    "budget": "batch",
    "refinements": 1,
    "pursuits": 1,
    "encoder_norm": 0.3,
    "fidelity_weight": 0.65,
    "budget_over_time": 0.1,
}
WITHOUT_PURSUIT: dict[str, Any] = {"pursuits": 0, "fidelity_weight": 0.5, "budget_over_time": 0.0}
"""What the quickstart's SAE was before."""
NO_SAMPLING = "no token sampling"
DEFAULT = "TideSAE (the default)"

VARIANTS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "no pursuit": {"pursuits": 0},
    "three rounds of pursuit": {"pursuits": 3},
    "no refinement": {"refinements": 0},
    "neither pursuit nor refinement": {"refinements": 0, "pursuits": 0},
    "16 latents for every token": {"budget": "token"},
    "a budget blind to time": {"budget_over_time": 0.0},
    "a quarter of the budget by time": {"budget_over_time": 0.25},
    "errors weighted by time as well": {},
    "encoder reads the activation": {},
    "modulation that mixes channels": {},
    "encoder rows of norm 1 at the start": {"encoder_norm": 1.0},
    "nine tenths of the error by sensitivity": {"fidelity_weight": 0.9},
    "plain squared error": {"fidelity_weight": 0.0},
    "all times weighted alike": {"scale_by_timestep": True},
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
        "encoder_norm": 1.0,
        "expansion_factor": 16.5,  # as many parameters as with the modulation's MLP
    },
    "known: mean": {"known_part": "mean"},
    "known: mean_t": {"known_part": "mean_t"},
    "known: mean_t_position": {"known_part": "mean_t_position"},
    "known: noise_estimate": {"known_part": "noise_estimate"},
    "known: input_window": {"known_part": "input_window"},
    "known: noise_token (leaks)": {"known_part": "noise_token"},
    NO_SAMPLING: {},
    "no AuxK, no resampling": {},
    "no pursuit, no AuxK": {"pursuits": 0},
    "no pursuit, no resampling": {"pursuits": 0},
    "no pursuit, no AuxK, no resampling": {"pursuits": 0},
}

_PARTS_OF_ALL = [
    DEFAULT,
    "no refinement",
    "16 latents for every token",
    "encoder rows of norm 1 at the start",
    "plain squared error",
    "no modulation",
    "known: mean",
]
WITHOUT = [
    *_PARTS_OF_ALL,
    "modulation from zero",
    "un-modulated decoding",
    "no timestep at all",
    "TopK, mean and scale per timestep",
    *(name for name in VARIANTS if name.startswith("known: mean_")),
    "known: noise_estimate",
    "known: input_window",
    "known: noise_token (leaks)",
    NO_SAMPLING,
]
"""The rows of the table of SAEs that do not pursue."""
WITH = [name for name in VARIANTS if name in _PARTS_OF_ALL or name not in WITHOUT]
"""The rows of the table of SAEs that do."""

CLASSES: dict[str, type[TideSAE]] = {
    "errors weighted by time as well": WeighsErrors,
    "encoder reads the activation": EncodesActivation,
    "modulation that mixes channels": MixesChannels,
}
"""Of variants that are no `TideSAE` of other arguments."""

COLUMNS = {
    "explained_variance": ("explained variance", ".4f"),
    "loss_increase": ("loss increase", "%"),
    "loss_increase_known": ("known alone", "%"),
    "alive_fraction": ("alive", ".3f"),
    "l0": ("L0", ".1f"),
}


class OneHarvest(LightningDataModule):
    """Gives the tokens of one site to several SAEs, each under its variant's name."""

    def __init__(self, data: ActivationDataModule, variants: list[str]) -> None:
        super().__init__()
        self.data, self.variants = data, variants

    @property
    def denoiser(self) -> OneHarvest:
        """What is asked for its adaLN."""
        return self

    def adaln(self, variant: str) -> tuple[Tensor, Tensor, Tensor] | None:
        """The site's, whatever the variant."""
        return self.data.denoiser.adaln(SITE)

    def sensitivity(self, variants: list[str]) -> dict[str, Sensitivity]:
        """The site's, whatever the variant."""
        return dict.fromkeys(variants, self.data.sensitivity([SITE])[SITE])

    def fan_out(self, batch: dict[str, TokenBatch]) -> dict[str, TokenBatch]:
        """The same tokens for every variant."""
        return dict.fromkeys(self.variants, batch[SITE])

    def calibration_batches(self) -> Iterator[dict[str, TokenBatch]]:
        """The harvest's, fanned out."""
        return map(self.fan_out, self.data.calibration_batches())

    def train_dataloader(self) -> Iterator[dict[str, TokenBatch]]:
        """The harvest's, fanned out."""
        return map(self.fan_out, self.data.train_dataloader())

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Nothing to move: tokens are made where they are used."""
        return batch


def harvest(seed: int, whole_images: bool, options: argparse.Namespace) -> ActivationDataModule:
    """The data of a seed: 512 tokens a batch."""
    return ActivationDataModule(
        "package:tide_lightning.toybox/pipeline",
        [SITE],
        images=Scenes(split="train", num_scenes=options.scenes),
        heldout_images=Scenes(split="test", num_scenes=options.scenes // 4),
        samples_per_batch=8 if whole_images else 16,
        tokens_per_sample=64 if whole_images else 32,
        batches_per_epoch=options.steps,
        num_test_samples=options.test_samples,
        dtype="auto",
        seed=seed,
    )


class Way(NamedTuple):
    """How SAEs are trained side by side: on whole images, with AuxK, with resampling."""

    whole_images: bool
    auxk: bool
    resampling: bool


def way(variant: str) -> Way:
    """That of a variant, by its name."""
    return Way(variant == NO_SAMPLING, "no AuxK" not in variant, "no resampling" not in variant)


def build(shape: SiteShape, variant: str, common: dict[str, Any]) -> TideSAE:
    """The variant's SAE; without parts that it does without."""
    arguments = common | VARIANTS[variant]
    if arguments["budget"] == "token":
        arguments["budget_over_time"] = 0.0
    return CLASSES.get(variant, TideSAE)(shape, **arguments)


def train(
    data: ActivationDataModule, variants: list[str], common: dict[str, Any], seed: int, steps: int
) -> dict[str, SAE]:
    """The variants' SAEs after `steps` batches; all of them are trained one way."""
    seed_everything(seed, verbose=False)
    arguments = iter(variants)
    module = TideModule(
        dict.fromkeys(variants, data.site_shapes[SITE]),
        sae=lambda shape: build(shape, next(arguments), common),
        lr=1.5e-3,
        warmup_steps=200,
        dead_after_tokens=30_000,
        alpha=1 / 32 if way(variants[0]).auxk else 0.0,
    )
    callbacks: list[Callback] = [ShowProgress()]
    if way(variants[0]).resampling:
        callbacks.append(ResampleDeadLatents(every_n_steps=100))
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=callbacks,
    )
    trainer.fit(module, datamodule=OneHarvest(data, variants))
    return {variant: module.sae(variant).eval() for variant in variants}


def table(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    """A line a variant, over the seeds that have it."""
    lines = []
    for name in VARIANTS:
        seeds = [found[name] for found in rows.values() if name in found]
        if not seeds:
            continue
        cells = [spread([row[key] for row in seeds if key in row], form) for key, (_, form) in COLUMNS.items()]
        lines.append([name, *cells])
    return markdown(["variant", *(head for head, _ in COLUMNS.values())], lines)


def main() -> None:
    """Measure what is missing, then print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), help="those of the table unless given")
    parser.add_argument("--without_pursuit", action="store_true", help="vary a TideSAE that does not pursue")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--scenes", type=int, default=2048)
    parser.add_argument("--test_samples", type=int, default=2048)
    parser.add_argument("--fidelity_samples", type=int, default=256)
    parser.add_argument("--json", type=Path, default=Path("ablation.json"))
    parser.add_argument("--table", type=Path, help="page whose table is replaced")
    parser.add_argument("--only_table", action="store_true")
    options = parser.parse_args()
    torch.set_float32_matmul_precision("medium")
    common = COMMON | (WITHOUT_PURSUIT if options.without_pursuit else {})
    wanted: list[str] = options.variants or (WITHOUT if options.without_pursuit else WITH)
    rows: dict[str, dict[str, dict[str, float]]] = {}
    if options.json.is_file():
        rows = json.loads(options.json.read_text(encoding="utf-8"))
    for seed in [] if options.only_table else options.seeds:
        have = rows.setdefault(str(seed), {})
        for how in dict.fromkeys(map(way, wanted)):
            variants = [name for name in wanted if way(name) == how and name not in have]
            if not variants:
                continue
            print(f"seed {seed}: {', '.join(variants)}", flush=True)
            data = harvest(seed, how.whole_images, options)
            saes = train(data, variants, common, seed, options.steps)
            have |= measure(data, saes, options.fidelity_samples)
            options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    text = table(rows)
    if options.without_pursuit:
        text = text.replace(DEFAULT, "encoder-only")
    print(text)
    if options.table:
        write(options.table, "without_pursuit" if options.without_pursuit else "table", text)


if __name__ == "__main__":
    main()

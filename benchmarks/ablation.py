"""What each part of the method is worth: variants trained side by side on one harvest, at equal tokens.

    python -m benchmarks.ablation --json docs/ablation.json --table docs/ablation.md
    python -m benchmarks.ablation --of one_scale --json docs/ablation_one_scale.json
    python -m benchmarks.ablation --of parts --json docs/ablation_parts.json
    python -m benchmarks.ablation --of without_pursuit --json docs/ablation_without_pursuit.json

One middle block of the toybox; every variant of a seed sees the same tokens in the same order, apart from the one
without token sampling, which takes all 64 tokens of half of the images. Resumable: rows that the JSON file
holds already are not measured again. `--table docs/ablation.md` writes the table into the page.
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
from benchmarks.meaning import understand
from benchmarks.tables import averaged, markdown, write
from benchmarks.variants import COMMON, DEFAULT, NO_SAMPLING, TABLES, VARIANTS
from tide_lightning.callbacks import ResampleDeadLatents, ShowProgress
from tide_lightning.datamodules import ActivationDataModule
from tide_lightning.grounds.toybox import Scenes
from tide_lightning.saes import SAE, TideSAE
from tide_lightning.tokens import Sensitivity, SiteShape, TokenBatch
from tide_lightning.training import TideModule

COLUMNS = {
    "explained_variance": ("explained variance", ".4f"),
    "loss_increase": ("loss increase", "%"),
    "loss_increase_known": ("known alone", "%"),
    "alive_fraction": ("alive", ".3f"),
    "l0": ("L0", ".1f"),
    "f1": ("factor F1", ".3f"),
}
"""Of a table, those that it has."""


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
        "package:tide_lightning.grounds.toybox/pipeline",
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
    return TideSAE(shape, **arguments)


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
    there = {key for found in rows.values() for row in found.values() for key in row}
    columns = {key: column for key, column in COLUMNS.items() if key in there}
    lines = []
    for name in VARIANTS:
        seeds = [found[name] for found in rows.values() if name in found]
        if not seeds:
            continue
        cells = [averaged([row[key] for row in seeds if key in row], form) for key, (_, form) in columns.items()]
        lines.append([name, *cells])
    return markdown(["variant", *(head for head, _ in columns.values())], lines)


def main() -> None:
    """Measure what is missing, then print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), help="those of the table unless given")
    parser.add_argument("--of", choices=list(TABLES), default="default", help="the table")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--scenes", type=int, default=2048)
    parser.add_argument("--test_samples", type=int, default=2048)
    parser.add_argument("--fidelity_samples", type=int, default=256)
    parser.add_argument("--labelled_scenes", type=int, default=320)
    parser.add_argument("--json", type=Path, default=Path("ablation.json"))
    parser.add_argument("--table", type=Path, help="page whose table is replaced")
    parser.add_argument("--only_table", action="store_true")
    options = parser.parse_args()
    torch.set_float32_matmul_precision("medium")
    unvaried, own, variants = TABLES[options.of]
    common, wanted = COMMON | own, options.variants or variants
    rows: dict[str, dict[str, dict[str, float]]] = {}
    if options.json.is_file():
        rows = json.loads(options.json.read_text(encoding="utf-8"))
    for seed in [] if options.only_table else options.seeds:
        have = rows.setdefault(str(seed), {})
        for how in dict.fromkeys(map(way, wanted)):
            missing = [name for name in wanted if way(name) == how and name not in have]
            if not missing:
                continue
            print(f"seed {seed}: {', '.join(missing)}", flush=True)
            data = harvest(seed, how.whole_images, options)
            saes = train(data, missing, common, seed, options.steps)
            kept = measure(data, saes, options.fidelity_samples)
            meant = understand(data, saes, options.labelled_scenes)
            have |= {name: kept[name] | meant[name] for name in missing}
            options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    text = table(rows).replace(DEFAULT, unvaried)
    print(text)
    if options.table:
        write(options.table, options.of, text)


if __name__ == "__main__":
    main()

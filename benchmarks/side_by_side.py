"""SAEs of one block of a ground, trained side by side on one harvest and tested as `tide test` tests.

Every SAE of a seed sees the same tokens in the same order. What was measured is kept in a JSON file, a line an SAE, and
is not measured again; trained SAEs and the harvest are kept in a folder.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from lightning import Callback, seed_everything

from benchmarks.plain_tokens import quiet_trainer
from benchmarks.worlds import WORLDS
from tide_lightning.benchmark import GroundBenchmark
from tide_lightning.callbacks import ResampleDeadLatents, ShowProgress
from tide_lightning.command_line import packaged_configs
from tide_lightning.datamodules import ActivationDataModule, DiskCache, HeldOutOptions, LoadingOptions
from tide_lightning.evaluation import EvaluateProtocol
from tide_lightning.evaluation.comparison.compared import interval_at, value_at
from tide_lightning.saes import SAE
from tide_lightning.tokens import SiteShape
from tide_lightning.training import TideModule

FIGURES = {
    "l0": "sites/*/l0",
    "l0_even": "sites/*/l0_even",
    "l0_largest": "sites/*/l0_largest",
    "numbers_besides": "sites/*/numbers_besides_latents",
    "encoder_products": "sites/*/encoder_products",
    "explained_variance": "sites/*/explained_variance",
    "alive_fraction": "sites/*/alive_fraction",
    "loss_increase_even": "fidelity/sites/*/loss_increase_even",
    "loss_increase_as_trained": "fidelity/sites/*/loss_increase_as_trained",
    "loss_increase": "fidelity/sites/*/loss_increase",
    "loss_increase_known": "fidelity/sites/*/loss_increase_known",
    "latents_mse": "GROUND/kept/sites/*/latents/mse",
    "latents_cosine": "GROUND/kept/sites/*/latents/cosine_centred",
    "kept_mentioned": "GROUND/kept/sites/*/mentioned",
    "kept_open": "GROUND/kept/sites/*/open",
    "f1": "GROUND/meaning/*/mean/f1/best_latent",
    "f1_amount": "GROUND/meaning/*/mean/f1/best_latent_amount",
    "f1_by_bin": "GROUND/meaning/*/mean/f1_even/best_latent",
    "f1_always_yes": "GROUND/meaning/*/mean/f1/always_yes",
    "f1_1": "GROUND/meaning/*/mean/f1/latents_1",
    "f1_5": "GROUND/meaning/*/mean/f1/latents_5",
    "f1_20": "GROUND/meaning/*/mean/f1/latents_20",
    "f1_dense": "GROUND/meaning/*/mean/f1/dense",
    "auroc": "GROUND/meaning/*/mean/auroc/best_latent",
    "steering_success": "GROUND/steering/sites/*/mean/latent/success",
    "steering_beyond_chance": "GROUND/steering/sites/*/mean/latent/beyond_chance",
    "steering_stability": "GROUND/steering/sites/*/mean/latent/stability_mean",
    "steering_at_limit": "GROUND/steering/sites/*/sweep/latent/success",
    "steering_random": "GROUND/steering/sites/*/sweep/random/success",
    "steering_dense": "GROUND/steering/sites/*/sweep/dense_beyond_known/success",
    "steering_supervised": "GROUND/steering/sites/*/sweep/supervised/success",
}
"""What is kept of metrics.json, with `*` for the site; intervals, where they are, beside it as `<key>_interval`."""

READ_BY = {
    "always_yes": "always yes",
    "best_channel": "best channel",
    "best_latent": "one latent",
    "latents_5": "5 latents",
    "latents_20": "20 latents",
    "dense": "all channels",
}
"""By what a factor is told, as metrics.json and as pages call it."""

Builder = Callable[[SiteShape], SAE]
Rows = dict[str, dict[str, Any]]
"""Figures by SAE."""


class Way(NamedTuple):
    """How SAEs are trained side by side: whether dead latents explain errors (AuxK), and are re-seeded."""

    auxk: bool = True
    resampling: bool = True


def sae_of(config: str) -> dict[str, Any]:
    """The class and the arguments of a packaged config's SAE."""
    sae: dict[str, Any] = yaml.safe_load(packaged_configs()[config].read_text(encoding="utf-8"))["model"]["sae"]
    return sae


def builder(sae: Mapping[str, Any], **changes: Any) -> Builder:
    """Makes the SAE that a config describes, with some arguments changed."""
    module, _, name = sae["class_path"].rpartition(".")
    return partial(getattr(import_module(module), name), **(sae["init_args"] | changes))


def add_options(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    """What all tables are measured with."""
    parser.add_argument("--ground", choices=list(WORLDS), default="toybox")
    parser.add_argument("--site", default="transformer_blocks.3")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="of 512 tokens")
    parser.add_argument("--scenes", type=int, default=2048, help="training images; 0 for all photographs")
    parser.add_argument("--test_samples", type=int)
    parser.add_argument("--calibration_samples", type=int, default=1024, help="of means, scales and the metric")
    parser.add_argument("--fidelity_samples", type=int, default=256)
    parser.add_argument("--labelled_images", type=int, default=320)
    parser.add_argument("--kept_images", type=int, default=0, help="to see which factors are kept; 0 for none")
    parser.add_argument("--steer_prompts", type=int, default=0, help="for each target and method; 0 does not steer")
    parser.add_argument("--details", action="store_true", help="keep also each factor's F1 and what each push causes")
    parser.add_argument("--json", type=Path, help="figures by SAE")
    parser.add_argument("--folder", type=Path, help="of the harvests and the SAEs")
    parser.add_argument("--page", type=Path, help="a Markdown file whose table to replace")
    parser.add_argument("--only_table", action="store_true")
    parser.set_defaults(**defaults)


def changed(options: argparse.Namespace, **changes: Any) -> argparse.Namespace:
    """The same options, but for some."""
    return argparse.Namespace(**{**vars(options), **changes})


def measured(builders: Mapping[str, Builder], way: Way, seed: int, folder: Path, options: argparse.Namespace) -> Rows:
    """The SAEs' figures; trained are those that the folder does not hold."""
    data = harvest(seed, options)
    named = {key_of(name): make for name, make in builders.items()}
    missing = {key: make for key, make in named.items() if not (folder / key / "cfg.json").is_file()}
    if missing:
        module = train(data, missing, way, seed, options)
        for key in missing:
            module.sae(f"{options.site}@{key}").save_pretrained(folder / key, site=options.site)
    loaded: dict[str, Builder] = {key: partial(_load, folder / key) for key in named}
    rows = test(data, TideModule(data.site_shapes, saes=loaded), folder, options)
    return {name: rows[key_of(name)] for name in builders}


def key_of(name: str) -> str:
    """A row's name as a folder and as an SAE's label."""
    return re.sub(r"\W+", "-", name).strip("-")


def harvest(
    seed: int, options: argparse.Namespace, make: Callable[..., ActivationDataModule] = ActivationDataModule
) -> ActivationDataModule:
    """The data of a seed: 512 tokens a batch, kept on disk."""
    world = WORLDS[options.ground]
    return make(
        world.pretrained,
        [options.site],
        images=world.images("train", options.scenes),
        family=world.family,
        samples_per_batch=16,
        tokens_per_sample=32,
        batches_per_epoch=options.steps,
        num_calibration_samples=options.calibration_samples,
        heldout=HeldOutOptions(images=world.images("test", options.scenes // 4), num_test_samples=options.test_samples),
        loading=LoadingOptions(dtype="auto"),
        cache=DiskCache(options.folder / f"harvest-{seed}"),
        seed=seed,
    )


def train(
    data: ActivationDataModule, builders: Mapping[str, Builder], way: Way, seed: int, options: argparse.Namespace
) -> TideModule:
    """The SAEs after the wanted steps: the quickstart's training for all of them."""
    seed_everything(seed, verbose=False)
    alpha = 1 / 32 if way.auxk else 0.0
    module = TideModule(
        data.site_shapes, saes=dict(builders), lr=options.lr, warmup_steps=200, dead_after_tokens=30_000, alpha=alpha
    )
    callbacks: list[Callback] = [ShowProgress()]
    if way.resampling:
        callbacks.append(ResampleDeadLatents(every_n_steps=100))
    quiet_trainer(callbacks, max_steps=options.steps, gradient_clip_val=1.0).fit(module, datamodule=data)
    return module.eval()


def test(data: ActivationDataModule, module: TideModule, folder: Path, options: argparse.Namespace) -> Rows:
    """What `tide test` says of each SAE."""
    world = WORLDS[options.ground]
    benchmark = GroundBenchmark(
        world.ground(),
        num_train_images=options.labelled_images,
        num_test_images=options.labelled_images // 2,
        num_kept_images=options.kept_images,
        steer=world.steered if options.steer_prompts else (),
        steer_sites=tuple(module.sites),
        steer_each=True,
        num_steer_prompts=max(options.steer_prompts, 1),
        steer_sweep=True,
    )
    protocol = EvaluateProtocol(str(folder), fidelity_samples=options.fidelity_samples, num_images=0)
    quiet_trainer([benchmark, protocol, ShowProgress()]).test(module, datamodule=data, verbose=False)
    rows = {site.removeprefix(f"{options.site}@"): figures_of(protocol.metrics, site) for site in module.sites}
    if options.details:
        for name, row in rows.items():
            row |= details_of(protocol.metrics[benchmark.ground.name], f"{options.site}@{name}")
    return rows


def details_of(measured: Mapping[str, Any], site: str) -> dict[str, Any]:
    """Of one SAE and what its ground measured: each factor's F1, and the shares of images that each push changed."""
    factors = measured["meaning"][site]["factors"]
    found = {"factors": {name: {way: each["f1"][way] for way in READ_BY} for name, each in factors.items()}}
    pushes = measured.get("steering", {}).get("sites", {}).get(site, {}).get("mean", {})
    return found | ({"pushes": pushes} if pushes else {})


def figures_of(metrics: Mapping[str, Any], site: str) -> dict[str, Any]:
    """What is kept of one SAE's metrics.json."""
    found: dict[str, Any] = {}
    for name, path in FIGURES.items():
        if (value := value_at(metrics, path, site)) is not None:
            found[name] = value
            if ends := interval_at(metrics, path, site):
                found[f"{name}_interval"] = list(ends)
    return found


def kept(shape: SiteShape) -> SAE:
    """Stands for what the folder holds already and nobody trains."""
    raise AssertionError(shape)


def _load(folder: Path, shape: SiteShape) -> SAE:
    return SAE.from_pretrained(folder)

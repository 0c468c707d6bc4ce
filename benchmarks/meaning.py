"""What latents of one block of the toybox mean, and what can be steered by them."""

from __future__ import annotations

import argparse

import torch

from benchmarks.keeping import SITE, Figures
from tide_lightning.benchmark.causality import Steering, SteeringPlan
from tide_lightning.benchmark.directions import learn_directions
from tide_lightning.benchmark.examples import Examples, make_examples
from tide_lightning.benchmark.meaning import Pooled, joined, measure_meaning
from tide_lightning.benchmark.prompts import parse_targets
from tide_lightning.benchmark.reading import read
from tide_lightning.datamodules import ActivationDataModule
from tide_lightning.datamodules.harvest import Harvester
from tide_lightning.grounds.toybox import Toybox
from tide_lightning.saes import SAE

GROUND = Toybox()

TARGETS = ["colour", "wall"]
"""What is steered for: each value of these factors, by the latent whose AUROC is best."""


class Readings:
    """What several SAEs say of labelled scenes, made for training and for held-out ones."""

    def __init__(self, data: ActivationDataModule, saes: dict[str, SAE], num_scenes: int) -> None:
        self.denoiser, self.saes = data.denoiser, saes
        self.train = make_examples(GROUND, self.denoiser, "train", num_scenes, 1)
        self.test = make_examples(GROUND, self.denoiser, "test", num_scenes // 2, 1, frozenset(self.train.prompts))
        self.labelled = {f"{SITE}@{number}": sae for number, sae in enumerate(saes.values())}
        self.harvester = Harvester(self.denoiser, self.denoiser.resolve_sites(list(self.labelled)), None)
        self.bins = [(number / 5, (number + 1) / 5) for number in range(5)]

    def read(self, examples: Examples) -> dict[str, Pooled]:
        """By SAE, what it says of the images in all bins of t."""
        parts = [read(self.harvester, self.labelled, examples, bounds, 0) for bounds in self.bins]
        return {
            name: joined([part[site].pooled for part in parts])
            for name, site in zip(self.saes, self.labelled, strict=True)
        }


@torch.no_grad()
def understand(data: ActivationDataModule, saes: dict[str, SAE], labelled_scenes: int) -> dict[str, Figures]:
    """Factor F1 and AUROC of the best latents."""
    readings = Readings(data, saes, labelled_scenes)
    train, test = readings.read(readings.train), readings.read(readings.test)
    rows = {}
    for name in saes:
        parts = (readings.train, train[name]), (readings.test, test[name])
        meaning = measure_meaning(*parts, len(readings.bins), 0)["mean"]
        rows[name] = {"f1": meaning["f1"]["best_latent"], "auroc": meaning["auroc"]["best_latent"]}
        print(f"  {name}: {rows[name]}", flush=True)
    return rows


@torch.no_grad()
def steer(data: ActivationDataModule, saes: dict[str, SAE], options: argparse.Namespace) -> dict[str, Figures]:
    """What raising one latent does to images: how often they get the target, and keep the other factors."""
    readings = Readings(data, saes, options.labelled_scenes)
    plan = SteeringPlan(
        targets=parse_targets(GROUND.factors, TARGETS),
        about="silent",
        num_train_prompts=2,
        num_test_prompts=options.steer_prompts,
        strengths=[1.0, 2.0, 4.0],
        window=(0.0, 1.0),
        num_inference_steps=10,
        guidance_scale=data.guidance_scale,
        seed=0,
    )
    rows = {}
    for name, pooled in readings.read(readings.train).items():
        directions = learn_directions(SITE, saes[name], readings.train, pooled, len(readings.bins))
        steered = Steering(GROUND, data.denoiser, [directions], plan).run()["mean"]["latent"]
        rows[name] = {"steering_success": steered["success"], "steering_stability": steered["stability_mean"]}
        print(f"  {name}: {rows[name]}", flush=True)
    return rows

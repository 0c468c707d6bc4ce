r"""For each factor value and site: does the denoiser have a handle for it, and do the SAE's rows hold that?

    python -m benchmarks.handles runs/quickstart/latest --json docs/results/summaries/handles.json
    python -m benchmarks.handles runs/photos/latest --ground photos

One direction of the length of a push is trained so that the prediction for a prompt without the word comes near to that
with it (`tide_lightning.benchmark.handles`); its images are judged on other prompts. Beside its cosine with one decoder
row and with five stand those with as many random rows, which a large dictionary reaches by itself. Resumable: values
that the JSON file holds are not measured again.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.pages import markdown, read, save
from benchmarks.worlds import WORLDS
from tide_lightning.benchmark.directions import Directions, learn_directions
from tide_lightning.benchmark.examples import make_examples
from tide_lightning.benchmark.handles import NUM_ROWS, held_by, moments, train_handle, verdict, way_covered
from tide_lightning.benchmark.meaning import joined
from tide_lightning.benchmark.prompts import SteeringPrompts, steering_prompts
from tide_lightning.benchmark.sweep import beyond_chance
from tide_lightning.benchmark.understanding import SPLITS, understand
from tide_lightning.datamodules.harvest import Harvester
from tide_lightning.diffusion import sample_images
from tide_lightning.explore import Run, open_run
from tide_lightning.grounds import Ground, Judge, likeliest
from tide_lightning.intervene import Shift, steer
from tide_lightning.intervene.amounts import effects
from tide_lightning.intervene.edits import Halves


class Bench:
    """Measures one run on a ground."""

    def __init__(self, run: Run, ground: Ground, options: argparse.Namespace) -> None:
        self.run, self.ground, self.options = run, ground, options
        self.denoiser = run.denoiser
        self.judges: tuple[Judge, ...] = ground.judges("cpu")
        self._plain: dict[str, Tensor] = {}

    def learn(self) -> tuple[dict[str, Any], dict[str, Directions]]:
        """What latents mean, and how far each value moves tokens, from labelled images."""
        options, denoiser = self.options, self.denoiser
        harvester = Harvester(denoiser, denoiser.resolve_sites(list(self.run.saes)), None)
        sizes = dict(zip(SPLITS, (options.images, options.images // 2), strict=True))
        examples = {split: make_examples(self.ground, denoiser, split, sizes[split], 1) for split in SPLITS}
        bins = [(number / 5, (number + 1) / 5) for number in range(5)]
        found, pooled = understand(harvester, self.run.saes, examples, bins, 0, 32)
        directions = {
            site: learn_directions(site, sae, examples["train"], joined(pooled[site]), len(bins))
            for site, sae in self.run.saes.items()
        }
        return found["meaning"], directions

    def measure(self, factor: str, value: int, at: Directions, f1: float | None) -> dict[str, Any]:
        """One value at one site."""
        options, question = self.options, (factor, self.ground.factors[factor].values[value])
        cases = [
            steering_prompts(self.ground, self.denoiser, factor, "silent", split, options.prompts, 1)
            for split in SPLITS
        ]
        length = options.strength * at.lengths[question]
        walks = [moments(self.denoiser, each, value, options.inference_steps, options.guidance) for each in cases]
        start = at.vectors[question]["dense_beyond_known"]
        direction = train_handle(self.denoiser, at.site, walks[0], length, start, steps=options.steps)
        chance = float((self._plain_images(factor, cases[1]) == value).double().mean())
        success = float((self._read(factor, cases[1], at, length * direction) == value).double().mean())
        rows = effects(at.sae)
        random = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
        cosines, by_chance = held_by(direction, rows, NUM_ROWS), held_by(direction, random, NUM_ROWS)
        return {
            "way_covered": way_covered(self.denoiser, at.site, walks[1], length * direction),
            "way_covered_in_training": way_covered(self.denoiser, at.site, walks[0], length * direction),
            "success": success,
            "chance": chance,
            "beyond_chance": beyond_chance(success, chance),
            "cosine_to_difference": float(direction @ start),
            "one_row": cosines[0],
            "one_random_row": by_chance[0],
            "five_rows": cosines[-1],
            "five_random_rows": by_chance[-1],
            "f1": f1,
            "verdict": verdict(f1, beyond_chance(success, chance), cosines),
        }

    def _plain_images(self, factor: str, cases: SteeringPrompts) -> Tensor:
        if factor not in self._plain:
            self._plain[factor] = self._read(factor, cases, None, None)
        return self._plain[factor]

    @torch.no_grad()
    def _read(self, factor: str, cases: SteeringPrompts, at: Directions | None, vector: Tensor | None) -> Tensor:
        """What the first judge sees of a factor in the images, pushed or not [P].

        Pushed is the conditional half, which is the one that reads the word.
        """
        half: Halves = "conditional" if self.denoiser.guidance == "classifier_free" else "both"
        edits = [] if at is None or vector is None else [Shift(at.site, vector, region=cases.tokens, half=half)]
        with steer(self.denoiser, self.run.saes, edits) as steered:
            settings = self.run.trajectory(self.options.inference_steps, self.options.guidance)
            images = sample_images(steered, cases.prompts, initial_noise=cases.noise, **settings)
        return likeliest(self.judges[0], images)[factor]


def table(content: Mapping[str, Any]) -> str:
    """Which values of a site each verdict was given to; the JSON file has the figures."""
    lines = []
    for site, values in content["sites"].items():
        for what, count in Counter(row["verdict"] for row in values.values()).most_common():
            which = ", ".join(name for name, row in values.items() if row["verdict"] == what)
            lines.append([site, what, str(count), which])
    return markdown(["site", "verdict", "values", "which"], lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing; print and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--ground", choices=list(WORLDS), default="toybox")
    parser.add_argument("--factors", nargs="+", help="all that a prompt can ask for unless given")
    parser.add_argument("--sites", nargs="+", help="all of the run unless given")
    parser.add_argument("--images", type=int, default=320, help="labelled ones to learn how far values move tokens")
    parser.add_argument("--prompts", type=int, default=8, help="to train on, and others to measure on")
    parser.add_argument("--steps", type=int, default=80, help="of training a direction")
    parser.add_argument(
        "--strength", type=float, default=1.0, help="of the push, in lengths of the value's own difference"
    )
    parser.add_argument("--inference_steps", type=int, default=10)
    parser.add_argument("--guidance", type=float, default=4.5)
    parser.add_argument("--json", type=Path, default=Path("runs/handles.json"))
    options = parser.parse_args(arguments)
    run, ground = open_run(options.run, device="cpu"), WORLDS[options.ground].ground()
    settings = {name: getattr(options, name) for name in ("images", "prompts", "steps", "strength", "inference_steps")}
    content = read(options.json) or {"settings": settings, "sites": {}}
    if content["settings"] != settings:
        raise SystemExit(f"{options.json} was measured with {content['settings']}, not {settings}: name another")
    bench = Bench(run, ground, options)
    meaning, directions = bench.learn()
    for site in options.sites or list(run.saes):
        rows = content["sites"].setdefault(site, {})
        for factor in options.factors or list(ground.factors):
            if not ground.cases(factor, "silent", "test", 1, 1).changed:
                continue  # no prompt can ask for it
            for value, name in enumerate(ground.factors[factor].values):
                if f"{factor}: {name}" in rows or not directions[site].lengths[factor, name]:
                    continue
                f1 = meaning[site]["values"].get(factor, {}).get(name, {}).get("f1", {}).get("best_latent_amount")
                rows[f"{factor}: {name}"] = row = bench.measure(factor, value, directions[site], f1)
                print(f"{site}, {factor} {name}: {row['verdict']}, success {row['success']:.0%}", flush=True)
                save(options.json, content)
    print(table(content))


if __name__ == "__main__":
    main()

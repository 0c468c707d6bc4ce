r"""How well what `tide find` answers first turns what an image shows; beside changing the word in the prompt.

python -m benchmarks.steering runs/quickstart-{0,1,2}/latest --out docs/results/summaries/steering.json \
  --page docs/how-to/steer.md

Figures of several calls are joined by naming their files in place of runs.

For each value of some of the toybox's factors its words are looked for (`red`, `on the left`, …) by the very function
that `tide steer --find` calls, and what it finds is raised as it says, where it says, under held-out prompts that leave
the factor open (or say another value). Two oracles read the factor back; neither they nor any mask nor label have a say
before. Beside it: no push; another latent that fires at all, pushed as far at the same places; the difference of the
site's mean tokens with the words and without, pushed as far; the words in the prompt.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from benchmarks.pages import averaged, markdown, read, save, write
from tide_lightning.benchmark.prompts import SteeringPrompts, steering_prompts
from tide_lightning.diffusion import Denoiser, sample, sample_images
from tide_lightning.diffusion.counters import stream
from tide_lightning.explore import Found, Run, open_run
from tide_lightning.explore.question import pose
from tide_lightning.explore.steer_command import first_found
from tide_lightning.grounds import About, likeliest
from tide_lightning.grounds.toybox import Toybox
from tide_lightning.grounds.toybox.factors import FACTORS
from tide_lightning.intervene import Edit, Shift, steer
from tide_lightning.intervene.amounts import effects, full_amounts
from tide_lightning.intervene.recording import Forward, recorded, walk_prompts, watch

METHODS = ("none", "latent", "random", "dense", "prompt")
SHOWN = ("none", "random", "dense", "latent")
"""What the page shows; with the word in the prompt all images show it."""
WORDS = {"left": "on the left", "centre": "in the centre", "right": "on the right"}
"""What captions say for a value, where it is not the value's name."""

_SETTINGS: dict[str, Any] = {"num_inference_steps": 10, "guidance_scale": 4.5}
_PROMPTS_THAT = {"silent": "Prompts that do not mention the factor", "contrary": "Prompts that ask for another value"}
_NUM_RANDOM = 4  # latents that share the test images

Read = dict[str, Tensor]


class Bench:
    """Draws and reads images of one run."""

    def __init__(self, run: Run) -> None:
        self.run, self.denoiser = run, run.denoiser
        self.judges = Toybox().judges("cpu")
        self._found: dict[str, Found] = {}
        self._alive: dict[str, Tensor] = {}

    def measure(self, factor: str, values: Sequence[str], about: About, num_prompts: int) -> dict[str, Any]:
        """Some values of one factor."""
        cases = steering_prompts(Toybox(), self.denoiser, factor, about, "test", num_prompts, seed=1)
        plain = self._read(self.denoiser, cases.prompts, cases.noise)
        figures = {}
        for name in values:
            value, query = FACTORS[factor].index(name), WORDS.get(name, name)
            if query not in self._found:
                self._found[query] = first_found(self.run, query)
            found = self._found[query]
            after = {"none": plain, "prompt": self._read(self.denoiser, cases.changed[value], cases.noise)}
            after["latent"] = self._steered([found.edit()], cases)
            after["random"] = self._steered([self._random(found, len(cases))], cases)
            after["dense"] = self._steered([self._dense(found, query)], cases)
            counted = torch.tensor(
                [prompt != changed for prompt, changed in zip(cases.prompts, cases.changed[value], strict=True)]
            )
            judged = {method: _figures(factor, value, plain[0], after[method], counted) for method in METHODS}
            one = {"site": found.site, "latent": found.latent, "amount": found.amount, "tells": found.tells}
            figures[name] = {**one, "at_home": found.home is not None, "methods": judged}
            said = ", ".join(f"{method} {judged[method]['success']:.2f}" for method in METHODS)
            print(f"{factor} {name}: {found.site}/{found.latent} (tells {found.tells:.2f}): {said}", flush=True)
        return {"mean": _mean(figures), "values": figures}

    def _steered(self, edits: list[Edit | Shift], cases: SteeringPrompts) -> list[Read]:
        with steer(self.denoiser, self.run.saes, edits) as steered:
            return self._read(steered, cases.prompts, cases.noise)

    @torch.no_grad()
    def _read(self, by: Denoiser, prompts: Sequence[str], noise: Tensor) -> list[Read]:
        """What each judge sees in the images."""
        images = sample_images(by, prompts, initial_noise=noise, **_SETTINGS)
        return [likeliest(judge, images) for judge in self.judges]

    def _random(self, found: Found, count: int) -> Edit:
        """The same push by latents that fire in images of any prompts, a few images each."""
        site, sae = found.site, self.run.sae(found.site)
        if site not in self._alive:
            noise = self.denoiser.noise(1, "random", numbers=range(8))
            seen = watch(self.denoiser, {site: sae}, walk_prompts(self.run.captions[:8], noise, **_SETTINGS))
            self._alive[site] = (seen.peak[site].amax((0, 1)) > 0).nonzero().squeeze(1)
        draw = stream(1, "random latents", site, found.latent).choice(
            len(self._alive[site]), _NUM_RANDOM, replace=False
        )
        latents = self._alive[site][torch.from_numpy(draw)].repeat_interleave(-(-count // _NUM_RANDOM))[:count]
        full = full_amounts(sae)
        return replace(found.edit(), latent=latents, amount=found.amount / full[found.latent] * full[latents])

    @torch.no_grad()
    def _dense(self, found: Found, query: str) -> Shift:
        """The mean difference of the site's tokens, as the finder's prompts make them, of the latent's length."""
        question, sae = pose(query, None, self.run.captions, 12), self.run.sae(found.site)
        noise = self.denoiser.noise(0, "find", numbers=range(len(question.prompts)))
        means = []
        for prompts in (question.prompts, question.others):
            forwards: list[Forward] = []
            sample(
                recorded(self.denoiser, {found.site: sae}, forwards.append), prompts, initial_noise=noise, **_SETTINGS
            )
            means.append(torch.stack([one.tokens[found.site].x.mean(0) for one in forwards]).mean(0))
        length = found.amount * effects(sae)[found.latent].norm()
        vector = length * torch.nn.functional.normalize(means[0] - means[1], dim=0)
        return Shift(found.site, vector, region=found.home, half="conditional")


def _figures(factor: str, value: int, before: Read, after: Sequence[Read], counted: Tensor) -> dict[str, Any]:
    """Of the images that count: those whose prompt does not ask for the value anyway."""
    first, second = (read[factor][counted] == value for read in after)
    stable = {
        name: float((before[name] == after[0][name])[counted].double().mean()) for name in FACTORS if name != factor
    }
    return {
        "images": int(counted.sum()),
        "success": float(first.double().mean()),
        "confirmed": float((first & second).double().mean()),
        "stability": {**stable, "mean": sum(stable.values()) / len(stable)},
    }


def _mean(values: Mapping[str, Any]) -> dict[str, Any]:
    """Over values."""
    found = {}
    for method in METHODS:
        rows = [one["methods"][method] for one in values.values()]
        found[method] = {name: sum(row[name] for row in rows) / len(rows) for name in ("success", "confirmed")}
        found[method]["stability"] = {
            name: sum(row["stability"][name] for row in rows) / len(rows) for name in rows[0]["stability"]
        }
    return found


def tables(figures: Mapping[str, Any]) -> str:
    """What the page shows: by factor success with its interval, how far other factors stay, and success by word."""
    parts = []
    for about in dict.fromkeys(about for seed in figures["seeds"].values() for about in seed):
        seeds = [seed[about] for seed in figures["seeds"].values() if about in seed]
        rows = []
        for factor in dict.fromkeys(factor for seed in seeds for factor in seed):
            here = [seed[factor] for seed in seeds if factor in seed]
            means = [one["mean"] for one in here]
            cells = [_with_interval([one[method]["success"] for one in means], ".0%") for method in SHOWN]
            stable = _with_interval([one["latent"]["stability"]["mean"] for one in means], ".0%")
            words = {
                name: [one["values"][name]["methods"]["latent"]["success"] for one in here]
                for name in here[0]["values"]
            }
            by_word = ", ".join(f"{name} {sum(values) / len(values):.0%}" for name, values in words.items())
            rows.append([factor, *cells, stable, by_word])
        head = ["factor", *SHOWN, "others stay", "latent, by word"]
        parts.append(f"{_PROMPTS_THAT[about]}; success:\n\n" + markdown(head, rows))
    return "\n\n".join(parts)


def _with_interval(values: Sequence[float], form: str) -> str:
    return averaged(values, form).replace("% to ", " to ")


def main() -> None:
    """Measure, write figures and tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("runs", type=Path, nargs="+", help="one of each seed; or figures (.json) measured before")
    parser.add_argument(
        "--targets", nargs="+", help="as factor or factor:value", default=["colour", "shape", "size", "place"]
    )
    parser.add_argument("--about", nargs="+", choices=get_args(About), default=["silent"])
    parser.add_argument("--prompts", type=int, default=8, help="held-out ones, for each target")
    parser.add_argument("--out", type=Path, help="JSON file of all figures")
    parser.add_argument("--page", type=Path, help="page whose `steering` section is replaced")
    options = parser.parse_args()
    wanted: dict[str, list[str]] = {}
    for text in options.targets:
        factor, _, value = text.partition(":")
        wanted.setdefault(factor, []).extend([value] if value else FACTORS[factor])
    figures: dict[str, Any] = {"settings": {"prompts": options.prompts, **_SETTINGS}, "seeds": {}}
    for path in options.runs:
        if path.suffix == ".json":
            for measured in read(path)["seeds"].values():
                figures["seeds"][str(len(figures["seeds"]))] = measured
            if options.out:
                save(options.out, figures)
            continue
        bench = Bench(open_run(path, device="cpu"))
        seed: dict[str, Any] = {about: {} for about in options.about}
        figures["seeds"][str(len(figures["seeds"]))] = seed
        for about in options.about:
            for factor, values in wanted.items():
                seed[about][factor] = bench.measure(factor, values, about, options.prompts)
                if options.out:
                    save(options.out, figures)
    print(tables(figures))
    if options.page:
        write(options.page, "steering", tables(figures))


if __name__ == "__main__":
    main()

r"""How well one latent, found by words alone, turns what an image shows; beside changing the word in the prompt.

python -m benchmarks.steering runs/quickstart-{0,1,2}/latest --out docs/steering.json --page docs/steering.md

Figures of several calls are joined by naming their files in place of runs.

On the toybox, whose oracles read the factors back from an image. For each target (`red`, `on the left`, …) the text
query's first latents are tried on training prompts, and the one is taken whose images come closest to what the changed
prompts draw from the same noise: no label and no oracle has a say in it. What is reported comes from held-out prompts
and other noise. Beside it: no push, random latents pushed as strongly at the same places, the difference between what
the site's tokens are with the word and with others (dense), and the word in the prompt.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from benchmarks.pages import averaged, markdown, write
from tide_lightning.benchmark.prompts import SteeringPrompts, steering_prompts
from tide_lightning.diffusion import Denoiser, sample
from tide_lightning.diffusion.counters import stream
from tide_lightning.explore import Run, open_run
from tide_lightning.explore.steering.handles import find_handles
from tide_lightning.explore.steering.trying import Trial
from tide_lightning.grounds import About
from tide_lightning.grounds.toybox import Toybox
from tide_lightning.grounds.toybox.factors import FACTORS
from tide_lightning.grounds.toybox.oracle import load_oracle
from tide_lightning.intervene import Edit, steer
from tide_lightning.intervene.amounts import full_amounts
from tide_lightning.intervene.recording import watch
from tide_lightning.intervene.splicing import splice_denoiser
from tide_lightning.tokens import Half, TokenBatch

GOALS = {"colour": 0.85, "shape": 0.6, "size": 0.6, "place": 0.6}
"""Success to be reached, as a share of that of the changed prompt."""

METHODS = ("none", "latent", "random", "dense", "prompt")
PUSHES: dict[About, tuple[float, ...]] = {"silent": (0.45, 0.25, 0.8), "contrary": (0.8, 1.3, 2.0)}
"""How far tokens are moved, as a share of what they hold besides the known part (`intervene.amounts.full_amounts`).

All candidates are tried with the first, the best of them with the others; more has to be overcome against a word.
"""
DENSE_AMOUNTS = (1.0, 3.0, 8.0)
"""In units of the difference of means."""
NUM_CANDIDATES, AT_A_TIME, CLOSE_ENOUGH = 24, 6, 0.85
"""So many are tried, a few at a time, until one comes close enough."""

_STEPS, _GUIDANCE = 10, 4.5
_PROMPTS_THAT = {"silent": "Prompts that do not mention the factor", "contrary": "Prompts that ask for another value"}
_SLACK = 0.1  # of closeness
_NUM_TRIED = 4  # training prompts on which pushes are tried
_NUM_RANDOM = 4  # latents that share the test images
_EARLY = 0.4  # t from which on the dense difference is taken

Read = dict[str, Tensor]


@dataclass(frozen=True)
class Target:
    """One value of one factor, and what turns an image to it.

    Args:
        factor: such as colour.
        value: its number.
        site: of the latent.
        latent: found by words.
        push: how far tokens are moved by it; see `PUSHES`.
        places: where it lives [T], by the query.
        dense: the site's tokens with the word minus those with other words [D], as often as it is added.
        random: other latents of the site, for control.
        closeness: of the latent's images to the wanted ones, on training prompts.
    """

    factor: str
    value: int
    site: str
    latent: int
    push: float
    places: Tensor
    dense: Tensor
    random: list[int]
    closeness: float

    def region(self, boards: SteeringPrompts) -> Tensor:
        """What is pushed."""
        return _region(self.factor, self.places, boards)


class Bench:
    """Draws and reads images of one run.

    Args:
        run: an open run.
        num_train: prompts to choose amounts on.
        num_test: held-out prompts.
    """

    def __init__(self, run: Run, num_train: int, num_test: int) -> None:
        self.run, self.denoiser = run, run.denoiser
        self.count = {"train": num_train, "test": num_test}
        self._means: dict[tuple[str, str, int], Tensor] = {}
        self._alive: dict[str, Tensor] = {}
        self._units = {site: full_amounts(sae) for site, sae in run.saes.items()}
        self.oracles = [load_oracle(name) for name in ("a", "b")]

    def unit(self, site: str, latent: int) -> float:
        """The amount of a push of 1."""
        return float(self._units[site][latent])

    def boards(self, factor: str, about: About, split: Any) -> SteeringPrompts:
        """Prompts, noise, regions."""
        return steering_prompts(Toybox(), self.denoiser, factor, about, split, self.count[split], seed=1)

    def read(self, denoiser: Denoiser, prompts: Sequence[str], noise: Tensor) -> list[dict[str, Tensor]]:
        """What both oracles see in the images: chances of each value."""
        with torch.no_grad():
            latents = sample(
                denoiser, prompts, num_inference_steps=_STEPS, guidance_scale=_GUIDANCE, initial_noise=noise
            )
            images = self.denoiser.decode_latents(latents)
            return [oracle.read(images) for oracle in self.oracles]

    def target(self, factor: str, value: int, about: About) -> Target:
        """Found by words, without a look at any image's label."""
        boards = self.boards(factor, "silent", "train")
        rivals = self._rivals(factor, value, boards)
        saes = self.run.saes
        found = find_handles(self.denoiser, saes, boards.changed[value], rivals, boards.noise, count=NUM_CANDIDATES)
        places = {(one.site, one.latent): one.home for one in found}
        few = steering_prompts(Toybox(), self.denoiser, factor, about, "train", _NUM_TRIED, seed=1)
        trial = Trial(self.denoiser, few.prompts, few.changed[value], few.noise)

        def edit(site: str, latent: int, push: float) -> Edit:
            amount = push * self.unit(site, latent)
            region = _region(factor, places[site, latent], few)
            return Edit(site, latent, "add", amount, region=region, half="conditional")

        first_push, *other_pushes = PUSHES[about]
        candidates = [edit(one.site, one.latent, first_push) for one in found]
        first, close = trial.best(saes, candidates[:AT_A_TIME])
        for start in range(AT_A_TIME, len(candidates), AT_A_TIME):
            if close < CLOSE_ENOUGH:
                another, closer = trial.best(saes, candidates[start : start + AT_A_TIME])
                first, close = (another, closer) if closer > close else (first, close)
        closeness = {first_push: close}
        for push in other_pushes:
            closeness[push] = trial.best(saes, [edit(first.site, int(first.latent), push)])[1]
        push, home = strongest(closeness), places[first.site, int(first.latent)]
        region = _region(factor, home, few)
        dense = self._difference(first.site, factor, value, boards, _region(factor, home, boards))
        shapes = {first.site: saes[first.site].shape}
        pushes = {times: {first.site: _adding(times * dense, region)} for times in DENSE_AMOUNTS}
        times = strongest(
            {times: trial.closeness(splice_denoiser(self.denoiser, push, shapes)) for times, push in pushes.items()}
        )
        random = self._random(first.site, boards, FACTORS[factor][value])
        chosen = first.site, int(first.latent), push, home
        return Target(factor, value, *chosen, times * dense, random, closeness[push])

    def _difference(self, site: str, factor: str, value: int, boards: SteeringPrompts, region: Tensor) -> Tensor:
        """What a region's tokens are with the word minus what they are with other words [D]."""
        means = torch.stack([self._mean(site, factor, one, boards) for one in range(len(FACTORS[factor]))])
        inside = region.expand(len(boards), -1)
        by_value = torch.stack([one[inside].mean(0) for one in means])
        others = [number for number in range(len(by_value)) if number != value]
        return by_value[value] - by_value[others].mean(0)

    def _rivals(self, factor: str, value: int, boards: SteeringPrompts) -> list[str]:
        """The training prompts with another word in the target's place, each in turn."""
        others = [number for number in range(len(FACTORS[factor])) if number != value]
        return [boards.changed[others[row % len(others)]][row] for row in range(len(boards))]

    def _mean(self, site: str, factor: str, value: int, boards: SteeringPrompts) -> Tensor:
        """A site's tokens with a word, averaged over the early steps [N, T, D]; kept for the factor's other values."""
        if (site, factor, value) not in self._means:
            found: list[Tensor] = []

            def look(tokens: TokenBatch) -> Tensor:
                some = tokens.select(tokens.half == int(Half.CONDITIONAL))
                if bool(some.t[0] >= _EARLY):
                    found.append(some.x.reshape(len(boards), -1, some.x.shape[1]))
                return tokens.x

            watched = splice_denoiser(self.denoiser, {site: look}, {site: self.run.sae(site).shape})
            self.read(watched, boards.changed[value], boards.noise)
            self._means[site, factor, value] = torch.stack(found).mean(0)
        return self._means[site, factor, value]

    def _random(self, site: str, boards: SteeringPrompts, name: str) -> list[int]:
        """Latents that fire at all in images of any prompts."""
        if site not in self._alive:
            seen = watch(
                self.denoiser,
                {site: self.run.sae(site)},
                boards.prompts,
                initial_noise=boards.noise,
                num_inference_steps=_STEPS,
                guidance_scale=_GUIDANCE,
            )
            self._alive[site] = (seen.peak[site].amax((0, 1)) > 0).nonzero().squeeze(1)
        alive = self._alive[site]
        chosen = stream(1, "random latents", site, name).choice(len(alive), _NUM_RANDOM, replace=False)
        return [int(latent) for latent in alive[torch.from_numpy(chosen)]]

    def pushed(self, target: Target, boards: SteeringPrompts, method: str) -> list[dict[str, Tensor]]:
        """What both oracles see after a push."""
        region = target.region(boards)
        if method == "dense":
            shapes = {target.site: self.run.sae(target.site).shape}
            pushed = splice_denoiser(self.denoiser, {target.site: _adding(target.dense, region)}, shapes)
            return self.read(pushed, boards.prompts, boards.noise)
        latents = target.random if method == "random" else [target.latent]
        reads = []
        for latent, rows in zip(latents, torch.arange(len(boards)).tensor_split(len(latents)), strict=True):
            here = region if region.ndim == 1 else region[rows]
            amount = target.push * self.unit(target.site, latent)
            edit = Edit(target.site, latent, "add", amount, region=here, half="conditional")
            with steer(self.denoiser, self.run.saes, [edit]) as steered:
                reads.append(self.read(steered, [boards.prompts[row] for row in rows.tolist()], boards.noise[rows]))
        return [_joined([read[number] for read in reads]) for number in range(len(self.oracles))]

    def measure(self, factor: str, about: About) -> dict[str, Any]:
        """All values of one factor."""
        test = self.boards(factor, about, "test")
        plain = self.read(self.denoiser, test.prompts, test.noise)
        found = {}
        for value, name in enumerate(FACTORS[factor]):
            target = self.target(factor, value, about)
            after = {"none": plain, "prompt": self.read(self.denoiser, test.changed[value], test.noise)}
            after |= {method: self.pushed(target, test, method) for method in ("latent", "random", "dense")}
            figures = {method: _figures(test, factor, value, plain[0], after[method]) for method in METHODS}
            amount = target.push * self.unit(target.site, target.latent)
            chosen = {"site": target.site, "latent": target.latent, "push": target.push, "amount": amount}
            found[name] = {**chosen, "closeness": target.closeness, "methods": figures}
            print(f"{factor} {name}: {target.site}/{target.latent} + {amount:.1f}", end="")
            print(f" (closeness {target.closeness:.2f})", end="")
            print("".join(f", {method} {figures[method]['success']:.2f}" for method in METHODS), flush=True)
        return {"mean": _mean(found), "values": found}


def strongest(closeness: Mapping[float, float]) -> float:
    """The largest amount that comes about as close as the best: one that just did it may not do it elsewhere."""
    best = max(closeness.values())
    return max(amount for amount, close in closeness.items() if close >= best - _SLACK)


def _region(factor: str, places: Tensor, boards: SteeringPrompts) -> Tensor:
    """The object's patches for what it is, the latent's own places for where it is and how large."""
    return boards.tokens if factor in ("shape", "colour") else places


def _adding(vector: Tensor, region: Tensor) -> Callable[[TokenBatch], Tensor]:
    """The vector added in the conditional half, in a region [T] or [N, T]."""

    def predict(tokens: TokenBatch) -> Tensor:
        inside = region.flatten().repeat(len(tokens) // region.numel())
        on = inside & (tokens.half == int(Half.CONDITIONAL))
        return torch.where(on.unsqueeze(1), tokens.x + vector, tokens.x)

    return predict


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _counted(boards: SteeringPrompts, value: int) -> Tensor:
    """Images whose prompt does not ask for the target anyway; silent prompts never do."""
    word = [prompt == changed for prompt, changed in zip(boards.prompts, boards.changed[value], strict=True)]
    return ~torch.tensor(word)


def _stability(factor: str, before: Read, after: Read, counted: Tensor) -> dict[str, float]:
    """The share of images in which each other factor is read as without steering."""
    found = {
        name: float((before[name].argmax(1) == after[name].argmax(1))[counted].double().mean())
        for name in FACTORS
        if name != factor
    }
    return {**found, "mean": sum(found.values()) / len(found)}


def _figures(boards: SteeringPrompts, factor: str, value: int, before: Read, after: Sequence[Read]) -> dict[str, Any]:
    counted = _counted(boards, value)
    first, second = (read[factor].argmax(1)[counted] == value for read in after)
    return {
        "images": int(counted.sum()),
        "success": float(first.double().mean()),
        "confirmed": float((first & second).double().mean()),
        "stability": _stability(factor, before, after[0], counted),
    }


def _mean(found: Mapping[str, Any]) -> dict[str, Any]:
    """Over values."""
    rows = {method: [one["methods"][method] for one in found.values()] for method in METHODS}
    return {
        method: {
            "success": sum(one["success"] for one in some) / len(some),
            "confirmed": sum(one["confirmed"] for one in some) / len(some),
            "stability": {
                name: sum(one["stability"][name] for one in some) / len(some) for name in some[0]["stability"]
            },
        }
        for method, some in rows.items()
    }


def tables(figures: Mapping[str, Any]) -> str:
    """What the page shows: success by factor, share of the prompt's, stability of every other factor."""
    parts = []
    for about in dict.fromkeys(about for seed in figures["seeds"] for about in seed):
        seeds = [seed[about] for seed in figures["seeds"] if about in seed]
        rows, stable = [], []
        for factor, goal in GOALS.items():
            means = [seed[factor]["mean"] for seed in seeds if factor in seed]
            if not means:
                continue
            cells = [averaged([mean[method]["success"] for mean in means], "%") for method in METHODS]
            share = averaged([mean["latent"]["success"] / mean["prompt"]["success"] for mean in means], ".2f")
            confirmed = averaged([mean["latent"]["confirmed"] for mean in means], "%")
            rows.append([factor, *cells, share, f"{goal:g}", confirmed])
            for method in ("latent", "prompt"):
                kept = [mean[method]["stability"] for mean in means]
                stable.append(
                    [factor, method]
                    + [averaged([one[name] for one in kept], "%") if name != factor else "" for name in FACTORS]
                )
        head = ["factor", *METHODS, "latent / prompt", "goal", "latent, both oracles"]
        parts.append(f"{_PROMPTS_THAT[about]}; success:\n\n" + markdown(head, rows))
        parts.append(
            "How often every other factor stays as it was:\n\n" + markdown(["steered", "by", *FACTORS], stable)
        )
    return "\n\n".join(parts)


def _save(figures: Mapping[str, Any], path: Path | None) -> None:
    if path is not None:
        path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measure, write figures and tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("runs", type=Path, nargs="+", help="one of each seed; or figures (.json) measured before")
    parser.add_argument("--factors", nargs="+", choices=list(GOALS), default=list(GOALS))
    parser.add_argument("--about", nargs="+", choices=get_args(About), default=["silent"])
    parser.add_argument("--train-prompts", type=int, default=8)
    parser.add_argument("--test-prompts", type=int, default=12)
    parser.add_argument("--out", type=Path, help="JSON file of all figures")
    parser.add_argument("--page", type=Path, help="page whose `steering` section is replaced")
    options = parser.parse_args()
    settings = {"about": options.about, "train_prompts": options.train_prompts, "test_prompts": options.test_prompts}
    settings |= {"steps": _STEPS, "guidance_scale": _GUIDANCE}
    figures: dict[str, Any] = {"settings": [], "seeds": []}
    for path in options.runs:
        if path.suffix == ".json":
            measured = json.loads(path.read_text(encoding="utf-8"))
            figures["settings"] += measured["settings"]
            figures["seeds"] += measured["seeds"]
            continue
        print(path, flush=True)
        bench = Bench(open_run(path, device="cpu"), options.train_prompts, options.test_prompts)
        seed: dict[str, Any] = {about: {} for about in options.about}
        figures["settings"].append(settings)
        figures["seeds"].append(seed)
        for about in options.about:
            for factor in options.factors:
                seed[about][factor] = bench.measure(factor, about)
                _save(figures, options.out)  # now, for it takes long
    _save(figures, options.out)
    print(tables(figures))
    if options.page:
        write(options.page, "steering", tables(figures))


if __name__ == "__main__":
    main()

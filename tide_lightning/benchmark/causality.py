"""Causality: does raising one latent turn a factor to a value, and leave the others alone?

One latent stands for each target, the one of the highest AUROC on labelled training images. Its strength is chosen on
training prompts; success and stability are read from images of other prompts by a judge, and confirmed by a second one
of another architecture. Beside it: no push; random latents; the difference of means of activations, and of what a
common known part leaves of them; the weights of a logistic regression on that; the prompt itself. All pushes of a
strength move tokens as far, whichever SAE's latent is raised: in multiples of how far the value itself moves them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tide_lightning.benchmark.directions import Directions, Push
from tide_lightning.benchmark.prompts import SteeringPrompts, steering_prompts
from tide_lightning.benchmark.sweep import beyond_chance, curves
from tide_lightning.diffusion import Denoiser, Replicas, sample, sample_images
from tide_lightning.evaluation.bootstrap import interval_of_ratio
from tide_lightning.grounds import About, Ground, Split, likeliest
from tide_lightning.intervene import steer
from tide_lightning.intervene.amounts import effects

DENSE = ("dense", "dense_beyond_known", "supervised")
"""Directions that are no latent's; see `Directions.vectors`."""

METHODS = ("none", "latent", "random", *DENSE, "prompt")
"""No push, the target's latent, random latents, directions, the target in the prompt."""

_NUM_TIMED = 8  # images of two steps, to learn how long one takes
_OVERDRAFT = 1.3  # times the time left: so far a plan may go for the least number of prompts

_BATCH = 32  # images of one trajectory

_CHOSEN = ("latent", *DENSE)  # with a strength of their own; random latents take the latent's
_PUSHES = ("latent", "random", *DENSE)


@dataclass(frozen=True)
class SteeringPlan:
    """What is steered and how much is spent on it: see `GroundBenchmark`'s arguments; targets are values by factor."""

    targets: dict[str, list[int]]
    about: About
    num_train_prompts: int
    num_test_prompts: int
    strengths: list[float]
    window: tuple[float, float]
    num_inference_steps: int
    guidance_scale: float
    seed: int
    sweep: bool = False

    def num_images(self, num_sites: int, shared: bool = False) -> int:
        """How many images will be sampled, at most: no prompt asks for the values of some factors.

        With `shared`, those that another SAE of the site has sampled already are not counted.
        """
        values = sum(map(len, self.targets.values()))
        if shared:
            test = 2 * (len(self.strengths) if self.sweep else 1) * self.num_test_prompts
            return values * (test + len(self.strengths) * self.num_train_prompts)
        pushes = len(_PUSHES) * (len(self.strengths) if self.sweep else 1)
        test = self.num_test_prompts * (len(self.targets) + (pushes + 1) * values)
        trials = len(_CHOSEN) * len(self.strengths) * num_sites
        return test + self.num_train_prompts * (len(self.targets) + trials * values)

    def fitting(self, seconds: float | None, denoiser: Denoiser, num_sites: int) -> SteeringPlan:
        """The same with as few prompts as there is time for; none to measure on where there is too little."""
        if seconds is None:
            return self
        begun = time.monotonic()
        sample(denoiser, [""] * _NUM_TIMED, num_inference_steps=2, guidance_scale=self.guidance_scale)
        image = (time.monotonic() - begun) / _NUM_TIMED * self.num_inference_steps / 2
        part = seconds / (image * self.num_images(num_sites))
        if part >= 1:
            return self
        train, test = (int(part * number) for number in (self.num_train_prompts, self.num_test_prompts))
        fewer = replace(self, num_train_prompts=max(train, 1), num_test_prompts=max(test, 1))
        too_many = fewer.num_images(num_sites) * image > _OVERDRAFT * seconds
        return replace(fewer, num_test_prompts=0) if too_many else fewer


class Steering:
    """Runs a plan on candidate sites; where there are several, each factor's is chosen on training prompts.

    Args:
        ground: what is steered, and who judges it.
        denoiser: who is steered.
        candidates: sites, their SAEs and their ways to push.
        plan: what is done.
        progress: told of every few images how many they are.
        made: images that depend on the site and not on its SAE, by what was done: all SAEs of a site find them here.
    """

    def __init__(
        self,
        ground: Ground,
        denoiser: Denoiser,
        candidates: list[Directions],
        plan: SteeringPlan,
        progress: Callable[[int], None] | None = None,
        made: dict[Deed, Tensor] | None = None,
    ) -> None:
        self.ground, self.denoiser, self.candidates, self.plan = ground, denoiser, candidates, plan
        self.replicas, self.made = Replicas(denoiser), made
        self.judges = ground.judges(str(denoiser.device))
        self.progress = progress
        self.examples: list[Example] = []

    @torch.no_grad()
    def run(self) -> dict[str, Any]:
        """Success and stability of every target and method, and their means over targets."""
        targets: dict[str, dict[str, Any]] = {}
        swept: list[dict[str, Any]] = []
        for factor, values in self.plan.targets.items():
            chosen = self._choose(factor, values)
            targets[factor], rows = self._measure(factor, values, chosen)
            swept += rows
        rows = [row for found in targets.values() for row in found.values()]
        mean = {method: _mean(found) for method in METHODS if (found := _of(method, rows))}
        for method, figures in mean.items():
            figures["beyond_chance"] = beyond_chance(figures["success"], mean["none"]["success"])
            figures["success_interval"] = list(_interval(method, targets, self.plan.seed))
        sweep = {"sweep": curves(self.plan.strengths, swept)} if self.plan.sweep else {}
        return {"mean": mean, **sweep, "targets": targets}

    def _choose(self, factor: str, values: list[int]) -> dict[str, tuple[Directions, float]]:
        """Each method's site and strength: those of the highest chance times stability on training prompts.

        The chance that the first judge gives the target, not whether it is its first choice: few prompts then go a long
        way.
        """
        plan = self.plan
        boards = self._prompts(factor, "train", plan.num_train_prompts)
        plainly: Deed = ("train", factor, "none", 0.0)
        [originals] = self._images([Job(self.candidates[0], boards.prompts, boards.noise, deed=plainly)])
        plain = self._see(originals)[0]
        best: dict[str, tuple[float, Directions, float]] = {}
        for at in self.candidates:
            cases = [(method, strength) for method in _CHOSEN for strength in plan.strengths]
            jobs = [self._pushed("train", at, boards, values, method, strength) for method, strength in cases]
            images = torch.cat(self._images(jobs if self.made is not None else [Job.joined(jobs)]))
            after, chance = self._see(images)[0], self.judges[0].read(images)[factor].split(len(boards))
            for number, (method, strength) in enumerate(cases):
                scores = []
                for place, value in enumerate(values, number * len(values)):
                    stability = self.figures(boards, value, plain, [after.part(place, len(boards))])["stability_mean"]
                    scores.append(_share(chance[place][:, value], boards.own != value) * stability)
                score = sum(scores) / len(scores)
                if method not in best or score > best[method][0]:  # the weaker of equals
                    best[method] = score, at, strength
        return {method: (at, strength) for method, (_, at, strength) in best.items()}

    def _measure(
        self, factor: str, values: list[int], chosen: dict[str, tuple[Directions, float]]
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Each value's figures; and for a sweep also by method those at each strength, a row for each value."""
        boards = self._prompts(factor, "test", self.plan.num_test_prompts)
        at = chosen["latent"][0]
        jobs = {("none", 0.0): Job(at, boards.prompts, boards.noise, deed=("test", factor, "none", 0.0))}
        for method in _PUSHES:
            here, wanted = chosen["latent" if method == "random" else method]
            for strength in self.plan.strengths if self.plan.sweep else [wanted]:
                jobs[method, strength] = self._pushed("test", here, boards, values, method, strength)
        if boards.changed:
            changed = [prompt for value in values for prompt in boards.changed[value]]
            noise = boards.noise.repeat(len(values), 1, 1, 1)
            jobs["prompt", 0.0] = Job(at, changed, noise, deed=("test", factor, "prompt", 0.0))
        images = dict(zip(jobs, self._images(list(jobs.values())), strict=True))
        plain = self._see(images["none", 0.0])
        seen = {"none": [view.repeat(len(values)) for view in plain]}
        swept: dict[str, list[list[View]]] = {}
        for (method, strength), steered in images.items():
            if method == "none":
                continue
            views = self._see(steered)
            if method == "prompt":
                seen[method] = views
                continue
            swept.setdefault(method, []).append(views)
            if strength == chosen["latent" if method == "random" else method][1]:
                seen[method] = views
                if method == "latent":
                    self._keep_examples(boards, values, images["none", 0.0], steered)
        found: dict[str, Any] = {}
        rows: list[dict[str, Any]] = []

        def read(number: int, views: Sequence[View]) -> dict[str, Any]:
            return self.figures(boards, values[number], plain[0], [view.part(number, len(boards)) for view in views])

        for number, value in enumerate(values):
            question = factor, self.ground.factors[factor].values[value]
            found[question[1]] = {
                "latent": at.latents[question],
                "auroc_train": at.aurocs[question],
                "site": {method: here.site for method, (here, _) in chosen.items()},
                "strength": {method: strength for method, (_, strength) in chosen.items()},
                "methods": {method: read(number, views) for method, views in seen.items()},
            }
            rows.append(
                {"none": found[question[1]]["methods"]["none"]}
                | {method: [read(number, views) for views in each] for method, each in swept.items()}
            )
        return found, rows

    def _keep_examples(self, boards: SteeringPrompts, values: list[int], before: Tensor, after: Tensor) -> None:
        """The first image of each value whose prompt does not ask for it anyway, without a choice by success."""
        for number, value in enumerate(values):
            counted = (boards.own != value).nonzero().flatten().tolist()
            if counted:
                pair = torch.stack([before[counted[0]], after[number * len(boards) + counted[0]]]).cpu()
                name = self.ground.factors[boards.factor].values[value]
                self.examples.append(Example(f"{boards.factor}: {name}", pair))

    def _pushed(
        self, split: Split, at: Directions, boards: SteeringPrompts, values: list[int], method: str, strength: float
    ) -> Job:
        """Every prompt's image pushed to each of the values."""
        push = Push.concatenate([self._push(at, boards, value, method, strength) for value in values])
        noise = boards.noise.repeat(len(values), 1, 1, 1)
        deed = (split, boards.factor, method, strength) if method in DENSE else None
        return Job(at, boards.prompts * len(values), noise, push, deed)

    def _push(self, at: Directions, boards: SteeringPrompts, value: int, method: str, strength: float) -> Push:
        count, device = len(boards), boards.noise.device
        question = boards.factor, self.ground.factors[boards.factor].values[value]
        latent = torch.full((count,), at.latents[question], device=device)
        length = strength * at.lengths[question]
        if method in DENSE:
            vector = (length * at.vectors[question][method]).expand(count, -1)
            return Push(latent, torch.zeros(count, device=device), vector, boards.tokens)
        if method == "random":  # another one for each image
            generator = torch.Generator().manual_seed(7919 * self.plan.seed + value)
            latent = at.alive[torch.randint(len(at.alive), (count,), generator=generator).to(device)]
        amount = length / effects(at.sae).norm(dim=1)[latent]
        return Push(latent, amount.float(), torch.zeros(count, at.sae.d_in, device=device), boards.tokens)

    def _prompts(self, factor: str, split: Split, count: int) -> SteeringPrompts:
        return steering_prompts(self.ground, self.denoiser, factor, self.plan.about, split, count, self.plan.seed + 1)

    def _images(self, jobs: Sequence[Job]) -> list[Tensor]:
        """Each job's images of guided trajectories, both halves pushed; without a push, the denoiser's own."""
        plan = self.plan
        made: dict[Deed, Tensor] = {} if self.made is None else self.made
        settings = {"num_inference_steps": plan.num_inference_steps, "guidance_scale": plan.guidance_scale}
        parts = [
            (number, slice(start, start + _BATCH))
            for number, job in enumerate(jobs)
            if job.deed not in made
            for start in range(0, len(job.prompts), _BATCH)
        ]

        def run(denoiser: Denoiser, part: tuple[int, slice]) -> Tensor:
            (at, prompts, noise, push, _), some = jobs[part[0]], part[1]
            edits = [] if push is None else push.edits(at.site, plan.window, some)
            with steer(denoiser, {at.site: at.sae}, edits) as steered:
                return sample_images(steered, prompts[some], initial_noise=noise[some], **settings)

        images: list[list[Tensor]] = [[] for _ in jobs]
        for (number, _), some in zip(parts, self.replicas.map(run, parts), strict=True):
            images[number].append(some)
            if self.progress is not None:
                self.progress(len(some))
        done = zip(jobs, images, strict=True)
        made |= {job.deed: torch.cat(each) for job, each in done if job.deed is not None and each}
        return [torch.cat(each) if job.deed is None else made[job.deed] for job, each in zip(jobs, images, strict=True)]

    def _see(self, images: Tensor) -> list[View]:
        """What each judge sees."""
        return [View(likeliest(judge, images), judge.checks(images)) for judge in self.judges]

    @staticmethod
    def figures(boards: SteeringPrompts, value: int, before: View, after: Sequence[View]) -> dict[str, Any]:
        """Shares of the images whose prompt does not ask for the target anyway."""
        counted = boards.own != value
        reached = torch.stack([view.values[boards.factor] == value for view in after])
        hits = reached[0].tolist()
        stability = {
            name: _share(seen == before.values[name], counted)
            for name, seen in after[0].values.items()
            if name != boards.factor
        }
        return {
            "images": int(counted.sum()),
            "reached": [int(hit) if one else None for hit, one in zip(hits, counted.tolist(), strict=True)],
            "success": _share(reached[0], counted),
            "success_judge_b": _share(reached[-1], counted),
            "confirmed": _share(reached.all(0), counted),
            "stability_mean": sum(stability.values()) / max(len(stability), 1),
            "stability": stability,
            **{name: _share(true, counted) for name, true in after[0].checks.items()},
        }


Deed = tuple[Split, str, str, float]
"""What was done to images, where no SAE had a part in it: to prompts of a split, for a factor, by a method, how
strongly."""


class Job(NamedTuple):
    """Images to be sampled: at a site, each of a prompt and its noise, pushed or not.

    `deed` says what is done, where the images are the same with any SAE of the site.
    """

    at: Directions
    prompts: list[str]
    noise: Tensor
    push: Push | None = None
    deed: Deed | None = None

    @staticmethod
    def joined(jobs: Sequence[Job]) -> Job:
        """All images of some jobs with pushes at one site, which then fill batches better."""
        pushes = Push.concatenate([job.push for job in jobs if job.push is not None])
        prompts = [prompt for job in jobs for prompt in job.prompts]
        return Job(jobs[0].at, prompts, torch.cat([job.noise for job in jobs]), pushes)


class Example(NamedTuple):
    """An image to be looked at, without and with the latent raised [2, 3, H, W] in [-1, 1]."""

    target: str
    images: Tensor


class View(NamedTuple):
    """What a judge sees in images: the likeliest value of each factor, and whether what else should be true is."""

    values: dict[str, Tensor]
    checks: dict[str, Tensor]

    def _each(self, change: Callable[[Tensor], Tensor]) -> View:
        return View(*({name: change(seen) for name, seen in part.items()} for part in self))

    def part(self, number: int, size: int) -> View:
        """The images of one of several parts of a size."""
        return self._each(lambda seen: seen[number * size : (number + 1) * size])

    def repeat(self, times: int) -> View:
        """The same images again and again."""
        return self._each(lambda seen: seen.repeat(times))


def _share(true: Tensor, counted: Tensor) -> float:
    return float(true[counted].double().mean()) if bool(counted.any()) else 0.0


def _interval(method: str, targets: Mapping[str, Any], seed: int) -> tuple[float, float]:
    """Of the success over all targets, had other prompts been drawn: values of a factor share theirs."""
    parts, wholes = [], []
    for values in targets.values():
        rows = _of(method, list(values.values()))
        hits: dict[int, list[int]] = {}
        for row in rows:
            for prompt, hit in enumerate(row["reached"]):
                if hit is not None:  # the prompt does not ask for the value anyway
                    hits.setdefault(prompt, []).append(hit)
        parts += [float(sum(each)) for each in hits.values()]
        wholes += [float(len(each)) for each in hits.values()]
    return interval_of_ratio(torch.tensor(parts), torch.tensor(wholes), seed)


def _of(method: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row["methods"][method] for row in rows if method in row["methods"]]


def _mean(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Over targets, weighted by their images."""
    total = sum(row["images"] for row in rows)
    names = [name for name, value in rows[0].items() if isinstance(value, float)]
    return {"images": total} | {name: sum(row[name] * row["images"] for row in rows) / max(total, 1) for name in names}

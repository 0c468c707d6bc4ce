"""Causality: does raising one latent turn a factor to a value, and leave the others alone?

One latent stands for each target, the one of the highest AUROC on labelled training scenes. Its strength is chosen on
training prompts; success and stability are read from images of other prompts by an oracle, and confirmed by a second
one of another architecture. Beside it: no push, random latents that move tokens as far, the difference of means of
activations and of what the known part leaves of them, the prompt itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tide_lightning.benchmark.canvases import About, Canvases, canvases
from tide_lightning.benchmark.meaning import Pooled
from tide_lightning.benchmark.scenes import GROUPS, LabelledScenes, questions
from tide_lightning.benchmark.scores import auroc
from tide_lightning.diffusion import Denoiser, sample
from tide_lightning.grounds.toybox.factors import FACTORS
from tide_lightning.grounds.toybox.oracle import Oracle
from tide_lightning.intervene import Edit, Shift, steer
from tide_lightning.intervene.amounts import effects
from tide_lightning.saes import SAE
from tide_lightning.tokens import TokenBatch

METHODS = ("none", "latent", "random", "dense", "dense_beyond_known", "prompt")
"""No push, the target's latent, random latents, two differences of means, the target in the prompt."""

_NUM_TIMED = 8  # images of two steps, to learn how long one takes
_OVERDRAFT = 1.3  # times the time left: so far a plan may go for the least number of prompts

_BATCH = 32  # images of one trajectory

_CHOSEN = ("latent", "dense", "dense_beyond_known")  # with a strength of their own; random latents take the latent's


@dataclass(frozen=True)
class SteeringPlan:
    """What is steered and how much is spent on it.

    Args:
        targets: values by factor.
        about: what prompts say of the steered factor.
        num_train_prompts: for each target and strength.
        num_test_prompts: for each target and method.
        strengths: tried: how far a push moves a token, in multiples of how far the value itself moves its tokens (the
            length of the difference of means beyond the known part).
        window: of t, in which tokens are pushed.
        num_inference_steps: of a trajectory.
        guidance_scale: of a trajectory; both halves are pushed.
        seed: of prompts, noise and random latents.
    """

    targets: dict[str, list[int]]
    about: About
    num_train_prompts: int
    num_test_prompts: int
    strengths: list[float]
    window: tuple[float, float]
    num_inference_steps: int
    guidance_scale: float
    seed: int

    def num_images(self, num_sites: int) -> int:
        """How many images will be sampled."""
        values = sum(map(len, self.targets.values()))
        test = self.num_test_prompts * (len(self.targets) + (len(METHODS) - 1) * values)
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


@dataclass(frozen=True)
class Push:
    """What is added to one site's tokens, for each image of a batch.

    Args:
        latent: whose value is raised [N].
        amount: by how much [N].
        vector: added besides [N, D].
        tokens: where [N, T].
    """

    latent: Tensor
    amount: Tensor
    vector: Tensor
    tokens: Tensor

    def edits(self, site: str, window: tuple[float, float], index: slice) -> list[Edit | Shift]:
        """The pushes of some images."""
        latent, amount, vector, tokens = (getattr(self, field.name)[index] for field in fields(self))
        return [Edit(site, latent, "add", amount, window, tokens), Shift(site, vector, window, tokens)]

    @staticmethod
    def concatenate(parts: list[Push]) -> Push:
        """All pushes in order."""
        return Push(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Push)))


class Directions(NamedTuple):
    """One site's ways to push, learned from labelled training scenes.

    Fields:
        site: where.
        sae: its own.
        latents: the best one for each factor value.
        aurocs: its AUROC on the training scenes.
        differences: for each factor value the difference of means with and without it [2, D]: of activations, and of
            what the known part leaves of them.
        alive: latents that fire on those scenes [L].
        reference: a few tokens, to learn the size of latents' effects.
    """

    site: str
    sae: SAE
    latents: dict[tuple[str, str], int]
    aurocs: dict[tuple[str, str], float]
    differences: dict[tuple[str, str], Tensor]
    alive: Tensor
    reference: TokenBatch


def learn_directions(
    site: str,
    sae: SAE,
    scenes: LabelledScenes,
    pooled: Pooled,
    repeats: int,
    reference: TokenBatch,
) -> Directions:
    """Choose latents and mean differences on the readings of the bins of t that are steered in, joined."""
    latents, aurocs, differences = {}, {}, {}
    shift = torch.arange(repeats, device=reference.x.device)[:, None] * (3 * len(scenes))
    codes = pooled["codes"].flatten(0, 1)
    both_U2D = torch.stack([pooled["dense"], pooled["dense"] - pooled["known"]], 2).flatten(0, 1)
    for group in GROUPS:
        units, labels = scenes.units(group)
        index, labels = (units + shift).flatten(), labels.repeat(repeats, 1)
        both = both_U2D[index]
        found, best = auroc(codes[index], labels).nan_to_num(0.5).max(1)
        for number, question in enumerate(questions(group)):
            has = labels[:, number]
            latents[question], aurocs[question] = int(best[number]), float(found[number])
            # A value that no training scene shows has no direction; a push by zeros does nothing.
            is_shown = bool(has.any()) and not bool(has.all())
            differences[question] = both[has].mean(0) - both[~has].mean(0) if is_shown else torch.zeros_like(both[0])
    alive = (codes > 0).any(0).nonzero().squeeze(1)
    return Directions(site, sae, latents, aurocs, differences, alive, reference)


class Steering:
    """Runs a plan on candidate sites.

    Args:
        denoiser: the frozen denoiser.
        candidates: sites to push at; each factor's is chosen on training prompts where there are several.
        oracles: two of different architecture.
        plan: what to do.
        progress: called with the number of images after each batch.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        candidates: list[Directions],
        oracles: tuple[Oracle, Oracle],
        plan: SteeringPlan,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.denoiser, self.candidates, self.plan = denoiser, candidates, plan
        self.oracles = tuple(oracle.to(denoiser.device) for oracle in oracles)
        self.progress = progress

    @torch.no_grad()
    def run(self) -> dict[str, Any]:
        """Success and stability of every target and method, and their means over targets."""
        targets: dict[str, dict[str, Any]] = {}
        for factor, values in self.plan.targets.items():
            chosen = self._choose(factor, values)
            targets[factor] = self._measure(factor, values, chosen)
        rows = [row for found in targets.values() for row in found.values()]
        return {
            "mean": {method: _mean([row["methods"][method] for row in rows]) for method in METHODS},
            "targets": targets,
        }

    def _choose(self, factor: str, values: list[int]) -> dict[str, tuple[Directions, float]]:
        """Each method's site and strength: those of the highest chance times stability on training prompts.

        The chance that oracle a gives the target, not whether it is its first choice: few prompts then go a long way.
        """
        plan = self.plan
        boards = canvases(self.denoiser, factor, plan.about, "train", plan.num_train_prompts, plan.seed + 1)
        plain = self._read(self._images(self.candidates[0], boards.prompts, boards.noise, None))[0]
        best: dict[str, tuple[float, Directions, float]] = {}
        for at in self.candidates:
            cases = [(method, strength) for method in _CHOSEN for strength in plan.strengths]
            pushes = [self._push(at, boards, value, method, strength) for method, strength in cases for value in values]
            copies = len(pushes)
            images = self._images(
                at, boards.prompts * copies, boards.noise.repeat(copies, 1, 1, 1), Push.concatenate(pushes)
            )
            after, chance = self._read(images)[0], self.oracles[0].read(images)[factor]
            for number, (method, strength) in enumerate(cases):
                scores = []
                for place, value in enumerate(values):
                    start = (number * len(values) + place) * len(boards)
                    rows = slice(start, start + len(boards))
                    here = {name: seen[rows] for name, seen in after.items()}
                    stability = self._figures(boards, value, plain, (here, here))["stability_mean"]
                    scores.append(_share(chance[rows, value], self._counted(boards, value)) * stability)
                score = sum(scores) / len(scores)
                if method not in best or score > best[method][0]:  # the weaker of equals
                    best[method] = score, at, strength
        return {method: (at, strength) for method, (_, at, strength) in best.items()}

    def _measure(self, factor: str, values: list[int], chosen: dict[str, tuple[Directions, float]]) -> dict[str, Any]:
        plan = self.plan
        boards = canvases(self.denoiser, factor, plan.about, "test", plan.num_test_prompts, plan.seed + 1)
        at = chosen["latent"][0]
        plain = self._read(self._images(at, boards.prompts, boards.noise, None))
        read: dict[str, list[tuple[dict[str, Tensor], ...]]] = {"none": [plain] * len(values)}
        for method in METHODS[1:-1]:
            here, strength = chosen["latent" if method == "random" else method]
            push = Push.concatenate([self._push(here, boards, value, method, strength) for value in values])
            prompts, noise = boards.prompts * len(values), boards.noise.repeat(len(values), 1, 1, 1)
            read[method] = self._split(self._read(self._images(here, prompts, noise, push)), len(boards))
        prompts = [prompt for value in values for prompt in boards.changed[value]]
        images = self._images(at, prompts, boards.noise.repeat(len(values), 1, 1, 1), None)
        read["prompt"] = self._split(self._read(images), len(boards))
        found = {}
        for number, value in enumerate(values):
            question = factor, FACTORS[factor][value]
            found[question[1]] = {
                "latent": at.latents[question],
                "auroc_train": at.aurocs[question],
                "site": {method: here.site for method, (here, _) in chosen.items()},
                "strength": {method: strength for method, (_, strength) in chosen.items()},
                "methods": {method: self._figures(boards, value, plain[0], read[method][number]) for method in METHODS},
            }
        return found

    def _push(self, at: Directions, boards: Canvases, value: int, method: str, strength: float) -> Push:
        count, device = len(boards), boards.noise.device
        question = boards.factor, FACTORS[boards.factor][value]
        latent = torch.full((count,), at.latents[question], device=device)
        length = strength * at.differences[question][1].norm()
        if method.startswith("dense"):
            difference = at.differences[question][int(method != "dense")]
            vector = (length * torch.nn.functional.normalize(difference, dim=0)).expand(count, -1)
            return Push(latent, torch.zeros(count, device=device), vector, boards.tokens)
        if method == "random":  # another one for each image
            generator = torch.Generator().manual_seed(7919 * self.plan.seed + value)
            latent = at.alive[torch.randint(len(at.alive), (count,), generator=generator).to(device)]
        amount = length / effects(at.sae).norm(dim=1)[latent]
        return Push(latent, amount.float(), torch.zeros(count, at.sae.d_in, device=device), boards.tokens)

    def _images(self, at: Directions, prompts: list[str], noise: Tensor, push: Push | None) -> Tensor:
        """Images of guided trajectories, both halves pushed; without a push, the denoiser's own."""
        plan, images = self.plan, []
        for start in range(0, len(prompts), _BATCH):
            some = slice(start, start + _BATCH)
            edits = [] if push is None else push.edits(at.site, plan.window, some)
            with steer(self.denoiser, {at.site: at.sae}, edits) as steered:
                latents = sample(
                    steered,
                    prompts[some],
                    num_inference_steps=plan.num_inference_steps,
                    guidance_scale=plan.guidance_scale,
                    initial_noise=noise[some],
                )
            images.append(self.denoiser.decode_latents(latents))
            if self.progress is not None:
                self.progress(len(latents))
        return torch.cat(images)

    def _read(self, images: Tensor) -> tuple[dict[str, Tensor], ...]:
        """What each oracle sees: the likeliest value of each factor, and how many objects."""
        return tuple(
            {name: scores.argmax(1) for name, scores in oracle.read(images).items()} | {"count": oracle.count(images)}
            for oracle in self.oracles
        )

    @staticmethod
    def _split(read: tuple[dict[str, Tensor], ...], size: int) -> list[tuple[dict[str, Tensor], ...]]:
        parts = len(next(iter(read[0].values()))) // size
        return [
            tuple({name: seen[number * size : (number + 1) * size] for name, seen in one.items()} for one in read)
            for number in range(parts)
        ]

    def _counted(self, boards: Canvases, value: int) -> Tensor:
        """All images; where prompts are contrary, those whose prompt does not ask for the target anyway."""
        return boards.own != value if self.plan.about == "contrary" else boards.own >= 0

    def _figures(
        self,
        boards: Canvases,
        value: int,
        before: Mapping[str, Tensor],
        after: tuple[Mapping[str, Tensor], ...],
    ) -> dict[str, Any]:
        """Shares of the images that count."""
        counted = self._counted(boards, value)
        first, second = (seen[boards.factor] == value for seen in after)
        others = [name for name in FACTORS if name != boards.factor]
        stability = {name: _share(after[0][name] == before[name], counted) for name in others}
        return {
            "images": int(counted.sum()),
            "success": _share(first, counted),
            "success_oracle_b": _share(second, counted),
            "confirmed": _share(first & second, counted),
            "stability_mean": sum(stability.values()) / len(stability),
            "stability": stability,
            "one_object": _share(after[0]["count"] == 1, counted),
        }


def _share(true: Tensor, counted: Tensor) -> float:
    return float(true[counted].double().mean()) if bool(counted.any()) else 0.0


def _mean(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Over targets, weighted by their images."""
    total = sum(row["images"] for row in rows)
    names = ("success", "success_oracle_b", "confirmed", "stability_mean", "one_object")
    return {"images": total} | {name: sum(row[name] * row["images"] for row in rows) / max(total, 1) for name in names}

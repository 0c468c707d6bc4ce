"""`GroundBenchmark`: the callback that adds a ground's key to metrics.json and a section to the report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from tide_lightning.benchmark.causality import Deed, Example, Steering, SteeringPlan
from tide_lightning.benchmark.directions import Directions, learn_directions
from tide_lightning.benchmark.examples import Examples, check_denoiser, make_examples
from tide_lightning.benchmark.hierarchy import measure_hierarchy
from tide_lightning.benchmark.kept import factors_kept, num_images
from tide_lightning.benchmark.meaning import joined
from tide_lightning.benchmark.prompts import parse_targets
from tide_lightning.benchmark.report import report_parts
from tide_lightning.benchmark.understanding import SPLITS, understand
from tide_lightning.datamodules import ActivationDataModule
from tide_lightning.datamodules.harvest import Harvester
from tide_lightning.diffusion.sites import unlabelled
from tide_lightning.errors import UserError
from tide_lightning.evaluation.budget import Budget
from tide_lightning.evaluation.sections import Section
from tide_lightning.grounds import About, Ground, Split
from tide_lightning.intervene.splicing import why_not
from tide_lightning.saes import SAE
from tide_lightning.training import TideModule
from tide_lightning.waiting import counting

LEAST_IMAGES = 32, 16
"""Of each split; with fewer, too many factor values are missing."""

_WORTH_IT = 1.5  # times the few images, from which on more of them are read


class GroundBenchmark(Callback):
    """Measures SAEs of a ground's denoiser against the truth, in `tide test` only.

    See docs/results/toybox-benchmark.md.

    Meaning: for every factor value the best latent and sparse probes, by timestep and site. Read-out of what is
    known of every pixel. Factors kept in images with SAEs spliced. Steering: one latent turns a factor to a value, as
    two judges see it. Each beside its floors and controls. What is chosen is chosen on images, prompts and noise other
    than those it is measured on.

    Args:
        ground: the world, by its class path.
        num_train_images: labelled images to choose latents and fit probes on.
        num_test_images: others to measure on.
        num_bins: equal bins of the normalised timestep; every image is read in each, with its own noise.
        captions: whether the denoiser is given each image's prompt, as in training, or the empty prompt.
        steer: targets as "factor:value", or "factor" for all of its values; an empty list steers nothing.
        steer_sites: where latents are raised; the middle one of the run's unless given. Of several the best is chosen
            on training prompts, for each factor.
        steer_each: raise latents at each of these sites by itself, whether it is the best or not.
        steer_prompts: prompts do not mention the steered factor (silent) or mention another value (contrary).
        num_steer_train_prompts: for each target and strength, to choose the strength on.
        num_steer_prompts: for each target and method, to measure on.
        strengths: how far a push moves a token, in multiples of how far the value itself moves its tokens beyond what
            follows from time, place and input: the same for all SAEs of a site.
        steer_sweep: push the test prompts with every strength, for success against what else changes.
        window: low and high t between which tokens are pushed.
        num_kept_images: prompts of the test split, each sampled as it is and spliced, to see which factors are kept.
        num_inference_steps: of all trajectories.
        guidance_scale: of all trajectories; as in the data unless given.
        forward_batch_size: images in one forward.
        seed: of images, noise, prompts and random latents.
        print_every_seconds: between two lines about how far it is.
    """

    def __init__(
        self,
        ground: Ground,
        num_train_images: int = 320,
        num_test_images: int = 160,
        num_bins: int = 5,
        captions: bool = True,
        steer: tuple[str, ...] = (),
        steer_sites: tuple[str, ...] | None = None,
        steer_each: bool = False,
        steer_prompts: About = "silent",
        num_steer_train_prompts: int = 2,
        num_steer_prompts: int = 8,
        strengths: tuple[float, ...] = (1.0, 2.0, 4.0),
        steer_sweep: bool = False,
        window: tuple[float, float] = (0.0, 1.0),
        num_kept_images: int = 16,
        num_inference_steps: int = 10,
        guidance_scale: float | None = None,
        forward_batch_size: int = 32,
        seed: int = 0,
        print_every_seconds: float = 10.0,
    ) -> None:
        super().__init__()
        least = {
            "num_train_images": (num_train_images, LEAST_IMAGES[0]),
            "num_test_images": (num_test_images, LEAST_IMAGES[1]),
            "num_bins": (num_bins, 1),
            "num_steer_train_prompts": (num_steer_train_prompts, 1),
            "num_steer_prompts": (num_steer_prompts, 1),
            "num_kept_images": (num_kept_images, 0),
            "num_inference_steps": (num_inference_steps, 1),
            "forward_batch_size": (forward_batch_size, 1),
            "seed": (seed, 0),
        }
        for name, (value, bound) in least.items():
            if value < bound:
                raise UserError(f"GroundBenchmark: {name} must be at least {bound}, not {value}")
        if not 0 <= window[0] < window[1] <= 1:
            raise UserError(f"GroundBenchmark: window must be two times with 0 <= low < high <= 1, not {list(window)}")
        if not strengths or min(strengths) < 0:
            raise UserError("GroundBenchmark: strengths must be numbers of at least 0, one or more")
        self.ground = ground
        self.num_images: dict[Split, int] = {"train": num_train_images, "test": num_test_images}
        self.num_bins, self.captions = num_bins, captions
        self.targets = parse_targets(ground.factors, steer)
        self.steer_sites, self.steer_each = steer_sites, steer_each
        self.steer_prompts: About = steer_prompts
        self.num_prompts = {"train": num_steer_train_prompts, "test": num_steer_prompts}
        self.strengths, self.window = sorted(set(strengths)), window
        self.steer_sweep = steer_sweep
        self.num_kept_images = num_kept_images
        self.num_inference_steps, self.guidance_scale = num_inference_steps, guidance_scale
        self.forward_batch_size = forward_batch_size
        self.seed = seed
        self.print_every_seconds = print_every_seconds

    @torch.no_grad()
    def test_section(self, trainer: Trainer, pl_module: LightningModule, budget: Budget) -> Section:
        """Measure everything, or what there is time for; the evaluation's protocol asks for it."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, ActivationDataModule) or not isinstance(pl_module, TideModule):
            raise UserError("GroundBenchmark: needs a TideModule and an ActivationDataModule")
        check_denoiser(self.ground, data.denoiser)
        saes = {site: pl_module.sae(site) for site in pl_module.sites}
        candidates = self._candidates(saes)
        begun = time.monotonic()
        num_images, found, directions = self._read_in_time(data, saes, candidates, budget)
        figures: dict[str, Any] = {"settings": self._settings(data, num_images), **found}
        figures["hierarchy"] = measure_hierarchy(self.ground.factors, found["meaning"], found["readout"])
        if kept := self._kept(data, saes, budget):
            figures["kept"] = kept
        examples: list[Example] = []
        if self.targets:
            absent = [site for site in candidates if site not in directions]
            figures["steering"], examples = self._steer(data, directions, absent, budget)
        figures["seconds"] = time.monotonic() - begun
        name, parts = self.ground.name, report_parts(self.ground, figures, examples)
        return Section(name, f"{name.capitalize()}: what latents mean and cause", figures, parts)

    def _read_in_time(
        self, data: ActivationDataModule, saes: Mapping[str, SAE], candidates: list[str], budget: Budget
    ) -> tuple[dict[Split, int], dict[str, Any], dict[str, Directions]]:
        """Meaning and read-out on as many images as half of the time allows: a few first, to learn what they take."""
        left = budget.left()
        if left is None:
            return self.num_images, *self._read(data, saes, self._examples(data, self.num_images), candidates)
        begun = time.monotonic()
        few = dict(zip(SPLITS, LEAST_IMAGES, strict=True))
        found = self._read(data, saes, self._examples(data, few), candidates)
        took = time.monotonic() - begun
        times = (left * (0.5 if self.targets else 1) - took) / took  # as many could be read besides
        wanted = {name: min(number, int(few[name] * times)) for name, number in self.num_images.items()}
        if times > _WORTH_IT:
            few, found = wanted, self._read(data, saes, self._examples(data, wanted), candidates)
        for name, number in self.num_images.items():
            budget.note(f"{self.ground.name}: {name} images", few[name], number)
        return few, *found

    def _candidates(self, saes: Mapping[str, SAE]) -> list[str]:
        """The sites to steer at."""
        sites = list(saes)
        if self.steer_sites is None:
            return sites[len(sites) // 2 : len(sites) // 2 + 1]
        for site in self.steer_sites:
            if site not in saes:
                raise UserError(f"GroundBenchmark: steer_sites has {site!r}; this run's sites are {', '.join(sites)}")
        return list(self.steer_sites)

    def _examples(self, data: ActivationDataModule, count: Mapping[Split, int]) -> dict[Split, Examples]:
        """Seed 0 is what the denoiser and its SAEs may have seen."""
        print(f"{self.ground.name}  {sum(count.values())} labelled images", flush=True)
        made: dict[Split, Examples] = {}
        for split in SPLITS:
            taken = frozenset(prompt for some in made.values() for prompt in some.prompts)
            made[split] = make_examples(self.ground, data.denoiser, split, count[split], self.seed + 1, taken)
        return made if self.captions else {split: some.silent(data.denoiser) for split, some in made.items()}

    def _read(
        self,
        data: ActivationDataModule,
        saes: Mapping[str, SAE],
        examples: dict[Split, Examples],
        candidates: list[str],
    ) -> tuple[dict[str, Any], dict[str, Directions]]:
        """Meaning and read-out of every site, and what steering needs of the candidates."""
        harvester = Harvester(data.denoiser, data.denoiser.resolve_sites(list(saes)), None)
        step = self._progress("reading images", self.num_bins * sum(map(len, examples.values())))
        bins = [(number / self.num_bins, (number + 1) / self.num_bins) for number in range(self.num_bins)]
        found, pooled = understand(harvester, saes, examples, bins, self.seed, self.forward_batch_size, step)
        inside = [number for number, (low, high) in enumerate(bins) if low < self.window[1] and high > self.window[0]]
        directions = {}
        for site in candidates if self.targets else []:
            if why_not(saes[site]) is None:
                some = joined([pooled[site][number] for number in inside])
                directions[site] = learn_directions(site, saes[site], examples["train"], some, len(inside))
        return found, directions

    def _kept(self, data: ActivationDataModule, saes: Mapping[str, SAE], budget: Budget) -> dict[str, Any]:
        """Factors kept; nothing where no SAE may be spliced or no time is left."""
        wanted = self.num_kept_images * any(why_not(sae) is None for sae in saes.values())
        count = 0 if budget.left() == 0 else wanted
        budget.note(f"{self.ground.name}: images with factors kept", count, wanted)
        if not count:
            return {}
        return factors_kept(
            self.ground,
            data.denoiser,
            saes,
            self.ground.labelled("test", count, self.seed + 1).prompts,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self._guidance(data),
            seed=self.seed,
            progress=self._progress("images with factors kept", num_images(saes, count)),
        )

    def _steer(
        self, data: ActivationDataModule, directions: dict[str, Directions], absent: list[str], budget: Budget
    ) -> tuple[dict[str, Any], list[Example]]:
        """The figures, and images of each target."""
        reason = "its known part uses the true noise, which no trajectory knows"
        missing = {"absent": dict.fromkeys(absent, reason)} if absent else {}
        if not directions:
            return missing, []
        plan = SteeringPlan(
            targets=self.targets,
            about=self.steer_prompts,
            num_train_prompts=self.num_prompts["train"],
            num_test_prompts=self.num_prompts["test"],
            strengths=self.strengths,
            window=self.window,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self._guidance(data),
            seed=self.seed,
            sweep=self.steer_sweep,
        )
        fitted = plan.fitting(budget.left(), data.denoiser, len(directions))
        for name in ("num_train_prompts", "num_test_prompts"):
            words = name.removeprefix("num_").replace("_", " ")
            budget.note(f"{self.ground.name}: {words}", getattr(fitted, name), getattr(plan, name))
        if not fitted.num_test_prompts:
            return {"absent": dict.fromkeys([*directions, *absent], "no time was left")}, []
        trials = [[one] for one in directions.values()] if self.steer_each else [list(directions.values())]
        places = [unlabelled(some[0].site) for some in trials]
        shared = [place in places[:number] for number, place in enumerate(places)]
        made: dict[str, dict[Deed, Tensor]] = {place: {} for place in places if places.count(place) > 1}
        images = [fitted.num_images(len(some), again) for some, again in zip(trials, shared, strict=True)]
        step = self._progress("steering images", sum(images))
        runs = [
            Steering(self.ground, data.denoiser, some, fitted, step, made.get(place))
            for some, place in zip(trials, places, strict=True)
        ]
        steered = [run.run() for run in runs]
        found = {"sites": dict(zip(directions, steered, strict=True))} if self.steer_each else steered[0]
        prompts = {"train_prompts": fitted.num_train_prompts, "test_prompts": fitted.num_test_prompts}
        return {**found, **prompts, **missing}, [example for run in runs for example in run.examples]

    def _settings(self, data: ActivationDataModule, num_images: Mapping[Split, int]) -> dict[str, Any]:
        return {
            "train_images": num_images["train"],
            "test_images": num_images["test"],
            "captions": self.captions,
            "steer_prompts": self.steer_prompts,
            "strengths": list(self.strengths),
            "window": list(self.window),
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self._guidance(data),
            "seed": self.seed,
        }

    def _guidance(self, data: ActivationDataModule) -> float:
        return data.trajectories.guidance_scale if self.guidance_scale is None else self.guidance_scale

    def _progress(self, label: str, total: int) -> Callable[[int], None]:
        return counting(f"{self.ground.name}  {label}", total, self.print_every_seconds)

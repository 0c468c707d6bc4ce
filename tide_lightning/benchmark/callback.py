"""`ToyboxBenchmark`: the callback that adds the key `toybox` to metrics.json and a section to the report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from tide_lightning.benchmark.canvases import About, parse_targets
from tide_lightning.benchmark.causality import Directions, Steering, SteeringPlan, learn_directions
from tide_lightning.benchmark.hierarchy import measure_hierarchy
from tide_lightning.benchmark.meaning import measure_meaning
from tide_lightning.benchmark.reading import Reading, read
from tide_lightning.benchmark.readout import ReadOut
from tide_lightning.benchmark.report import report_parts
from tide_lightning.benchmark.scenes import LabelledScenes, check_toybox, labelled_scenes
from tide_lightning.datamodules import ActivationDataModule
from tide_lightning.datamodules.harvest import Harvester
from tide_lightning.datamodules.loader import one_ahead
from tide_lightning.errors import UserError
from tide_lightning.evaluation.budget import Budget
from tide_lightning.evaluation.sections import Section
from tide_lightning.evaluation.summary import time_left
from tide_lightning.grounds.toybox.oracle import load_oracle
from tide_lightning.intervene.splicing import why_not
from tide_lightning.saes import SAE
from tide_lightning.tokens import TokenBatch
from tide_lightning.training import TideModule

SPLITS = ("train", "test")

LEAST_SCENES = 32, 16
"""Of each split; with fewer, too many factor values are missing."""

_WORTH_IT = 1.5  # times the few scenes, from which on more of them are read


class ToyboxBenchmark(Callback):
    """Measures SAEs of the toybox's pipeline against the truth, in `tide test` only. See docs/toybox_benchmark.md.

    Meaning: for every factor value the best latent and sparse probes, by timestep and site. Read-out of depth and
    mask. Steering: one latent turns a factor to a value, as two oracles see it. Each beside its floors and controls.
    What is chosen is chosen on scenes, prompts and noise other than those it is measured on.

    Args:
        num_train_scenes: labelled scenes to choose latents and fit probes on.
        num_test_scenes: others to measure on, combinations among them that the pipeline never saw.
        num_bins: equal bins of the normalised timestep; every scene is read in each, with its own noise.
        captions: whether the denoiser is given each scene's caption, as in training, or the empty prompt.
        steer: targets as "factor:value", or "factor" for all of its values; an empty list steers nothing.
        steer_sites: where latents are raised; the middle one of the run's unless given. Of several the best is chosen
            on training prompts, for each factor.
        steer_prompts: prompts do not mention the steered factor (silent) or mention another value (contrary).
        num_steer_train_prompts: for each target and strength, to choose the strength on.
        num_steer_prompts: for each target and method, to measure on.
        strengths: how far a push moves a token, in multiples of how far the value itself moves its tokens.
        window: low and high t between which tokens are pushed.
        num_inference_steps: of the steered trajectories.
        guidance_scale: of the steered trajectories; as in the data unless given.
        forward_batch_size: scenes in one forward.
        seed: of scenes, noise, prompts and random latents.
        print_every_seconds: between two lines about how far it is.
    """

    def __init__(
        self,
        num_train_scenes: int = 320,
        num_test_scenes: int = 160,
        num_bins: int = 5,
        captions: bool = True,
        steer: tuple[str, ...] = ("colour:red", "colour:blue", "wall:mint", "wall:sky"),
        steer_sites: tuple[str, ...] | None = None,
        steer_prompts: About = "silent",
        num_steer_train_prompts: int = 2,
        num_steer_prompts: int = 8,
        strengths: tuple[float, ...] = (1.0, 2.0, 4.0),
        window: tuple[float, float] = (0.0, 1.0),
        num_inference_steps: int = 10,
        guidance_scale: float | None = None,
        forward_batch_size: int = 32,
        seed: int = 0,
        print_every_seconds: float = 10.0,
    ) -> None:
        super().__init__()
        least = {
            "num_train_scenes": (num_train_scenes, LEAST_SCENES[0]),
            "num_test_scenes": (num_test_scenes, LEAST_SCENES[1]),
            "num_bins": (num_bins, 1),
            "num_steer_train_prompts": (num_steer_train_prompts, 1),
            "num_steer_prompts": (num_steer_prompts, 1),
            "num_inference_steps": (num_inference_steps, 1),
            "forward_batch_size": (forward_batch_size, 1),
            "seed": (seed, 0),
        }
        for name, (value, bound) in least.items():
            if value < bound:
                raise UserError(f"ToyboxBenchmark: {name} must be at least {bound}, not {value}")
        if not 0 <= window[0] < window[1] <= 1:
            raise UserError(f"ToyboxBenchmark: window must be two times with 0 <= low < high <= 1, not {list(window)}")
        if not strengths or min(strengths) < 0:
            raise UserError("ToyboxBenchmark: strengths must be numbers of at least 0, one or more")
        self.num_scenes = {"train": num_train_scenes, "test": num_test_scenes}
        self.num_bins, self.captions = num_bins, captions
        self.targets = parse_targets(list(steer))
        self.steer_sites = steer_sites
        self.steer_prompts: About = steer_prompts
        self.num_prompts = {"train": num_steer_train_prompts, "test": num_steer_prompts}
        self.strengths, self.window = sorted(strengths), window
        self.num_inference_steps, self.guidance_scale = num_inference_steps, guidance_scale
        self.forward_batch_size = forward_batch_size
        self.seed = seed
        self.print_every_seconds = print_every_seconds

    @torch.no_grad()
    def test_section(self, trainer: Trainer, pl_module: LightningModule, budget: Budget) -> Section:
        """Measure everything, or what there is time for; the evaluation's protocol asks for it."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, ActivationDataModule) or not isinstance(pl_module, TideModule):
            raise UserError("ToyboxBenchmark: needs a TideModule and an ActivationDataModule")
        check_toybox(data.denoiser)
        saes = {site: pl_module.sae(site) for site in pl_module.sites}
        candidates = self._candidates(saes)
        begun = time.monotonic()
        num_scenes, found, directions = self._read_in_time(data, saes, candidates, budget)
        figures: dict[str, Any] = {"settings": self._settings(data, num_scenes), **found}
        figures["hierarchy"] = measure_hierarchy(found["meaning"], found["readout"])
        if self.targets:
            absent = [site for site in candidates if site not in directions]
            figures["steering"] = self._steer(data, directions, absent, budget)
        figures["seconds"] = time.monotonic() - begun
        return Section("toybox", "Toybox: what latents mean and cause", figures, report_parts(figures))

    def _read_in_time(
        self, data: ActivationDataModule, saes: Mapping[str, SAE], candidates: list[str], budget: Budget
    ) -> tuple[dict[str, int], dict[str, Any], dict[str, Directions]]:
        """Meaning and read-out on as many scenes as half of the time allows: a few first, to learn what they take."""
        left = budget.left()
        if left is None:
            return self.num_scenes, *self._read(data, saes, self._scenes(data, self.num_scenes), candidates)
        begun = time.monotonic()
        few = dict(zip(SPLITS, LEAST_SCENES, strict=True))
        found = self._read(data, saes, self._scenes(data, few), candidates)
        took = time.monotonic() - begun
        times = (left * (0.5 if self.targets else 1) - took) / took  # as many could be read besides
        wanted = {name: min(number, int(few[name] * times)) for name, number in self.num_scenes.items()}
        if times > _WORTH_IT:
            few, found = wanted, self._read(data, saes, self._scenes(data, wanted), candidates)
        for name, number in self.num_scenes.items():
            budget.note(f"toybox: {name} scenes", few[name], number)
        return few, *found

    def _candidates(self, saes: Mapping[str, SAE]) -> list[str]:
        """The sites to steer at."""
        sites = list(saes)
        if self.steer_sites is None:
            return sites[len(sites) // 2 : len(sites) // 2 + 1]
        for site in self.steer_sites:
            if site not in saes:
                raise UserError(f"ToyboxBenchmark: steer_sites has {site!r}; this run's sites are {', '.join(sites)}")
        return list(self.steer_sites)

    def _scenes(self, data: ActivationDataModule, count: Mapping[str, int]) -> dict[str, LabelledScenes]:
        """Seed 0 is what the pipeline and the quickstart's SAEs have seen."""
        print(f"toybox  rendering {sum(count.values())} scenes", flush=True)
        train = labelled_scenes(data.denoiser, "train", count["train"], self.seed + 1)
        test = labelled_scenes(data.denoiser, "test", count["test"], self.seed + 1, frozenset(train.prompts))
        scenes = {"train": train, "test": test}
        return scenes if self.captions else {name: some.silent(data.denoiser) for name, some in scenes.items()}

    def _read(
        self,
        data: ActivationDataModule,
        saes: Mapping[str, SAE],
        scenes: dict[str, LabelledScenes],
        candidates: list[str],
    ) -> tuple[dict[str, Any], dict[str, Directions]]:
        """Meaning and read-out of every site, and what steering needs of the candidates."""
        harvester = Harvester(data.denoiser, data.denoiser.resolve_sites(list(saes)), data.window_radius, None)
        step = self._progress("reading scenes", self.num_bins * sum(map(len, scenes.values())))
        pooled: dict[tuple[str, str], list[dict[str, torch.Tensor]]] = {}
        meaning: dict[str, list[dict[str, Any]]] = {site: [] for site in saes}
        depth: dict[str, list[dict[str, Any]]] = {site: [] for site in saes}
        readouts = {site: ReadOut(self.seed) for site in saes}
        references: dict[str, list[TokenBatch]] = {site: [] for site in saes}
        bins = [(number / self.num_bins, (number + 1) / self.num_bins) for number in range(self.num_bins)]

        def read_bin(bounds: tuple[float, float]) -> dict[str, dict[str, Reading]]:
            return {
                name: read(harvester, saes, scenes[name], bounds, self.seed, self.forward_batch_size, step)
                for name in SPLITS
            }

        for (low, high), readings in zip(bins, one_ahead(map(read_bin, bins), data.denoiser.device), strict=True):
            edges = {"low": low, "high": high}
            for site in saes:
                train, test = (readings[name][site] for name in SPLITS)
                depth[site].append({**edges, **readouts[site].update((scenes["train"], train), (scenes["test"], test))})
                pairs = (scenes["train"], train.pooled), (scenes["test"], test.pooled)
                meaning[site].append({**edges, **measure_meaning(*pairs, 1, self.seed)})
                references[site].append(train.reference)
                for name, reading in zip(SPLITS, (train, test), strict=True):
                    pooled.setdefault((site, name), []).append(reading.pooled)
        found: dict[str, Any] = {"meaning": {}, "readout": {}}
        for site in saes:
            joined = {name: (scenes[name], _joined(pooled[site, name])) for name in SPLITS}
            total = measure_meaning(joined["train"], joined["test"], self.num_bins, self.seed)
            found["meaning"][site] = {**total, "by_timestep": meaning[site]}
            found["readout"][site] = {**readouts[site].compute(), "by_timestep": depth[site]}
        inside = [number for number, (low, high) in enumerate(bins) if low < self.window[1] and high > self.window[0]]
        directions = {}
        for site in candidates if self.targets else []:
            if why_not(saes[site]) is None:
                some = _joined([pooled[site, "train"][number] for number in inside])
                reference = TokenBatch.concatenate([references[site][number] for number in inside])
                directions[site] = learn_directions(site, saes[site], scenes["train"], some, len(inside), reference)
        return found, directions

    def _steer(
        self, data: ActivationDataModule, directions: dict[str, Directions], absent: list[str], budget: Budget
    ) -> dict[str, Any]:
        reason = "its known part uses the true noise, which no trajectory knows"
        missing = {"absent": dict.fromkeys(absent, reason)} if absent else {}
        if not directions:
            return missing
        plan = SteeringPlan(
            targets=self.targets,
            about=self.steer_prompts,
            num_train_prompts=self.num_prompts["train"],
            num_test_prompts=self.num_prompts["test"],
            strengths=self.strengths,
            window=self.window,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=data.guidance_scale if self.guidance_scale is None else self.guidance_scale,
            seed=self.seed,
        )
        fitted = plan.fitting(budget.left(), data.denoiser, len(directions))
        for name in ("num_train_prompts", "num_test_prompts"):
            budget.note(
                f"toybox: {name.removeprefix('num_').replace('_', ' ')}", getattr(fitted, name), getattr(plan, name)
            )
        if not fitted.num_test_prompts:
            return {"absent": dict.fromkeys([*directions, *absent], "no time was left")}
        step = self._progress("steering images", fitted.num_images(len(directions)))
        oracles = load_oracle("a"), load_oracle("b")
        found = Steering(data.denoiser, list(directions.values()), oracles, fitted, step).run()
        prompts = {"train_prompts": fitted.num_train_prompts, "test_prompts": fitted.num_test_prompts}
        return {**found, **prompts, **missing}

    def _settings(self, data: ActivationDataModule, num_scenes: Mapping[str, int]) -> dict[str, Any]:
        return {
            "train_scenes": num_scenes["train"],
            "test_scenes": num_scenes["test"],
            "captions": self.captions,
            "steer_prompts": self.steer_prompts,
            "strengths": list(self.strengths),
            "window": list(self.window),
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": data.guidance_scale if self.guidance_scale is None else self.guidance_scale,
            "seed": self.seed,
        }

    def _progress(self, label: str, total: int) -> Callable[[int], None]:
        """A function to call with what was done since; it prints a line now and then, and the last."""
        begun = said = time.monotonic()
        done = 0

        def step(number: int) -> None:
            nonlocal done, said
            done += number
            now = time.monotonic()
            if now - said > self.print_every_seconds or done == total:
                said = now
                print(f"toybox  {label}: {done} of {total}, {time_left(now - begun, done, total)} left", flush=True)

        return step


def _joined(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

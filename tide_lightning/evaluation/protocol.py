"""`tide test`: reconstruction, health, floors, fidelity, images and features over time, by site and timestep."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from safetensors.torch import save
from torch import Tensor, nn

from tide_lightning.callbacks.boards import boards_of
from tide_lightning.datamodules import ActivationDataModule, HeldOutBatch
from tide_lightning.diffusion import unlabelled
from tide_lightning.errors import UserError
from tide_lightning.evaluation.budget import FIDELITY_SHARE, Budget, is_late
from tide_lightning.evaluation.end_to_end import NUM_SHOWN, EndToEnd, RealImages, Trajectories, evenly_chosen
from tide_lightning.evaluation.fidelity import Fidelity
from tide_lightning.evaluation.figures import measured
from tide_lightning.evaluation.floors import FittedFloors, FloorStatistics, SiteFloors, floors_of
from tide_lightning.evaluation.kept_floors import read_floors
from tide_lightning.evaluation.lifetimes import Lifetimes
from tide_lightning.evaluation.plots import draw_plots, image_grid, pixels_of
from tide_lightning.evaluation.reconstruction import SiteReconstruction
from tide_lightning.evaluation.report import write_report
from tide_lightning.evaluation.sections import MeasuresSection, Section, measure_sections
from tide_lightning.evaluation.summary import print_summary
from tide_lightning.evaluation.time_section import time_section
from tide_lightning.evaluation.tracking import Tracker
from tide_lightning.files import write_bytes, write_json
from tide_lightning.reduction import all_reduce_sum
from tide_lightning.saes import SAE, SAEOutput
from tide_lightning.sharding import is_sharded
from tide_lightning.threads import side_by_side
from tide_lightning.training import TideModule
from tide_lightning.waiting import clock, time_left

SCHEMA = 1


class EvaluateProtocol(Callback):
    """Measures a run on held-out samples and writes metrics.json and report/index.html.

    Each site's reconstruction and health stand beside floors, fitted on calibration tokens and measured on the same
    held-out tokens; the denoiser's loss is measured with spliced activations, and whole images are sampled with them.
    Figures are the same on one rank and several. See docs/explanation/reading-the-numbers.md for definitions.

    Args:
        run_folder: where results are written; the trainer's log folder unless given (the command line gives it).
        budget: minutes that everything may take; the parts are cut to fit, and results say so. Null for no limit.
        num_bins: equal bins of the normalised timestep.
        fidelity_samples: held-out samples on which the denoiser runs with spliced activations; 0 for none.
        num_images: held-out prompts sampled end to end, with and without splicing; 0 for none.
        num_inference_steps: of these trajectories; as in the data unless given.
        guidance_scale: of these trajectories; as in the data unless given.
        features: makes features of images [N, 3, H, W] in [0, 1], for Fréchet distances; Inception for one.
        clip: folder or hub id of a CLIP, for scores of how well images fit their prompts.
        seed: of these trajectories' initial noise.
        print_every_seconds: between two lines about how far it is.
    """

    def __init__(
        self,
        run_folder: str | None = None,
        budget: float | None = None,
        num_bins: int = 10,
        fidelity_samples: int = 512,
        num_images: int = 32,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        features: nn.Module | None = None,
        clip: str | None = None,
        seed: int = 0,
        print_every_seconds: float = 10.0,
    ) -> None:
        super().__init__()
        if num_bins < 1 or fidelity_samples < 0 or num_images < 0:
            raise UserError("evaluation: num_bins must be at least 1, fidelity_samples and num_images at least 0")
        self.run_folder = run_folder
        self.budget = Budget(budget)
        self.num_bins = num_bins
        self.fidelity_samples = fidelity_samples
        self.num_images = num_images
        self.num_inference_steps = num_inference_steps
        self.guidance_scale = guidance_scale
        self.features, self.clip = features, clip
        self.seed = seed
        self.print_every_seconds = print_every_seconds
        self.metrics: dict[str, Any] = {}
        self.rates: dict[str, Tensor] = {}
        self.end_to_end: EndToEnd | None = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit the floors."""
        data = _datamodule(trainer)
        if is_sharded(pl_module):
            raise UserError("tide test works on whole SAEs: use --trainer.strategy auto --trainer.devices 1")
        saes = _saes(pl_module)
        self._trajectories = self._make_trajectories(data, saes) if self.num_images else None
        num_steps = self.num_inference_steps or data.trajectories.num_inference_steps
        self._tracker = Tracker(saes, num_steps) if self.num_images else None
        self._reconstruction = {site: SiteReconstruction(sae, self.num_bins) for site, sae in saes.items()}
        self._lifetimes = {site: Lifetimes(sae.d_sae, self.num_bins, pl_module.device) for site, sae in saes.items()}
        sections = any(isinstance(callback, MeasuresSection) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        self._absent = (() if self.num_images else ("images",)) + (() if sections else ("sections",))
        fitted = self._fitted_floors(trainer, pl_module, data, saes)
        self._floors = {
            site: SiteFloors(sae, fitted[unlabelled(site)], self.num_bins).to(pl_module.device)
            for site, sae in saes.items()
        }
        means = {site: fitted[unlabelled(site)].mean for site in saes}
        self._fidelity = Fidelity(data.denoiser, saes, means, self.num_bins)
        self._until = self._deadline(trainer, "reconstruction")
        self._fidelity_until = self.budget.deadline("reconstruction", self._absent, FIDELITY_SHARE)
        self._fidelity_seen, self._fidelity_seconds, self._seen = 0, 0.0, 0
        self._started = self._said = _now(pl_module)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: HeldOutBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure a batch; where time is over, it was the last."""
        produced: dict[str, SAEOutput] = outputs

        def measure(site: str) -> None:
            for part in (self._reconstruction[site], self._floors[site], self._lifetimes[site]):
                part.update(batch.tokens[unlabelled(site)], produced[site])

        side_by_side(measure, produced, pl_module.device)
        self._seen += len(batch)
        self._measure_fidelity(trainer, pl_module, batch)
        if is_late(self._until, pl_module.device):
            raise StopIteration  # the evaluation loop, unlike the one of a fit, heeds no `trainer.should_stop`

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reduce over ranks and sample images; rank 0 measures the rest and writes everything."""
        self.metrics = self._compute(trainer, _now(pl_module) - self._started)
        self.end_to_end = self._sample(trainer, pl_module)
        if self.end_to_end is not None:
            self.metrics.setdefault("fidelity", {})["end_to_end"] = self.end_to_end.figures
        sections = [self._measure_time()]
        self.metrics["time"] = measured(sections[0].figures)
        if not trainer.is_global_zero:
            return
        drawn = draw_plots(self.metrics)  # of what is measured by now
        written = self._write(trainer, sections, drawn)  # before what other callbacks measure, which may take long
        for section in measure_sections(trainer, pl_module, self.budget):
            sections.append(section)
            self.metrics[section.name] = measured(section.figures)
        written = self._write(trainer, sections, drawn)
        if self.end_to_end is not None:
            grid = pixels_of(image_grid(self.end_to_end.images))
            for board in boards_of(trainer):
                board.show_image("test/images", grid, trainer.global_step)
        print_summary(self.metrics, written)

    def _measure_time(self) -> Section:
        """Lifetimes of features, and where images were sampled, features followed along their trajectories."""
        found = {site: lifetimes.compute() for site, lifetimes in self._lifetimes.items()}
        lives = {site: figures for site, (figures, _) in found.items()}
        self.rates = {site: rates for site, (_, rates) in found.items()}
        return time_section(lives, self.rates, None if self._tracker is None else self._tracker.compute())

    def _write(self, trainer: Trainer, sections: list[Section], drawn: dict[str, bytes]) -> list[Path]:
        self.metrics |= {"budget": spent} if (spent := self.budget.figures()) else {}
        folder = self._folder(trainer)
        config = folder / "config.yaml"
        text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else None
        title = f"{folder.resolve().parent.name}/{folder.resolve().name}"
        path = write_json(folder / "metrics.json", self.metrics)
        rates = write_bytes(folder / "feature_times.safetensors", save(self.rates))
        page = write_report(folder / "report", title, self.metrics, self.end_to_end, text, sections, drawn)
        return [path, rates, page]

    def _folder(self, trainer: Trainer) -> Path:
        return Path(self.run_folder or trainer.log_dir or trainer.default_root_dir)

    def _make_trajectories(self, data: ActivationDataModule, saes: dict[str, SAE]) -> Trajectories:
        """Made before anything is measured: what is wrong with the features or CLIP is told at once."""
        return Trajectories(
            data.denoiser,
            saes,
            num_inference_steps=self.num_inference_steps or data.trajectories.num_inference_steps,
            guidance_scale=data.trajectories.guidance_scale if self.guidance_scale is None else self.guidance_scale,
            seed=self.seed,
            features=self.features,
            clip=self.clip,
        )

    def _fitted_floors(
        self, trainer: Trainer, pl_module: LightningModule, data: ActivationDataModule, saes: dict[str, SAE]
    ) -> dict[str, FittedFloors]:
        """By site: those that the run's fit has kept, if they are of the same tokens; or fitted now."""
        fitted = {site: floors.to(pl_module.device) for site, floors in floors_of(saes).items()}
        if read_floors(self._folder(trainer), data.calibration_contents(), fitted):
            _say(trainer, "evaluate  the floors are those that the fit has kept")
            return fitted
        _say(trainer, "evaluate  fitting the floors on calibration tokens")
        until = self._deadline(trainer, "calibration")
        statistics = {site: FloorStatistics(floors).to(pl_module.device) for site, floors in fitted.items()}
        for number, batch in enumerate(data.calibration_batches(), start=1):
            for site, tokens in batch.items():
                statistics[site].update(tokens)
            if is_late(until, pl_module.device):
                done = number * data.samples_per_batch // (2 if data.source == "both" else 1)  # one source at a time
                self.budget.note("calibration samples", done, data.num_calibration_samples)
                break
        for each in statistics.values():
            each.fit()
        return fitted

    def _measure_fidelity(self, trainer: Trainer, pl_module: LightningModule, batch: HeldOutBatch) -> None:
        call, data = batch.call, _datamodule(trainer)
        late = is_late(self._fidelity_until, pl_module.device)
        if call.x0 is None or call.noise is None or (late and self._fidelity_seen):
            return
        chosen = (call.sample < self.fidelity_samples).nonzero().squeeze(1)  # the same ones however many ranks
        if not len(chosen):
            return
        begun = _now(pl_module)
        target = data.denoiser.schedule.target(call.x0, call.noise, call.raw_t)
        for index in chosen.split(data.forward_batch_size or len(chosen)):
            self._fidelity.update(
                call.x_t[index],
                call.raw_t[index],
                call.conditioning.select(index),
                target[index],
                call.sample[index].tolist(),
            )
        ended = _now(pl_module)
        self._fidelity_seconds += ended - begun
        self._fidelity_seen += len(chosen)
        if ended - self._said > self.print_every_seconds:
            self._said = ended
            total = -(-min(self.fidelity_samples, data.heldout.num_test_samples) // trainer.world_size)
            left = time_left(self._fidelity_seconds, self._fidelity_seen, total)
            _say(trainer, f"evaluate  fidelity: {self._fidelity_seen} of {total} samples, {left} left")

    def _deadline(self, trainer: Trainer, part: str) -> float | None:
        """When a part that begins now has to end; where there is a budget, said too."""
        deadline, left = self.budget.deadline(part, self._absent), self.budget.left()
        if deadline is not None and left is not None:
            share = clock(deadline - time.monotonic())
            _say(trainer, f"evaluate  {clock(left)} of the budget left, {share} of it for {part}")
        return deadline

    def _compute(self, trainer: Trainer, seconds: float) -> dict[str, Any]:
        data = _datamodule(trainer)
        sites = {site: part.compute() for site, part in self._reconstruction.items()}
        floors = {site: part.compute() for site, part in self._floors.items()}
        fidelity = self._fidelity.compute()
        spent = [seconds - self._fidelity_seconds, self._fidelity_seconds, 1.0, self._seen]
        totals = all_reduce_sum(torch.tensor(spent, dtype=torch.float64).to(self._fidelity.count.device))
        reading, splicing = (totals[:2] / totals[2]).tolist()
        self.budget.note("held-out samples", int(totals[3]), data.heldout.num_test_samples)
        wanted = min(self.fidelity_samples, data.heldout.num_test_samples)
        if fidelity["samples"]:
            self.budget.note("samples spliced for fidelity", fidelity["samples"], wanted)
        metrics: dict[str, Any] = {
            "schema": SCHEMA,
            "test_source": data.heldout.test_source,
            "sites": sites,
            "floors": floors,
        }
        if fidelity["samples"] or fidelity["absent"]:
            metrics["fidelity"] = fidelity
        num_tokens = sum(found["tokens"] for found in sites.values()) / max(len(sites), 1)
        metrics["throughput"] = {
            "tokens_per_second": num_tokens / max(reading, 1e-9),
            "reconstruction_seconds": reading,
            "fidelity_seconds": splicing,
            "ranks": int(totals[2]),
        }
        return metrics

    def _sample(self, trainer: Trainer, pl_module: LightningModule) -> EndToEnd | None:
        data = _datamodule(trainer)
        if self._trajectories is None:
            return None
        heldout, images = data.corpus.prompts("heldout"), data.corpus.images("heldout")
        prompts = [heldout[place] for place in evenly_chosen(len(heldout), self.num_images)]
        cases = ", ".join(self._trajectories.cases)
        _say(trainer, f"evaluate  sampling {len(prompts)} images each: {cases}")
        begun = time.monotonic()

        def progress(done: int) -> None:
            left = time_left(time.monotonic() - begun, done, len(prompts))
            _say(trainer, f"evaluate  sampling images: {done} of {len(prompts)}, {left} left")

        found = self._trajectories.run(
            prompts,
            None if images is None else RealImages(images, len(prompts)),
            chunk_size=min(NUM_SHOWN, data.forward_batch_size or NUM_SHOWN),
            watch=None if self._tracker is None else self._tracker.follow,
            progress=progress,
            deadline=self._deadline(trainer, "images"),
        )
        self.budget.note("images a case", found.figures["images"], len(prompts))
        return found


def _datamodule(trainer: Trainer) -> ActivationDataModule:
    data: Any = getattr(trainer, "datamodule", None)
    if not isinstance(data, ActivationDataModule):
        raise UserError("evaluation: needs an ActivationDataModule as the trainer's datamodule")
    return data


def _saes(pl_module: LightningModule) -> dict[str, SAE]:
    if not isinstance(pl_module, TideModule):
        raise UserError(f"evaluation: needs a TideModule, not a {type(pl_module).__name__}")
    return {site: pl_module.sae(site) for site in pl_module.sites}


def _now(pl_module: LightningModule) -> float:
    if pl_module.device.type == "cuda":
        torch.cuda.synchronize(pl_module.device)
    return time.monotonic()


def _say(trainer: Trainer, line: str) -> None:
    if trainer.is_global_zero:
        print(line, flush=True)

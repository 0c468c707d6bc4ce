"""`tide test`: reconstruction, health, floors, fidelity and sampled images of a run, by site and timestep."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from tide_lightning.datamodules import ActivationDataModule, HeldOutBatch
from tide_lightning.diffusion import unlabelled
from tide_lightning.errors import UserError
from tide_lightning.evaluation.end_to_end import EndToEnd, run_trajectories
from tide_lightning.evaluation.fidelity import Fidelity
from tide_lightning.evaluation.figures import measured
from tide_lightning.evaluation.files import write_json
from tide_lightning.evaluation.floors import SiteFloors
from tide_lightning.evaluation.plots import image_grid
from tide_lightning.evaluation.reconstruction import SiteReconstruction
from tide_lightning.evaluation.report import write_report
from tide_lightning.evaluation.sections import Section, measure_sections
from tide_lightning.evaluation.summary import print_summary, time_left
from tide_lightning.reduction import all_reduce_sum
from tide_lightning.saes import SAE, SAEOutput
from tide_lightning.sharding import is_sharded
from tide_lightning.training import TideModule

SCHEMA = 1


class EvaluateProtocol(Callback):
    """Measures a run on held-out samples and writes metrics.json and report/index.html.

    Each site's reconstruction and health stand beside floors, fitted on calibration tokens and measured on the same
    held-out tokens; the denoiser's loss is measured with spliced activations, and whole images are sampled with them.
    Figures are the same on one rank and several. See docs/evaluation.md for definitions.

    Args:
        run_folder: where results are written; the trainer's log folder unless given (the command line gives it).
        num_bins: equal bins of the normalised timestep.
        fidelity_samples: held-out samples on which the denoiser runs with spliced activations; 0 for none.
        num_images: held-out prompts sampled end to end; 0 for none.
        num_inference_steps: of these trajectories; as in the data unless given.
        guidance_scale: of these trajectories; as in the data unless given.
        seed: of these trajectories' initial noise.
        print_every_seconds: between two lines about how far fidelity is.
    """

    def __init__(
        self,
        run_folder: str | None = None,
        num_bins: int = 10,
        fidelity_samples: int = 512,
        num_images: int = 8,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int = 0,
        print_every_seconds: float = 10.0,
    ) -> None:
        super().__init__()
        if num_bins < 1 or fidelity_samples < 0 or num_images < 0:
            raise UserError("evaluation: num_bins must be at least 1, fidelity_samples and num_images at least 0")
        self.run_folder = run_folder
        self.num_bins = num_bins
        self.fidelity_samples = fidelity_samples
        self.num_images = num_images
        self.num_inference_steps = num_inference_steps
        self.guidance_scale = guidance_scale
        self.seed = seed
        self.print_every_seconds = print_every_seconds
        self.metrics: dict[str, Any] = {}
        self.end_to_end: EndToEnd | None = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit the floors."""
        data = _datamodule(trainer)
        if is_sharded(pl_module):
            raise UserError("tide test works on whole SAEs: use --trainer.strategy auto --trainer.devices 1")
        saes = _saes(pl_module)
        self._reconstruction = {site: SiteReconstruction(sae, self.num_bins) for site, sae in saes.items()}
        self._floors = {site: SiteFloors(sae, self.num_bins).to(pl_module.device) for site, sae in saes.items()}
        _say(trainer, "evaluate  fitting the floors on calibration tokens")
        assert isinstance(pl_module, TideModule)
        for batch in map(pl_module.for_each_sae, data.calibration_batches()):
            for site, tokens in batch.items():
                self._floors[site].calibrate(tokens)
        for floors in self._floors.values():
            floors.fit()
        means = {site: floors.mean for site, floors in self._floors.items()}
        self._fidelity = Fidelity(data.denoiser, saes, means, self.num_bins)
        self._fidelity_seen, self._fidelity_seconds = 0, 0.0
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
        """Measure a batch."""
        produced: dict[str, SAEOutput] = outputs
        for site, output in produced.items():
            self._reconstruction[site].update(batch.tokens[unlabelled(site)], output)
            self._floors[site].update(batch.tokens[unlabelled(site)], output)
        self._measure_fidelity(trainer, pl_module, batch)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reduce over ranks; rank 0 samples images and writes everything."""
        self.metrics = self._compute(_now(pl_module) - self._started)
        if not trainer.is_global_zero:
            return
        self.end_to_end = self._sample(trainer, pl_module)
        if self.end_to_end is not None:
            self.metrics.setdefault("fidelity", {})["end_to_end"] = self.end_to_end.figures
        written = self._write(trainer, [])  # before what other callbacks measure, which may take long
        if sections := list(measure_sections(trainer, pl_module)):
            self.metrics |= {section.name: measured(section.figures) for section in sections}
            written = self._write(trainer, sections)
        if isinstance(trainer.logger, TensorBoardLogger) and self.end_to_end is not None:
            trainer.logger.experiment.add_image("test/images", image_grid(self.end_to_end.images), trainer.global_step)
        print_summary(self.metrics, written)

    def _write(self, trainer: Trainer, sections: list[Section]) -> list[Path]:
        folder = Path(self.run_folder or trainer.log_dir or trainer.default_root_dir)
        config = folder / "config.yaml"
        text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else None
        title = f"{folder.resolve().parent.name}/{folder.resolve().name}"
        path = write_json(folder / "metrics.json", self.metrics)
        page = write_report(folder / "report", title, self.metrics, self.end_to_end, text, sections)
        return [path, page]

    def _measure_fidelity(self, trainer: Trainer, pl_module: LightningModule, batch: HeldOutBatch) -> None:
        call, data = batch.call, _datamodule(trainer)
        if call.x0 is None or call.noise is None:
            return
        chosen = (call.sample < self.fidelity_samples).nonzero().squeeze(1)  # the same ones however many ranks
        if not len(chosen):
            return
        begun = _now(pl_module)
        target = data.denoiser.schedule.target(call.x0, call.noise, call.raw_t)
        for index in chosen.split(data.forward_batch_size or len(chosen)):
            self._fidelity.update(call.x_t[index], call.raw_t[index], call.conditioning.select(index), target[index])
        ended = _now(pl_module)
        self._fidelity_seconds += ended - begun
        self._fidelity_seen += len(chosen)
        if ended - self._said > self.print_every_seconds:
            self._said = ended
            total = -(-min(self.fidelity_samples, data.num_test_samples) // trainer.world_size)
            left = time_left(self._fidelity_seconds, self._fidelity_seen, total)
            _say(trainer, f"evaluate  fidelity: {self._fidelity_seen} of {total} samples, {left} left")

    def _compute(self, seconds: float) -> dict[str, Any]:
        sites = {site: part.compute() for site, part in self._reconstruction.items()}
        floors = {site: part.compute() for site, part in self._floors.items()}
        fidelity = self._fidelity.compute()
        spent = torch.tensor([seconds - self._fidelity_seconds, self._fidelity_seconds, 1.0], dtype=torch.float64)
        spent = all_reduce_sum(spent.to(self._fidelity.count.device))
        reading, splicing = (spent[:2] / spent[2]).tolist()
        metrics: dict[str, Any] = {"schema": SCHEMA, "sites": sites, "floors": floors}
        if fidelity["samples"] or fidelity["absent"]:
            metrics["fidelity"] = fidelity
        num_tokens = sum(found["tokens"] for found in sites.values()) / max(len(sites), 1)
        metrics["throughput"] = {
            "tokens_per_second": num_tokens / max(reading, 1e-9),
            "reconstruction_seconds": reading,
            "fidelity_seconds": splicing,
            "ranks": int(spent[2]),
        }
        return metrics

    def _sample(self, trainer: Trainer, pl_module: LightningModule) -> EndToEnd | None:
        data = _datamodule(trainer)
        prompts = list(_spread(data, self.num_images))
        if not prompts:
            return None
        begun = time.monotonic()

        def progress(case: str, number: int, count: int) -> None:
            left = f", {time_left(time.monotonic() - begun, number, count)} left" if number else ""
            _say(trainer, f"evaluate  sampling {len(prompts)} images, {number + 1} of {count}: {case}{left}")

        return run_trajectories(
            data.denoiser,
            _saes(pl_module),
            prompts,
            num_inference_steps=self.num_inference_steps or data.num_inference_steps,
            guidance_scale=data.guidance_scale if self.guidance_scale is None else self.guidance_scale,
            seed=self.seed,
            progress=progress,
        )


def _spread(data: ActivationDataModule, count: int) -> Iterator[str]:
    """Held-out prompts, spread evenly over those there are."""
    prompts = data.corpus.prompts("heldout")
    count = min(count, len(prompts))
    return (prompts[number * len(prompts) // count] for number in range(count))


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

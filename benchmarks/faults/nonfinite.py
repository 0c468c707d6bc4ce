"""NaN, infinity and overflow at every stage of a fit: nothing that is not finite may be kept."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random
from typing import Any, Literal, get_args

import torch
from lightning import Callback, LightningModule, Trainer

from benchmarks.faults.fits import FIT, Reference, checkpoints, fresh, latest, load
from benchmarks.faults.trial import Trial, judged, run
from tide_lightning.errors import UserError
from tide_lightning.grounds.toybox import Scenes
from tide_lightning.saes import SAE
from tide_lightning.training import TideModule
from tide_lightning.training.finite import not_finite

GOAL, SECONDS = 50, 110
Stage = Literal["tokens", "gradient", "weights", "moments", "validation"]
_NUMBERS = ["nan", "inf", "-inf", "1e30", "3e38"]


class Poison(Callback):
    """Puts a number (as text, for a config may not hold it) where a stage keeps its own, before some steps."""

    def __init__(self, stage: Stage, steps: list[int], number: str) -> None:
        self.stage, self.steps, self.number = stage, steps, float(number)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Tokens, weights, moments."""
        assert isinstance(pl_module, TideModule)
        if trainer.global_step not in self.steps:
            return
        site = pl_module.sites[0]
        if self.stage == "tokens":
            batch[site].x[0, 0] = self.number
        elif self.stage == "weights":
            with torch.no_grad():
                pl_module.sae(site).W_enc[0, 0] = self.number
        elif self.stage == "moments":
            state = trainer.optimizers[0].state
            for moments in state.values():
                moments["exp_avg"].view(-1)[0] = self.number

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A gradient."""
        assert isinstance(pl_module, TideModule)
        gradient = pl_module.sae(pl_module.sites[0]).W_enc.grad
        if self.stage == "gradient" and trainer.global_step in self.steps and gradient is not None:
            gradient.view(-1)[0] = self.number

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Held-out tokens."""
        if self.stage == "validation":
            next(iter(batch.values())).x[0, 0] = self.number


class PoisonedScenes(Scenes):
    """The toybox's scenes, every n-th of which has a number in its first pixel."""

    def __init__(self, num_scenes: int = 32, every: int = 4, number: str = "nan") -> None:
        super().__init__("train", num_scenes)
        self._every, self._number = every, float(number)

    def __getitem__(self, index: int) -> Any:
        return self._poisoned(super().__getitem__(index), index)

    def __getitems__(self, indices: list[int]) -> list[Any]:
        items = super().__getitems__(indices)
        return [self._poisoned(item, index) for item, index in zip(items, indices, strict=True)]

    def _poisoned(self, item: Any, index: int) -> Any:
        if index % self._every == 0:
            image = item["image"].clone()
            image[0, 0, 0] = self._number
            return {**item, "image": image}
        return item


def prepare(reference: Reference, folder: Path) -> Reference:
    """A run whose checkpoint can be poisoned."""
    return reference


def attempt(reference: Reference, draw: Random, folder: Path) -> Trial:
    """Fit with numbers that are none; whatever comes of it, all that is kept is finite."""
    fresh(folder)
    number = draw.choice(_NUMBERS)
    stage = draw.choice([*get_args(Stage), "images", "rate", "checkpoint", "export"])
    what = f"{number} in {stage}"
    if stage == "export":
        return _poisoned_export(reference, number, folder, what)
    args = [*FIT, "--data.heldout.num_validation_samples=4"]
    if stage == "validation":
        args += ["--trainer.limit_val_batches=1", "--trainer.val_check_interval=2"]
    if stage == "images":
        init = f"{{every: {draw.choice([1, 2, 8])}, number: '{number}'}}"
        args += [f"--data.images={{class_path: benchmarks.faults.nonfinite.PoisonedScenes, init_args: {init}}}"]
    elif stage == "rate":
        rate = draw.choice(["1e5", "1e10", "1e30", "1e38"])
        args += [f"--model.lr={rate}", "--model.warmup_steps=0", "--trainer.max_steps=40"]
        what = f"a learning rate of {rate}"
    elif stage == "checkpoint":
        args += [f"--ckpt_path={_poisoned_checkpoint(reference, float(number), folder)}"]
    else:
        steps = sorted(draw.sample(range(8), draw.choice([1, 2, 5])))
        what += f" at {steps}"
        init = f"{{stage: {stage}, steps: {steps}, number: '{number}'}}"
        args += [f"--trainer.callbacks=[{{class_path: benchmarks.faults.nonfinite.Poison, init_args: {init}}}]"]
    trial = judged(run(args, folder), what)
    if trial.outcome == "traceback":
        return trial
    whole, torn = checkpoints(folder / "runs")
    for path in [*whole, *torn]:
        content = load(path)
        if (name := not_finite([content["state_dict"], content["optimizer_states"]])) is not None:
            return Trial("wrong", f"{what}: {path.name} holds {name}")
    run_folder = latest(folder)
    for sae in sorted((run_folder / "saes").glob("*")) if run_folder else []:
        if (name := not_finite(dict(SAE.from_pretrained(sae).state_dict()))) is not None:
            return Trial("wrong", f"{what}: {sae.name} is exported with {name}")
    return trial._replace(sort=stage)


def _poisoned_checkpoint(reference: Reference, number: float, folder: Path) -> Path:
    content = {**reference.content, "state_dict": dict(reference.content["state_dict"])}
    name = next(name for name in content["state_dict"] if name.endswith("W_dec"))
    weights = content["state_dict"][name].clone()
    weights[0, 0] = math.nan if abs(number) < math.inf else number
    content["state_dict"][name] = weights
    torch.save(content, folder / "poisoned.ckpt")
    return folder / "poisoned.ckpt"


def _poisoned_export(reference: Reference, number: str, folder: Path, what: str) -> Trial:
    sae = SAE.from_pretrained(next((reference.run / "saes").iterdir()))
    with torch.no_grad():
        sae.W_enc[0, 0] = float(number)
    try:
        kept = SAE.from_pretrained(sae.save_pretrained(folder / "sae", site="block"))
    except UserError:
        return Trial("refused", what)
    is_finite = not_finite(dict(kept.state_dict())) is None
    return Trial("survived" if is_finite else "wrong", what)

"""`python -m tools.photos.train_judges whitened --minutes 60`: train a judge of the photographs, or go on training it.

The learning rate rises and falls with the share of the minutes that has passed, so training ends when the time does,
whatever the machine is and whoever else is on it. Every few minutes the folder gets a checkpoint, from which the same
command goes on (with other minutes, if they are named), and the averaged weights, which are a judge at any time.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel

from tide_lightning.grounds.photos.classifiers import (
    Classifier,
    ClassifierName,
    Whitening,
    accuracy,
    build_classifier,
    load_classifier,
    save_classifier,
)
from tide_lightning.grounds.photos.sources import Photographs, read_photographs
from tools.command import run
from tools.photos.batches import Batches
from tools.photos.pacing import Clock, any_device, load_checkpoint, save_checkpoint

PEAK_RATES = {"whitened": 1.5, "residual": 0.8}
"""Highest learning rates, for batches of 1024."""

WEIGHT_DECAY = {"whitened": 1.3e-3, "residual": 5e-4}
OFFSETS_FACTOR = 64.0
MOMENTUM = 0.85
SMOOTHING = 0.2
AVERAGED_EVERY = 5
TESTED = 1000
"""Test images in between; at the end it is all of them."""


def train_judge(
    judge: ClassifierName,
    minutes: float = 60,
    photographs: str | None = None,
    out: Path = Path("runs/photos/judges"),
    start: Path | None = None,
    device: str | None = None,
    batch_size: int = 512,
    peak: float | None = None,
    shift: int = 3,
    cutout: int = 10,
    save_every: float = 3.0,
    seed: int = 0,
) -> None:
    """Train a judge, or go on.

    Args:
        judge: which architecture.
        minutes: in all, of a GPU or of the processor's work; a training that goes on may be given others.
        photographs: their source; unless given $TIDE_PHOTOS, or ../shared/cifar10.
        out: folder of checkpoint and judge.
        start: folder of judges to start a new training from.
        device: a GPU unless given, where there is one.
        batch_size: images a step.
        peak: highest learning rate for batches of 1024; the judge's own unless given.
        shift: pixels by which images are moved both ways at most.
        cutout: side in pixels of the square of each image that is hidden.
        save_every: minutes between checkpoints.
        seed: of weights and batches.
    """
    torch.manual_seed(seed)
    place = any_device(device)
    train, test = (
        Photographs(*(part.to(place) for part in read_photographs(split, photographs))) for split in ("train", "test")
    )
    judged = build_classifier(judge) if start is None else load_classifier(judge, start).requires_grad_(True)
    if start is None:
        fit_whitening(judged, train)
    training = Training(judged.to(place), (peak or PEAK_RATES[judge]) * batch_size / 1024, WEIGHT_DECAY[judge])
    elapsed = training.resume(out / f"{judge}.ckpt")
    batches, clock, losses = Batches(train, batch_size, seed, shift, cutout), Clock(minutes, elapsed, place), []
    while clock.share < 1:
        losses.append(training.step(*batches(training.steps), clock.share))
        if clock.every(save_every):
            some = test if clock.share == 1 else Photographs(test.images[:TESTED], test.classes[:TESTED])
            facts = {
                "test_accuracy": accuracy(training.averaged, some),
                "test_images": len(some.images),
                "minutes": clock.minutes,
                "epochs": round(training.steps / batches.steps_an_epoch, 2),
                "steps": training.steps,
                "loss": round(torch.stack(losses).mean().item(), 4),
            }
            losses = []
            save_checkpoint(training.state() | {"elapsed": clock.elapsed}, out / f"{judge}.ckpt")
            save_classifier(training.averaged, out / f"{judge}.safetensors")
            (out / f"{judge}.json").write_text(json.dumps(facts, indent=1) + "\n")
            print(json.dumps(facts), flush=True)


class Training:
    """A judge on its way, its moving average and its optimiser.

    Args:
        judge: where it shall be trained.
        peak: highest learning rate.
        decay: of weights.
    """

    def __init__(self, judge: Classifier, peak: float, decay: float) -> None:
        self.judge, self.peak, self.steps = judge, peak, 0
        self.average = AveragedModel(judge, multi_avg_fn=self._average, use_buffers=True)
        self.optimiser = optimiser(judge, decay)

    @property
    def averaged(self) -> Classifier:
        """The judge to be used."""
        judge = self.average.module
        assert isinstance(judge, Classifier)
        return judge

    def step(self, images: Tensor, classes: Tensor, share: float) -> Tensor:
        """One step at some share of the time; returns its loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.peak * triangle(share) * group["factor"]
        self.judge.train()
        # On processors with instructions for it, too, bfloat16 halves the time of convolutions.
        with torch.autocast(images.device.type, torch.bfloat16):
            logits = self.judge(images)
        loss = cross_entropy(logits.float(), classes, label_smoothing=SMOOTHING)
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.steps += 1
        if self.steps % AVERAGED_EVERY == 0:
            self.average.update_parameters(self.judge)
        return loss.detach()

    def state(self) -> dict[str, object]:
        """All that goes on."""
        return {
            "steps": self.steps,
            "judge": self.judge.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def resume(self, path: Path) -> float:
        """Go on from a checkpoint, if there is one; returns the seconds that have passed."""
        state = load_checkpoint(path, next(self.judge.parameters()).device)
        if state is None:
            return 0.0
        self.judge.load_state_dict(state["judge"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.steps = state["steps"]
        print(f"going on from step {self.steps}, minute {state['elapsed'] / 60:.1f}", flush=True)
        return float(state["elapsed"])

    def _average(self, averaged: Sequence[Tensor], current: Sequence[Tensor], _: Tensor | int) -> None:
        """Over some hundred steps, at first over fewer; of batch norms' statistics as well, but not of counters."""
        if averaged[0].is_floating_point():
            decay = min(0.99, (self.steps + 1) / (self.steps + 50)) ** AVERAGED_EVERY
            torch._foreach_lerp_(list(averaged), list(current), 1 - decay)


def triangle(share: float, peak_at: float = 0.2) -> float:
    """The learning rate's share of its peak: from a fifth up, and down to a hundredth."""
    return 0.2 + 0.8 * share / peak_at if share < peak_at else 0.01 + 0.99 * (1 - share) / (1 - peak_at)


def optimiser(judge: Classifier, decay: float) -> torch.optim.Optimizer:
    """Nesterov's momentum; offsets of batch norms without a scale learn faster, and decay as much less."""
    fast = [m.bias for m in judge.modules() if isinstance(m, nn.BatchNorm2d) and not m.weight.requires_grad]
    others = [p for p in judge.parameters() if p.requires_grad and all(p is not one for one in fast)]
    groups = [{"params": others, "factor": 1.0, "weight_decay": decay}]
    if fast:
        groups.append({"params": fast, "factor": OFFSETS_FACTOR, "weight_decay": decay / OFFSETS_FACTOR})
    return torch.optim.SGD(groups, lr=0.1, momentum=MOMENTUM, nesterov=True)


def fit_whitening(judge: Classifier, photographs: Photographs, most: int = 5000) -> None:
    """Fit fixed filters, where a judge has them, to some photographs."""
    for module in judge.modules():
        if isinstance(module, Whitening):
            module.fit(photographs.images[:most].cpu().float() / 127.5 - 1)


if __name__ == "__main__":
    run(train_judge)

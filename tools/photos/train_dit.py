"""`python -m tools.photos.train_dit --minutes 10`: train the photographs' denoiser, or go on training it.

The learning rate holds and then falls along a cosine to zero at the end of the minutes, so training ends when the time
does. Every few minutes the folder gets a checkpoint, from which the same command goes on (with other minutes, if they
are named), and the averaged weights, which `data.pretrained` of configs/photos.yaml can be at any time.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

from tide_lightning.grounds.photos.classes import CLASSES
from tide_lightning.grounds.photos.denoiser import PhotoDiT, build_scheduler, build_transformer
from tide_lightning.grounds.photos.sources import Photographs, read_photographs
from tools.command import run
from tools.photos.batches import Batches
from tools.photos.pacing import Clock, any_device, load_checkpoint, save_checkpoint

UNTOLD = 0.1
"""The share of images whose class the denoiser is not told, so that it can be guided."""

WARM_UP = 300  # steps
FALL = 0.7  # the last part of the time, in which the learning rate falls
CLIP = 1.0
AVERAGED_EVERY = 4
SHARDS = "14MB"  # files that any host takes


def train_dit(
    minutes: float = 10,
    photographs: str | None = None,
    out: Path = Path("runs/photos/dit"),
    start: str | None = None,
    device: str | None = None,
    batch_size: int = 512,
    peak: float = 8e-4,
    compile: bool | None = None,
    save_every: float = 3.0,
    seed: int = 0,
) -> None:
    """Train the denoiser, or go on.

    Args:
        minutes: in all, of a GPU or of the processor's work; a training that goes on may be given others.
        photographs: their source; unless given $TIDE_PHOTOS, or ../shared/cifar10.
        out: folder of checkpoint and weights.
        start: what to start a new training from, as in `data.pretrained`; unless given, from nothing.
        device: a GPU unless given, where there is one.
        batch_size: images a step.
        peak: highest learning rate; 1e-4 is enough to go on from trained weights.
        compile: compile the step, and replay it as one CUDA graph; on GPUs unless told otherwise.
        save_every: minutes between checkpoints.
        seed: of weights, batches and noise.
    """
    torch.manual_seed(seed)
    torch.set_float32_matmul_precision("high")
    place = any_device(device)
    train = Photographs(*(part.to(place) for part in read_photographs("train", photographs)))
    module = fresh() if start is None else PhotoDiT(start).transformer.requires_grad_(True)
    training = Training(module.to(place), peak, place.type == "cuda" if compile is None else compile)
    elapsed = training.resume(out / "dit.ckpt")
    batches, clock, losses = Batches(train, batch_size, seed), Clock(minutes, elapsed, place), []
    while clock.share < 1:
        losses.append(training.step(*batches(training.steps), clock.share))
        if clock.every(save_every):
            facts = {
                "minutes": clock.minutes,
                "epochs": round(training.steps / batches.steps_an_epoch, 2),
                "steps": training.steps,
                "loss": round(torch.stack(losses).mean().item(), 5),
            }
            losses = []
            save_checkpoint(training.state() | {"elapsed": clock.elapsed}, out / "dit.ckpt")
            training.export(out)
            (out / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
            print(json.dumps(facts), flush=True)


def fresh() -> DiTTransformer2DModel:
    """An untrained denoiser whose blocks begin as the identity and whose prediction begins at zero."""
    module = build_transformer()
    for layer in (*(block.norm1.linear for block in module.transformer_blocks), module.proj_out_2):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    for block in module.transformer_blocks:
        nn.init.normal_(block.norm1.emb.class_embedder.embedding_table.weight, std=0.02)
    return module


class Training:
    """The denoiser on its way, its moving average and its optimiser."""

    def __init__(self, module: DiTTransformer2DModel, peak: float, compiled: bool) -> None:
        for block in module.transformer_blocks:
            block.norm1.emb.class_embedder.dropout_prob = 0.0  # all blocks shall be told, or not told, alike: see step
        self.module, self.peak, self.steps = module.train(), peak, 0
        self.average = {name: value.detach().clone() for name, value in module.state_dict().items()}
        device = next(module.parameters()).device
        self.optimiser = torch.optim.AdamW(
            module.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=0.0, fused=device.type != "mps"
        )
        alphas = build_scheduler().alphas_cumprod.to(device)
        self._signal, self._noise = alphas.sqrt(), (1 - alphas).sqrt()
        self._loss: Callable[..., Tensor] = (
            torch.compile(self._error, mode="reduce-overhead", fullgraph=True) if compiled else self._error
        )

    def step(self, images: Tensor, classes: Tensor, share: float) -> Tensor:
        """One step at some share of the time; returns its loss."""
        warm = min(1.0, (self.steps + 1) / WARM_UP)
        fallen = 1.0 if share < 1 - FALL else 0.5 * (1 + math.cos(math.pi * (share - 1 + FALL) / FALL))
        for group in self.optimiser.param_groups:
            group["lr"] = self.peak * warm * fallen
        count, device = len(images), images.device
        timestep = torch.randint(len(self._signal), (count,), device=device)
        told = classes.where(torch.rand(count, device=device) >= UNTOLD, len(CLASSES))
        loss = self._loss(images, timestep, told, torch.randn_like(images))
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), CLIP)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.steps += 1
        if self.steps % AVERAGED_EVERY == 0:
            self._update_average()
        return loss.detach().clone()  # a replayed step writes into the same memory again

    def export(self, folder: Path) -> None:
        """Write the averaged weights in half precision, as diffusers does."""
        module = build_transformer(self.module.config)
        module.load_state_dict(self.average)
        module.half().save_pretrained(folder, max_shard_size=SHARDS)

    def state(self) -> dict[str, object]:
        """All that goes on."""
        return {
            "steps": self.steps,
            "module": self.module.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
        }

    def resume(self, path: Path) -> float:
        """Go on from a checkpoint, if there is one; returns the seconds that have passed."""
        state = load_checkpoint(path, next(self.module.parameters()).device)
        if state is None:
            return 0.0
        self.module.load_state_dict(state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average, self.steps = state["average"], state["steps"]
        torch.manual_seed(self.steps)
        print(f"going on from step {self.steps}, minute {state['elapsed'] / 60:.1f}", flush=True)
        return float(state["elapsed"])

    def _error(self, images: Tensor, timestep: Tensor, classes: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error of v = signal * noise - noise_level * image."""
        signal, level = (table[timestep][:, None, None, None] for table in (self._signal, self._noise))
        with torch.autocast(images.device.type, torch.bfloat16):
            said = self.module(signal * images + level * noise, timestep=timestep, class_labels=classes).sample
        return nn.functional.mse_loss(said.float(), signal * noise - level * images)

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(0.9995, (self.steps + 1) / (self.steps + 20)) ** AVERAGED_EVERY
        now = self.module.state_dict()
        torch._foreach_lerp_(list(self.average.values()), [now[name] for name in self.average], 1 - decay)


if __name__ == "__main__":
    run(train_dit)

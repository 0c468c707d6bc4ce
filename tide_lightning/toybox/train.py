"""`python -m tide_lightning.toybox.train`: make the miniature pipeline from nothing.

Renders, then trains the autoencoder, the text encoder, the transformer and the oracles, and exports. Every
part resumes where it stopped. `… train --out runs/toybox all` does everything; hours on two cores,
minutes on a GPU.
"""

import os
import warnings
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from jsonargparse import auto_cli
from transformers import T5EncoderModel

from tide_lightning.toybox.autoencoder import AutoencoderModule
from tide_lightning.toybox.caches import LatentCache, cache_images, cache_latents
from tide_lightning.toybox.denoiser import DenoiserModule
from tide_lightning.toybox.fitting import ToyModule, fit, load_average
from tide_lightning.toybox.text import TextModule, build_tokenizer, tokenize


class Training:
    """Train the toybox's pipeline and oracles.

    Args:
        out: Folder of caches and checkpoints; a run found there is resumed.
        num_scenes: Training scenes to render.
        seed: Seed of scenes, captions, weights and noise.
        precision: Lightning's precision.
        accelerator: Lightning's accelerator.
        threads: CPU threads; small matrices gain little from more than one.
    """

    def __init__(
        self,
        out: Path = Path("runs/toybox"),
        num_scenes: int = 65_536,
        seed: int = 0,
        precision: str = "bf16-mixed",
        accelerator: str = "auto",
        threads: int = 1,
    ) -> None:
        self.out = Path(out)
        self.num_scenes = num_scenes
        self.seed = seed
        self.precision = precision
        self.accelerator = accelerator
        torch.set_num_threads(threads)

    def vae(self, num_steps: int = 2400, batch_size: int = 16) -> None:
        """Train the autoencoder."""
        torch.manual_seed(self.seed)
        images = cache_images(self.out / "images.pt", self.num_scenes, seed=self.seed)
        module = AutoencoderModule(
            images, num_steps=num_steps, batch_size=batch_size, seed=self.seed
        )
        self._fit(module, "vae", steps_an_epoch=min(150, num_steps))

    def text(self, num_steps: int = 1500) -> None:
        """Train the text encoder."""
        torch.manual_seed(self.seed)
        module = TextModule(num_steps=num_steps, seed=self.seed)
        self._fit(module, "text", steps_an_epoch=min(100, num_steps))

    def transformer(
        self,
        num_steps: int = 25_000,
        batch_size: int = 64,
        num_layers: int = 8,
        compile_network: bool = False,
        steps_an_epoch: int = 250,
    ) -> None:
        """Train the transformer on the latents of the averaged autoencoder.

        Args:
            num_steps: Total; a resumed run may be given another.
            batch_size: Images a step.
            num_layers: Transformer blocks.
            compile_network: Fuse the pointwise parts with torch.compile.
            steps_an_epoch: Steps between two checkpoints.
        """
        torch.manual_seed(self.seed)
        cache = self.latents()
        tokenizer = build_tokenizer()
        module = DenoiserModule(
            cache,
            self.load_text_encoder(),
            tokenize(tokenizer, [""])[0],
            float(1 / cache.latents.float().std()),
            num_steps=num_steps,
            batch_size=batch_size,
            num_layers=num_layers,
            compile_network=compile_network,
            seed=self.seed,
        )
        self._fit(module, "transformer", steps_an_epoch=min(steps_an_epoch, num_steps))

    def latents(self) -> LatentCache:
        """The cached latents, computed where they are missing."""
        path = self.out / "latents.pt"
        images = cache_images(self.out / "images.pt", self.num_scenes, seed=self.seed)
        return cache_latents(path, images, self.load_vae(), build_tokenizer(), seed=self.seed)

    def load_vae(self) -> AutoencoderKL:
        """The averaged autoencoder of this folder."""
        module = AutoencoderModule(torch.empty(65, 3, 64, 64, dtype=torch.uint8))
        return load_average(module, self.out / "vae")

    def load_text_encoder(self) -> T5EncoderModel:
        """The averaged text encoder of this folder."""
        return load_average(TextModule(), self.out / "text").encoder

    def _fit(self, module: ToyModule, name: str, steps_an_epoch: int) -> None:
        fit(
            module,
            self.out / name,
            steps_an_epoch=steps_an_epoch,
            precision=self.precision,
            accelerator=self.accelerator,
        )


if __name__ == "__main__":
    auto_cli(Training)

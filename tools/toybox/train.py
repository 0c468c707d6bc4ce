"""`python -m tools.toybox.train`: make the miniature pipeline from nothing.

Renders, then trains the autoencoder, the text encoder, the transformer and the oracles, and exports. Every
part resumes where it stopped. `… train --out runs/toybox all` does everything; hours on two cores,
minutes on a GPU.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import T5EncoderModel

from tide_lightning.grounds.toybox import pipeline_path
from tide_lightning.grounds.toybox.oracle import ORACLES, build_oracle, save_oracle
from tide_lightning.grounds.toybox.prompts import write_prompt_files
from tools.command import run
from tools.toybox.autoencoder import AutoencoderModule, build_autoencoder
from tools.toybox.caches import LatentCache, cache_images, cached, encode_captions, encode_images
from tools.toybox.denoiser import DenoiserModule, build_transformer
from tools.toybox.export import assemble, export
from tools.toybox.fitting import ToyModule, fit, load_average, read_checkpoint
from tools.toybox.oracle_training import OracleModule, roughen_by_autoencoder
from tools.toybox.text import TextModule, TextReader, build_tokenizer


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
        gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        self.device = "cuda" if gpu else "cpu"  # of rendering and encoding; Lightning places the rest itself
        torch.set_num_threads(threads)

    def vae(self, num_steps: int = 2400, batch_size: int = 16) -> None:
        """Train the autoencoder."""
        torch.manual_seed(self.seed)
        images = cache_images(self.out / "images.pt", self.num_scenes, seed=self.seed, device=self.device)
        module = AutoencoderModule(images, num_steps=num_steps, batch_size=batch_size, seed=self.seed)
        self._fit(module, "vae", steps_an_epoch=min(150, num_steps))

    def text(self, num_steps: int = 1500) -> None:
        """Train the text encoder."""
        torch.manual_seed(self.seed)
        module = TextModule(num_steps=num_steps, seed=self.seed)
        self._fit(module, "text", steps_an_epoch=min(100, num_steps))

    def transformer(
        self,
        num_steps: int = 15_000,
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
        latents = self._latents(self._load_vae())
        captions = encode_captions(len(latents), self._load_text_encoder(), build_tokenizer(), seed=self.seed)
        module = DenoiserModule(
            LatentCache(latents, *captions),
            float(1 / latents.float().std()),
            num_steps=num_steps,
            batch_size=batch_size,
            num_layers=num_layers,
            compile_network=compile_network,
            seed=self.seed,
        )
        self._fit(module, "transformer", min(steps_an_epoch, num_steps))

    def oracles(self, num_steps: int = 4000, num_scenes: int = 24_576, num_rough: int = 8192) -> None:
        """Train both oracles on scenes of their own, some of them roughened by the autoencoder.

        Args:
            num_steps: Steps for each oracle.
            num_scenes: Scenes rendered for the oracles.
            num_rough: How many of them are seen through the autoencoder too.
        """
        folder = self.out / "oracles"
        images = cache_images(folder / "images.pt", num_scenes, split="oracle", seed=self.seed, device=self.device)
        rough = cached(
            folder / "rough.pt",
            lambda: roughen_by_autoencoder(self._load_vae(), images[:num_rough], seed=self.seed),
        )
        for name in ORACLES:
            torch.manual_seed(self.seed)
            module = OracleModule(name, images, rough, num_steps=num_steps, seed=self.seed)
            self._fit(module, f"oracle_{name}", steps_an_epoch=min(500, num_steps))

    def export(self, folder: Path | None = None) -> None:
        """Write pipeline, oracles and prompt files, into the package unless a folder is named.

        Args:
            folder: Where `pipeline`, `oracles` and `prompts` go.
        """
        target = pipeline_path().parent if folder is None else folder
        write_prompt_files(target / "prompts")
        if (self.out / "transformer" / "last.ckpt").exists():
            self._export_pipeline(target / "pipeline")
        for name in ORACLES:
            if (self.out / f"oracle_{name}" / "last.ckpt").exists():
                oracle = load_average(build_oracle(name), self.out / f"oracle_{name}")
                save_oracle(oracle, target / "oracles" / f"{name}.safetensors")

    def _export_pipeline(self, folder: Path) -> None:
        """Assemble and write the pipeline from the averaged weights."""
        vae = self._load_vae()
        latents = self._latents(vae)
        transformer = load_average(build_transformer(self._num_layers()), self.out / "transformer")
        export(
            assemble(
                vae,
                self._load_text_encoder(),
                transformer,
                build_tokenizer(),
                float(1 / latents.float().std()),
            ),
            folder,
        )

    def all(self) -> None:
        """Everything, in order, with the default sizes."""
        self.vae()
        self.text()
        self.transformer()
        self.oracles()
        self.export()

    def _latents(self, vae: AutoencoderKL) -> Tensor:
        """The cached latents, computed where they are missing."""
        images = cache_images(self.out / "images.pt", self.num_scenes, seed=self.seed, device=self.device)
        return cached(self.out / "latents.pt", lambda: encode_images(images, vae))[: self.num_scenes]

    def _load_vae(self) -> AutoencoderKL:
        """The averaged autoencoder of this folder."""
        return load_average(build_autoencoder(), self.out / "vae").to(self.device)

    def _load_text_encoder(self) -> T5EncoderModel:
        """The averaged text encoder of this folder."""
        return load_average(TextReader(), self.out / "text").encoder.to(self.device)

    def _num_layers(self) -> int:
        """How many blocks the checkpoint's transformer has."""
        state = read_checkpoint(self.out / "transformer")
        blocks = {key.split(".")[2] for key in state if key.startswith("ema.transformer_blocks.")}
        return len(blocks)

    def _fit(self, module: ToyModule, name: str, steps_an_epoch: int) -> None:
        fit(
            module,
            self.out / name,
            steps_an_epoch=steps_an_epoch,
            precision=self.precision,
            accelerator=self.accelerator,
        )


if __name__ == "__main__":
    run(Training)

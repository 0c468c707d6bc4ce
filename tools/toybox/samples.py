"""Samples of the averaged transformer in TensorBoard while it trains."""

import copy

import lightning as L
from diffusers import AutoencoderKL
from lightning.pytorch.callbacks import Callback
from transformers import PreTrainedTokenizerFast, T5EncoderModel

from tide_lightning.grounds.toybox.prompts import prompts
from tools.toybox.denoiser import DenoiserModule
from tools.toybox.evaluate import sample
from tools.toybox.export import assemble
from tools.toybox.grid import image_grid, log_grid


class LogSamples(Callback):
    """A grid of validation prompts and of the empty prompt, always from the same noise.

    Args:
        vae: Decodes the latents.
        text_encoder: Reads the prompts.
        tokenizer: Splits them.
        every: Epochs between two grids.
        num_prompts: Validation prompts in a grid; a third as many empty ones follow.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: T5EncoderModel,
        tokenizer: PreTrainedTokenizerFast,
        every: int = 8,
        num_prompts: int = 24,
    ) -> None:
        self.vae = vae
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.every = every
        self.num_prompts = num_prompts

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Sample on the CPU with copies: training's own state and randomness stay untouched."""
        if (trainer.current_epoch + 1) % self.every or not isinstance(module, DenoiserModule):
            return
        parts = copy.deepcopy((self.vae, self.text_encoder, module.ema))
        pipeline = assemble(*parts, self.tokenizer, module.scale)
        pipeline.set_progress_bar_config(disable=True)
        image = sample(pipeline, [*prompts(self.num_prompts, split="validation"), *[""] * (self.num_prompts // 3)])
        log_grid(module, "samples", image_grid(image, columns=8, scale=2))

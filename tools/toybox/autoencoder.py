"""The autoencoder: 64x64 pixels to 4 x 16 x 16 latents, and its training."""

from typing import Final

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from tools.toybox.fitting import ToyModule

KL_WEIGHT: Final = 3e-4  # of the mean KL divergence of a latent beside the mean squared error


def build_autoencoder(channels: tuple[int, int, int] = (16, 32, 64)) -> AutoencoderKL:
    """An untrained AutoencoderKL with two downsamplings."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )


class AutoencoderModule(ToyModule):
    """Reconstruction plus a light pull of the posterior towards the unit normal.

    Of the renders, uint8 [N, 3, H, W], the last 64 are kept for validation.
    """

    network: AutoencoderKL
    ema: AutoencoderKL

    def __init__(
        self,
        images: Tensor,
        *,
        num_steps: int,
        batch_size: int,
        seed: int = 0,
        channels: tuple[int, int, int] = (16, 32, 64),
    ) -> None:
        super().__init__(
            build_autoencoder(channels),
            num_steps=num_steps,
            learning_rate=2e-3,
            decay_share=0.6,
            ema_decay=0.995,
            seed=seed,
        )
        self.images = images
        self.batch_size = batch_size

    def training_step(self, _: int) -> Tensor:
        """One step on images drawn by the step number."""
        generator = self.generator()
        index = torch.randint(len(self.images) - 64, (self.batch_size,), generator=generator)
        image = self.images[index].to(self.device).float() / 127.5 - 1
        posterior = self.network.encode(image).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        decoded = self.network.decode(mean + (0.5 * logvar).exp() * noise).sample.float()
        error: Tensor = decoded - image
        kl: Tensor = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        mse = error.square().mean()
        # A share of absolute error keeps small objects from being averaged away.
        loss = mse + 0.1 * error.abs().mean() + KL_WEIGHT * kl
        self.log_dict({"psnr": -10 * torch.log10(mse.detach() / 4), "kl": kl.detach()})
        return loss

    def on_train_epoch_end(self) -> None:
        """How well the averaged weights keep held-out images."""
        held_out = self.images[-64:].to(self.device).float() / 127.5 - 1
        with torch.no_grad():
            again = self.ema.decode(self.ema.encode(held_out).latent_dist.mode()).sample
        psnr = -10 * torch.log10((again - held_out).square().mean() / 4)
        self.log("held_out_psnr", psnr)

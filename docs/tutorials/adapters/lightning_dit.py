"""LightningDiT (hustvl/LightningDiT) as released: 16x16 latents of 32 channels; time is reversed as in SiT."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from models.lightningdit import LightningDiT_models

from tide_lightning.diffusion import OwnDenoiser


class LightningDiT(OwnDenoiser):
    """Predicts velocity."""

    num_channels, default_latent_size, patch_shape = 32, (16, 16), (1, 1)
    timestep_divisor = 1000.0

    def make_module(self):
        size = {"input_size": 16, "in_channels": 32, "num_classes": 1000}
        released = {"use_swiglu": True, "use_rope": True, "use_rmsnorm": True}
        return LightningDiT_models["LightningDiT-XL/1"](**size, **released)

    def weights(self):
        return torch.load(self.pretrained, weights_only=True)["ema"]

    def make_scheduler(self):
        return FlowMatchEulerDiscreteScheduler(shift=1 / 0.3)

    def forward(self, x_t, raw_t, conditioning):
        return -super().forward(x_t, 1 - raw_t, conditioning)

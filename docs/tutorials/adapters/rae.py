"""RAE (bytetriper/RAE): a flow on the 16x16 tokens of DINOv2, times shifted by sqrt(16 x 16 x 768 / 4096)."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from stage2.models.DDT import DiTwDDTHead

from tide_lightning.diffusion import OwnDenoiser


class RAE(OwnDenoiser):
    """Predicts velocity."""

    num_channels, default_latent_size, patch_shape = 768, (16, 16), (1, 1)
    timestep_divisor = 1000.0

    def make_module(self):
        released = {"hidden_size": [1152, 2048], "depth": [28, 2], "num_heads": [16, 16]}
        return DiTwDDTHead(input_size=16, patch_size=1, in_channels=768, **released)

    def weights(self):
        return torch.load(self.pretrained, weights_only=True)

    def make_scheduler(self):
        return FlowMatchEulerDiscreteScheduler(shift=48**0.5)

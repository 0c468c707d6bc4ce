"""REPA (sihyun-yu/REPA): a SiT with noise at time 1, as here; it returns a tuple, the velocity first."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from models.sit import SiT_models

from tide_lightning.diffusion import OwnDenoiser


class REPA(OwnDenoiser):
    """Predicts velocity; the projections of a block's tokens behind it are dropped."""

    timestep_divisor = 1000.0

    def make_module(self):
        released = {"use_cfg": True, "z_dims": [768], "encoder_depth": 8}
        released |= {"fused_attn": True, "qk_norm": False}
        return SiT_models["SiT-XL/2"](input_size=32, num_classes=1000, **released)

    def weights(self):
        saved = torch.load(self.pretrained, weights_only=True)
        return saved.get("ema", saved)

    def make_scheduler(self):
        return FlowMatchEulerDiscreteScheduler()

    def forward(self, x_t, raw_t, conditioning):
        return self.module(x_t, raw_t, conditioning.extra["class_labels"])[0]

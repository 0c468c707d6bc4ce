"""SiT (willisma/SiT): its flow has noise at time 0 and data at 1, so time and velocity are reversed."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from models import SiT_models

from tide_lightning.diffusion import OwnDenoiser


class OriginalSiT(OwnDenoiser):
    """Predicts velocity."""

    timestep_divisor = 1000.0

    def make_module(self):
        return SiT_models["SiT-XL/2"](input_size=32, num_classes=1000, learn_sigma=True)

    def weights(self):
        return torch.load(self.pretrained, weights_only=True)

    def make_scheduler(self):
        return FlowMatchEulerDiscreteScheduler()

    def forward(self, x_t, raw_t, conditioning):
        return -super().forward(x_t, 1 - raw_t, conditioning)

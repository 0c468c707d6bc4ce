"""VDT (RERV/VDT): frames, and in its attention over time places, are folded into the batch."""

import torch
from diffusers import DDIMScheduler
from models import VDT_models

from tide_lightning.diffusion import Folding, OwnDenoiser


class OriginalVDT(OwnDenoiser):
    """Predicts noise; the learned variance behind it is dropped."""

    num_channels, num_classes = 4, 0
    default_latent_size, patch_shape = (16, 16, 16), (1, 2, 2)  # frames, rows, columns
    folded = {
        "blocks.*": Folding("(b f) n d -> b (f n) d", {"f": 16}),
        "blocks.*.temporal_attn": Folding("(b n) f d -> b (f n) d", {"f": 16}),
    }

    def make_module(self):
        video = {"mode": "video", "num_frames": 16}
        return VDT_models["VDT-L/2"](input_size=16, num_classes=1, **video)

    def weights(self):
        return torch.load(self.pretrained, weights_only=True)

    def make_scheduler(self):
        linear = {"beta_start": 1e-4, "beta_end": 0.02}
        return DDIMScheduler(**linear, clip_sample=False, timestep_spacing="trailing")

    def forward(self, x_t, raw_t, conditioning):
        frames_first, classes = x_t.transpose(1, 2), conditioning.extra["class_labels"]
        return self.module(frames_first, raw_t, classes).transpose(1, 2)[:, :4]

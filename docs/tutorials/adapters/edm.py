"""EDM (NVlabs/edm): told sigma, it predicts x_0 from x_0 + sigma noise; our schedules scale x_0 as well."""

import pickle

import torch
from diffusers import DDIMScheduler
from training.networks import EDMPrecond

from tide_lightning.diffusion import OwnDenoiser


class EDM(OwnDenoiser):
    """Predicts the image; edm-cifar10-32x32-cond-vp.pkl."""

    num_channels, default_latent_size, patch_shape = 3, (32, 32), (1, 1)
    num_classes = 10
    guidance = "none"  # it was never trained without a class

    def make_module(self):
        released = {"augment_dim": 9, "model_channels": 128}
        released |= {"channel_mult": [2, 2, 2], "model_type": "SongUNet"}
        return EDMPrecond(img_resolution=32, img_channels=3, label_dim=10, **released)

    def weights(self):
        with open(self.pretrained, "rb") as file:
            return pickle.load(file)["ema"].state_dict()

    def make_scheduler(self):
        first, last = 0.002 ** (1 / 7), 80 ** (1 / 7)
        sigma = torch.linspace(first, last, 1000, dtype=torch.float64) ** 7
        kept = 1 / (1 + sigma**2)
        betas = (1 - kept / torch.cat([torch.ones(1), kept[:-1]])).tolist()
        like = {"clip_sample": False, "timestep_spacing": "trailing"}
        return DDIMScheduler(trained_betas=betas, prediction_type="sample", **like)

    def forward(self, x_t, raw_t, conditioning):
        alpha, sigma = self.schedule.alpha_sigma(raw_t)
        classes = conditioning.extra["class_labels"]
        labels = torch.nn.functional.one_hot(classes, 11)[:, :10]
        return self.module(x_t / alpha.view(-1, 1, 1, 1), sigma / alpha, labels)

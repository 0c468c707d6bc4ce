"""How an oracle learns: renders, roughened in the ways in which generated images are rough."""

from typing import NamedTuple

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    conv2d,
    cross_entropy,
    pad,
)

from tide_lightning.grounds.toybox.factors import ABSENT, PLACES, Labels
from tide_lightning.grounds.toybox.oracle import OracleName, build_oracle
from tide_lightning.grounds.toybox.world import draw_scenes
from tools.toybox.fitting import ToyModule


class PlaceLabels(NamedTuple):
    """Labels by place instead of by slot, -1 where nothing stands, [B, P]."""

    shape: Tensor
    colour: Tensor
    size: Tensor
    distance: Tensor


def by_place(labels: Labels) -> PlaceLabels:
    """Sort the objects of each scene into the three places."""
    scene, slot = torch.nonzero(labels.shape != ABSENT, as_tuple=True)
    place = labels.place[scene, slot]

    def spread(factor: Tensor) -> Tensor:
        out = torch.full((len(factor), len(PLACES)), ABSENT, device=factor.device)
        out[scene, place] = factor[scene, slot]
        return out

    return PlaceLabels(*(spread(getattr(labels, name)) for name in PlaceLabels._fields))


@torch.no_grad()
def roughen_by_autoencoder(vae: AutoencoderKL, images: Tensor, *, noise: float = 0.1, seed: int = 0) -> Tensor:
    """Images through the autoencoder, with noisy latents, as uint8: what a sampler's images look like."""
    generator = torch.Generator().manual_seed(seed)
    pieces = []
    for piece in images.split(256):
        device_type = vae.device.type
        with torch.autocast(device_type, torch.bfloat16):
            latents = vae.encode(piece.to(vae.device).float() / 127.5 - 1).latent_dist.mode()
            strength = noise * torch.rand(len(piece), 1, 1, 1, generator=generator).to(latents)
            draw = torch.randn(latents.shape, generator=generator).to(latents)
            decoded = vae.decode(latents + strength * draw).sample
        pieces.append(decoded.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8).cpu())
    return torch.cat(pieces)


def roughen(image_B3HW: Tensor, generator: torch.Generator) -> Tensor:
    """Mild blur on some images, mild noise and a change of brightness on all."""
    batch = len(image_B3HW)
    kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = (kernel[:, None] * kernel).expand(3, 1, 3, 3).to(image_B3HW)
    blurred = conv2d(pad(image_B3HW, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
    u = torch.rand(3, batch, 1, 1, 1, generator=generator).to(image_B3HW)
    image = torch.where(u[0] < 0.3, blurred, image_B3HW)
    noise = torch.randn(image.shape, generator=generator).to(image)
    return (image * (0.94 + 0.12 * u[1]) + 0.08 * u[2] * noise).clamp(-1, 1)


class OracleModule(ToyModule):
    """Teach an oracle on renders of the first scenes of the split `oracle`, uint8 [N, 3, H, W].

    `rough` are the first of them again, through the autoencoder; a third of a batch comes from there.
    """

    def __init__(
        self,
        name: OracleName,
        images: Tensor,
        rough: Tensor,
        *,
        num_steps: int,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(
            build_oracle(name),
            num_steps=num_steps,
            learning_rate=2e-3,
            decay_share=0.6,
            ema_decay=0.998,
            seed=seed,
        )
        self.images = images
        self.rough = rough
        self.batch_size = batch_size
        self.labels, _ = draw_scenes("oracle", torch.arange(len(images)), seed)

    def training_step(self, _: int) -> Tensor:
        """One step on images drawn by the step number."""
        generator = self.generator()
        num_rough = self.batch_size // 3
        clean = torch.randint(len(self.images), (self.batch_size - num_rough,), generator=generator)
        again = torch.randint(len(self.rough), (num_rough,), generator=generator)
        image = torch.cat([self.images[clean], self.rough[again]]).to(self.device)
        logits = self.network(roughen(image.float() / 127.5 - 1, generator))
        labels = Labels(*(label.to(self.device) for label in self.labels.take(torch.cat([clean, again]))))
        places = by_place(labels)
        there = places.shape != ABSENT
        loss = binary_cross_entropy_with_logits(logits.presence, there.float())
        loss = loss + cross_entropy(logits.wall, labels.wall)
        loss = loss + cross_entropy(logits.light, labels.light)
        for factor, scores in logits.at_place.items():
            loss = loss + cross_entropy(scores[there], getattr(places, factor)[there])
        self.log("loss", loss.detach())
        return loss

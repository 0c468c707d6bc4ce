"""Training batches by step number: every epoch in an order of its own, the same whoever asks."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from tide_lightning.grounds.photos.sources import Photographs


class Batches:
    """Batches of photographs in [-1, 1] with their classes, mirrored in every other epoch.

    An epoch's last, smaller batch is left out; `shift` is by how many pixels images are moved both ways at most, and
    `cutout` the side of a square of grey that hides some part of each.
    """

    def __init__(
        self, photographs: Photographs, batch_size: int, seed: int = 0, shift: int = 0, cutout: int = 0
    ) -> None:
        self.photographs, self.batch_size, self.seed = photographs, batch_size, seed
        self.shift, self.cutout = shift, cutout
        self.steps_an_epoch = len(photographs.images) // batch_size
        if not self.steps_an_epoch:
            raise ValueError(f"{len(photographs.images)} photographs do not fill a batch of {batch_size}")

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """A step's images and classes."""
        images, classes = self.photographs
        epoch, place = divmod(step, self.steps_an_epoch)
        generator = _generator(self.seed, 2 * epoch)
        order = torch.randperm(len(images), generator=generator)
        chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
        mirrored = (chosen * 2654435761 // 1024 + epoch) % 2 == 0  # a coin an image, turned over every epoch
        here = chosen.to(images.device)
        batch = images[here]
        generator = _generator(self.seed, 2 * step + 1)
        if self.shift:
            batch = _shifted(batch, self.shift, generator)
        batch = torch.where(mirrored.to(images.device)[:, None, None, None], batch.flip(-1), batch)
        batch = batch.float() / 127.5 - 1
        return _cut_out(batch, self.cutout, generator) if self.cutout else batch, classes[here]


def _generator(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + number)


def _shifted(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Each image moved by so many pixels at most; what is uncovered mirrors its border."""
    padded = pad(images.float(), (most,) * 4, mode="reflect").to(images.dtype)
    views = padded.unfold(2, images.shape[2], 1).unfold(3, images.shape[3], 1)
    down, right = torch.randint(0, 2 * most + 1, (2, len(images)), generator=generator).to(images.device)
    return views[torch.arange(len(images), device=images.device), :, down, right]


def _cut_out(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Each image with one square of it grey; its middle lies anywhere, so it may reach over the border."""
    middles = [torch.randint(0, size, (len(images), 1), generator=generator) for size in images.shape[2:]]
    rows, columns = (
        ((place := torch.arange(size)) >= middle - side // 2) & (place < middle - side // 2 + side)
        for size, middle in zip(images.shape[2:], middles, strict=True)
    )
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None].to(images.device), 0.0)

"""Images side by side."""

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.nn.functional import pad


def image_grid(image_B3HW: Tensor, columns: int = 8, scale: int = 1) -> Tensor:
    """Images in [-1, 1] as one uint8 picture [H, W, 3], each pixel repeated `scale` times."""
    image = image_B3HW.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    image = image.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    rows = -(-len(image) // columns)
    image = pad(image, (1, 1, 1, 1), value=255)
    image = torch.cat([image, image.new_full((rows * columns - len(image), *image.shape[1:]), 255)])
    grid = image.unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2)
    picture: Tensor = grid.flatten(0, 1).flatten(1, 2).cpu()
    return picture


def log_grid(module: L.LightningModule, name: str, picture: Tensor) -> None:
    """Show a picture in TensorBoard, where the trainer has it."""
    if isinstance(module.logger, TensorBoardLogger):
        module.logger.experiment.add_image(name, picture.numpy(), module.global_step, dataformats="HWC")

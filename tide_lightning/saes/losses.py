"""The training loss: mean squared error of the normalised activation plus AuxK for dead latents."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tide_lightning.saes.tide import SAEOutput


class Loss(NamedTuple):
    """What is minimised and its parts.

    Fields:
        total: reconstruction + alpha * auxk.
        reconstruction: mean over tokens and channels of (u - u_hat)^2.
        auxk: mean of (e - W_dec^T z_dead)^2, how well the dead latents alone explain what was left over; 0 where no
            latent is dead.
    """

    total: Tensor
    reconstruction: Tensor
    auxk: Tensor


def training_loss(output: SAEOutput, alpha: float = 1 / 32) -> Loss:
    """The loss of one batch.

    Args:
        output: of `sae.forward`, with AuxK where the dead latents were named there.
        alpha: weight of AuxK.
    """
    with torch.autocast(output.u.device.type, enabled=False):
        error = output.u - output.u_hat
        reconstruction = error.square().mean()
        if output.aux_hat is None:
            return Loss(reconstruction, reconstruction, reconstruction.new_zeros(()))
        auxk = (error.detach() - output.aux_hat.to(error.dtype)).square().mean()
        return Loss(reconstruction + alpha * auxk, reconstruction, auxk)

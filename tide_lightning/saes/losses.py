"""The training loss: mean squared error of what is encoded, the SAE's own penalties, AuxK for dead latents."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tide_lightning.saes.sae import SAEOutput


class Loss(NamedTuple):
    """What is minimised and its parts.

    Fields:
        total: reconstruction + alpha * auxk + all penalties.
        reconstruction: mean over tokens and channels of (u - u_hat)^2.
        auxk: mean of (e - W_dec^T z_dead)^2, how well the dead latents alone explain what was left over; 0 where no
            latent is dead.
        penalties: of the SAE's class, by name and with their weights.
    """

    total: Tensor
    reconstruction: Tensor
    auxk: Tensor
    penalties: dict[str, Tensor]

    def named(self) -> dict[str, Tensor]:
        """All figures, as they are logged."""
        parts = {"loss": self.total, "reconstruction": self.reconstruction, "auxk": self.auxk}
        return {name: part.detach() for name, part in (parts | self.penalties).items()}


def training_loss(output: SAEOutput, alpha: float = 1 / 32) -> Loss:
    """The loss of one batch.

    Args:
        output: of `sae.forward`, with AuxK where the dead latents were named there.
        alpha: weight of AuxK.
    """
    with torch.autocast(output.u.device.type, enabled=False):
        error = output.u - output.u_hat
        reconstruction, auxk = error.square().mean(), error.new_zeros(())
        total = reconstruction
        for penalty in output.penalties.values():
            total = total + penalty
        if output.aux_hat is not None:
            auxk = (error.detach() - output.aux_hat.to(error.dtype)).square().mean()
            total = total + alpha * auxk
    return Loss(total, reconstruction, auxk, output.penalties)

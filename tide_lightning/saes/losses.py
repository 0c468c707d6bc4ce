"""The training loss: mean squared error of the normalised activation plus AuxK for dead latents."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tide_lightning.kernels import decode, topk
from tide_lightning.saes.tide import SAEOutput, TideSAE


class Loss(NamedTuple):
    """What is minimised and its parts.

    Fields:
        total: reconstruction + alpha * auxk.
        reconstruction: mean over tokens and channels of (u - u_hat)^2.
        auxk: mean of (e - W_dec^T z_dead)^2, 0 where no latent is dead.
    """

    total: Tensor
    reconstruction: Tensor
    auxk: Tensor


def training_loss(
    sae: TideSAE, output: SAEOutput, dead: Tensor | None, k_aux: int | None = None, alpha: float = 1 / 32
) -> Loss:
    """The loss of one batch.

    Args:
        sae: whose output it is.
        output: of `sae.forward`.
        dead: boolean [d_sae], the latents that did not fire for long; None where there are none.
        k_aux: how many dead latents try to explain a token's error; half of d_in unless given.
        alpha: weight of AuxK.
    """
    with torch.autocast(output.u.device.type, enabled=False):
        error = output.u - output.u_hat
        reconstruction = error.square().mean()
    if dead is None:
        return Loss(reconstruction, reconstruction, reconstruction.new_zeros(()))
    auxk = _auxk(sae, output.pre, error.detach(), dead, k_aux or max(1, sae.d_in // 2))
    return Loss(reconstruction + alpha * auxk, reconstruction, auxk)


def _auxk(sae: TideSAE, pre: Tensor, error: Tensor, dead: Tensor, k_aux: int) -> Tensor:
    """How well the dead latents alone explain what was left over (eq. AuxK).

    Where fewer than k_aux latents are dead, the others are chosen with value 0 and contribute nothing.
    """
    values, indices = topk(pre.where(dead, 0), min(k_aux, sae.d_sae))
    explained = decode(values.to(sae.W_dec.dtype), indices, sae.W_dec, backend=sae.decode_backend)
    with torch.autocast(error.device.type, enabled=False):
        return (error - explained.to(error.dtype)).square().mean()

"""The metric in which errors are measured: plain, or partly by how much the denoiser cares."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tide_lightning.reduction import all_reduce_sum


class FidelityMetric(nn.Module):
    """A symmetric map P with P^2 = (1 - weight) I + weight M, M the denoiser's sensitivity at mean eigenvalue 1.

    The SAE works on u P and its output is mapped back by P^-1. So its squared error is an average of the plain one and
    of what the error does to the denoiser's loss, and latents go first where the denoiser looks.

    Args:
        d_in: channels.
        weight: 0 leaves everything as it is, 1 counts nothing but the denoiser's loss.
    """

    forward_map: Tensor
    backward_map: Tensor

    def __init__(self, d_in: int, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.register_buffer("forward_map", torch.eye(d_in))
        self.register_buffer("backward_map", torch.eye(d_in))

    def into(self, u: Tensor) -> Tensor:
        """A residual in the metric: u P."""
        return u @ self.forward_map

    def back(self, u: Tensor) -> Tensor:
        """The residual of one in the metric: u P^-1."""
        return u @ self.backward_map

    @torch.no_grad()
    def fit(self, sensitivity: Tensor, u: Tensor) -> None:
        """Set P.

        Args:
            sensitivity: E[J' J] [d, d].
            u: normalised activations [B, d] of this rank; u P gets mean square 1 over all ranks'.
        """
        sensitivity = sensitivity.double()
        eye = torch.eye(len(sensitivity), dtype=torch.float64, device=sensitivity.device)
        level = sensitivity.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
        values, vectors = torch.linalg.eigh((1 - self.weight) * eye + self.weight * sensitivity / level)
        roots = values.clamp(min=1e-4).sqrt()  # bounds P^-1 where the weight is 1
        mapped = u.double() @ (vectors * roots) @ vectors.mT
        sums = all_reduce_sum(torch.stack([mapped.square().sum(), mapped.new_tensor(float(mapped.numel()))]))
        roots = roots / (sums[0] / sums[1]).sqrt().clamp(min=1e-12)
        self.forward_map.copy_((vectors * roots) @ vectors.mT)
        self.backward_map.copy_((vectors / roots) @ vectors.mT)

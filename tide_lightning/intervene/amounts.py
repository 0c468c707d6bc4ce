"""How far a latent's amount moves an activation.

Shapes: F latents, D channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tide_lightning.saes import SAE, SparseCode
from tide_lightning.tokens import TokenBatch


@torch.no_grad()
def effects(sae: SAE) -> Tensor:
    """What each latent adds to an activation, in its own units, at an amount of 1 [F, D]; see `SAE.unit_at`.

    Asked of the decoder itself at t = 1/2, so that a metric or an un-modulation counts: they bend the stored rows.
    """
    num, device = sae.d_sae, sae.W_dec.device
    shape = sae.shape

    def zeros(*size: int) -> Tensor:
        return torch.zeros(num, *size, device=device)

    flag = zeros().to(torch.int8)
    tokens = TokenBatch(
        x=zeros(shape.d_in),
        t=zeros() + 0.5,
        raw_t=zeros(),
        position=zeros(len(shape.grid)).long(),
        sample=zeros().long(),
        input=zeros(shape.d_input),
        half=flag,
        source=flag,
        window=zeros(shape.d_window) if shape.d_window else None,
        noise=zeros(shape.d_input),
        trajectory_noise=zeros(shape.d_input),
    )
    one = SparseCode(sae.unit_at(tokens.t).contiguous(), torch.arange(num, device=device).unsqueeze(1), num)
    return sae.added(one, **tokens.context()).float()


@torch.no_grad()
def full_amounts(sae: SAE) -> Tensor:
    """The amount at which each latent adds as much as tokens hold besides the known part, in the root mean square [F].

    A measure of pushes that means the same whatever an SAE's metric and scales.
    """
    rest = (sae.known.scale.square().mean() * sae.d_in).sqrt()
    amounts: Tensor = rest / effects(sae).norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    return amounts

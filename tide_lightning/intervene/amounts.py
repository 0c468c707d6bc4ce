"""How far a latent's amount moves an activation.

Shapes: F latents, D channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tide_lightning.saes import SAE, SparseCode
from tide_lightning.tokens import TokenContext


@torch.no_grad()
def effects(sae: SAE) -> Tensor:
    """What each latent adds to an activation, in its own units, at an amount of 1 [F, D]; see `SAE.unit_at`.

    Asked of the decoder itself at t = 1/2, so that a metric or an un-modulation counts: they bend the stored rows.
    """
    num, device = sae.d_sae, sae.W_dec.device
    context = TokenContext.blank(sae.shape, torch.full((num,), 0.5, device=device))
    one = SparseCode(sae.unit_at(context.t).contiguous(), torch.arange(num, device=device).unsqueeze(1), num)
    return sae.added(one, context).float()


@torch.no_grad()
def full_amounts(sae: SAE) -> Tensor:
    """The amount at which each latent adds as much as tokens hold besides the known part, in the root mean square [F].

    A measure of pushes that means the same whatever an SAE's metric and scales.
    """
    rest = (sae.known.scale.square().mean() * sae.d_in).sqrt()
    amounts: Tensor = rest / effects(sae).norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    return amounts

"""What an SAE takes in use besides its latents: numbers that pass them by, and operations a token.

Shapes: D channels, F latents.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from tide_lightning.saes.pursuit import PRODUCTS_A_FIT
from tide_lightning.saes.sae import SAE


class Cost(NamedTuple):
    """Of encoding and decoding one token.

    Fields:
        numbers_besides_latents: that are read from the token itself and reach its reconstruction past the latents: what
            the known part is told of input or noise. Time and place, which are the same whatever is seen, are none.
        encoder_products: multiplications, over those of one product with the encoder's weights (D F).
    """

    numbers_besides_latents: int
    encoder_products: float


def cost_of(sae: SAE) -> Cost:
    """In closed form, with k latents a token."""
    d, latents, known = sae.d_in, sae.d_sae, sae.known
    num_bins, num_features, _ = known.weight.shape
    fits = (sae.pursuits + 1) * PRODUCTS_A_FIT if sae.pursuits else 0
    sparse = sae.k * d * (1 + sae.refinements + sae.pursuits + fits)  # decoded to see what is left, and fitted
    small = known.estimator.numel() + num_bins * num_features * d + _products(sae.modulation)
    metric = 0 if sae.metric is None else 2 * d * d
    return Cost(num_features, sae.dense_products + (sparse + small + metric) / (d * latents))


def _products(module: nn.Module | None) -> int:
    return 0 if module is None else sum(each.numel() for each in module.parameters() if each.ndim == 2)

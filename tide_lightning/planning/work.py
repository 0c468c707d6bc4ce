"""What a denoiser's forward and an SAE's step have to do: parameters, floating-point operations, bytes.

A multiplication and an addition are two operations. Everything is found on the meta device: no weights are loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tide_lightning.diffusion import Denoiser, Site
from tide_lightning.saes import SAE, KnownStatistics
from tide_lightning.saes.pursuit import PRODUCTS_A_FIT

ADAM_BYTES = 28
"""Fused Adam reads weight, gradient and two moments and writes all but the gradient, in float32."""
SPHERE_BYTES = 24
"""A decoder's weight is normalised (read, read, written), its gradient projected (both read twice, one written)."""
ROW_BYTES = 28
"""Moved per channel of an active latent: decoded, its value's gradient, and the gradients of both of its rows."""


@dataclass(frozen=True)
class DenoiserWork:
    """One sample's forward.

    Args:
        parameters: of the transformer.
        forward: operations of a whole forward.
        stopped: operations of a forward that ends after the last site.
        width: of the widest site, for an idea of the memory that a forward takes.
    """

    parameters: int
    forward: int
    stopped: int
    width: int


@dataclass(frozen=True)
class SAEWork:
    """One SAE's training step.

    Args:
        parameters: trained.
        buffers: bytes of what is kept besides (the known part's means and maps).
        calibration: bytes of the sums from which these are fitted, needed before the first step only.
        latents: d_sae.
        products: operations per token in dense products; the encoder's is most of it.
        gathers: operations per token on the rows of active latents.
        row_bytes: bytes per token moved for these rows.
        step_bytes: bytes per step moved over all weights by the optimiser and the decoder's normalisation.
    """

    parameters: int
    buffers: int
    calibration: int
    latents: int
    products: int
    gathers: int
    row_bytes: int
    step_bytes: int

    @property
    def operations(self) -> int:
        """Per token."""
        return self.products + self.gathers


@torch.no_grad()
def denoiser_work(denoiser: Denoiser, sites: Sequence[Site]) -> DenoiserWork:
    """Counted on a described denoiser, with a prompt of the greatest length."""
    widths = denoiser.site_widths(sites)
    conditioning = denoiser.blank_conditioning(denoiser.zeros(1, *denoiser.prompt_shape))
    x_t, raw_t = denoiser.zeros(1, *denoiser.latent_shape), torch.zeros(1, device=denoiser.device)
    with FlopCounterMode(display=False) as whole:
        denoiser.forward(x_t, raw_t, conditioning)
    with FlopCounterMode(display=False) as stopped, denoiser.record(sites, stop_early=True):
        denoiser.forward(x_t, raw_t, conditioning)
    parameters = sum(parameter.numel() for parameter in denoiser.module.parameters())
    return DenoiserWork(parameters, whole.get_total_flops(), stopped.get_total_flops(), max(widths.values()))


def sae_work(sae: SAE) -> SAEWork:
    """In closed form: an encoder product and sparse products with k rows a token, as often as the code is made.

    The sparse ones are the decoder's forward, the gradient of the code, and the gradients of both weights and of the
    encoder's input; a pursuit's are those of its fits, and the decoder's once more. AuxK adds to them while latents are
    dead.
    """
    d, latents = sae.d_in, sae.d_sae
    passes = 1 + sae.refinements
    fits = sae.pursuits + 1 if sae.pursuits else 0
    sparse = 5 * passes + fits * PRODUCTS_A_FIT + (2 + sae.pursuits if fits else 0)
    known = sae.known
    with torch.device("meta"):
        statistics = KnownStatistics(known)
    known_products = 2 * (known.estimator.numel() + known.weight.shape[0] * known.weight.shape[1] * d)
    small = sum(part.numel() for part in _weights(sae.modulation))
    metric = 0 if sae.metric is None else 2 * 2 * d * d
    step_bytes = ADAM_BYTES * _count(sae) + SPHERE_BYTES * latents * d
    return SAEWork(
        parameters=_count(sae),
        buffers=sum(buffer.nbytes for buffer in sae.buffers()),
        calibration=sum(buffer.nbytes for buffer in statistics.buffers()),
        latents=latents,
        products=(passes + sae.pursuits) * 2 * d * latents + known_products + 3 * 2 * small + metric,
        gathers=sparse * 2 * d * sae.k,
        row_bytes=round(sparse * ROW_BYTES / 5 * d * sae.k),
        step_bytes=step_bytes,
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def _weights(module: nn.Module | None) -> list[nn.Parameter]:
    return [] if module is None else [parameter for parameter in module.parameters() if parameter.ndim == 2]

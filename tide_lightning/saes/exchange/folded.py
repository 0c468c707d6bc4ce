"""One of our SAEs as other libraries know them: an encoder and a decoder of x itself, and an activation.

At one time t all that ours do around the code is affine: u = ((x - m) / s) P, u_mod = u g + h, and
x_hat = m + s u_hat P^-1 with u_hat un-modulated or not. So, with everything by rows,

    W_enc' = (W_enc g) P^T / s        b_enc' = b_enc + W_enc (h - b_dec) + W_enc' (b_dec' - m)
    W_dec' = s (W_dec / g) P^-1       b_dec' = m + s ((b_dec - h) / g) P^-1

where g = 1 and h = 0 in the second line unless the SAE un-modulates. Without modulation b_enc' = b_enc. The activation
and its threshold stay as they are. Refinement and pursuit have no counterpart: what is folded then is the encoder's own
code.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tide_lightning.saes.exchange.described import Weights


class Folded(NamedTuple):
    """An SAE of x, or of what is left of x; one of the activations is given.

    Fields:
        weights: z is made of W_enc (x - b_dec) + b_enc, and x_hat = W_dec^T z + b_dec.
        k: the k largest of a token are kept; or
        threshold: what exceeds it is kept [F]; or
        gate: r_mag and b_mag, where gates and magnitudes differ.
    """

    weights: Weights
    k: int | None = None
    threshold: Tensor | None = None
    gate: tuple[Tensor, Tensor] | None = None


class Around(NamedTuple):
    """What an SAE does around its code at one time, in float64.

    Fields:
        mean: m [D].
        scale: s.
        into: P [D, D], or None.
        back: P^-1, or None.
        gain: g [D].
        shift: h [D].
        unmodulates: whether decoding undoes g and h.
    """

    mean: Tensor
    scale: Tensor
    into: Tensor | None
    back: Tensor | None
    gain: Tensor
    shift: Tensor
    unmodulates: bool


def fold(own: Weights, around: Around, gate: tuple[Tensor, Tensor] | None = None) -> Folded:
    """The weights of the same SAE of x; float64 within, float32 out."""
    W_enc, b_enc, W_dec, b_dec = (part.double() for part in (own.W_enc, own.b_enc, own.W_dec, own.b_dec))
    m, s, g, h = around.mean, around.scale, around.gain, around.shift
    reads = W_enc * g if around.into is None else (W_enc * g) @ around.into.mT
    reads = reads / s
    offset = b_dec
    if around.unmodulates:
        W_dec, offset = W_dec / g, (b_dec - h) / g
    writes, offset = (W_dec, offset) if around.back is None else (W_dec @ around.back, offset @ around.back)
    centre = m + s * offset
    raised = W_enc @ (h - b_dec) + reads @ (centre - m)
    if gate is not None:
        r_mag, b_mag = (part.double() for part in gate)
        gate = r_mag.float(), (b_mag + r_mag.exp() * raised).float()
    parts = (reads, b_enc + raised, s * writes, centre)
    return Folded(Weights(*(part.float().contiguous() for part in parts)), gate=gate)


def no_change(like: Tensor) -> tuple[Tensor, Tensor]:
    """A gain of 1 and a shift of 0, for as many channels."""
    return torch.ones_like(like, dtype=torch.float64), torch.zeros_like(like, dtype=torch.float64)

"""Outputs of SAEs that do something simple."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tide_lightning.saes import SAEOutput, SparseCode, TideSAE
from tide_lightning.tokens import SiteShape, TokenBatch, TokenContext

SHAPE = SiteShape(d_in=6, grid=(2, 2), d_input=3)


def make_sae(k: int = 2, d_in: int = 6, **arguments: object) -> TideSAE:
    shape = replace(SHAPE, d_in=d_in)
    return TideSAE(shape, expansion_factor=2, k=k, **({"known_part": "mean_t"} | arguments))  # type: ignore[arg-type]


def make_tokens(x: Tensor, seed: int = 0) -> TokenBatch:
    """Tokens with these activations, four to a sample."""
    draw = torch.Generator().manual_seed(seed)
    number = torch.arange(len(x))
    t = torch.rand(-(-len(x) // 4), generator=draw).repeat_interleave(4)[: len(x)]
    kind = torch.zeros(len(x), dtype=torch.int8)
    return TokenBatch(
        x=x,
        context=TokenContext(
            t,
            torch.stack([number % 4 // 2, number % 2], 1),
            torch.randn(len(x), SHAPE.d_input, generator=draw),
        ),
        raw_t=t * 999,
        sample=number // 4,
        half=kind,
        source=kind,
    )


def make_output(
    tokens: TokenBatch, x_hat: Tensor, known: Tensor | None = None, values: Tensor | None = None, d_sae: int = 12
) -> SAEOutput:
    """An output with this reconstruction; every token's latents are 0 and 1 with these values [B, 2]."""
    if values is None:
        values = torch.ones(len(tokens), 2)
    code = SparseCode(values, torch.arange(2).expand(len(tokens), 2), d_sae)
    known = torch.zeros_like(x_hat) if known is None else known
    return SAEOutput(x_hat, known, tokens.x, x_hat, code, {}, [code])

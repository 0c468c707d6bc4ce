"""Matching pursuit against itself written out densely in float64, and what it does at the edges."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.saes.synthetic import SHAPE, double, tokens
from tide_lightning.saes import MatchingPursuitSAE, training_loss
from tide_lightning.saes.cost import cost_of

PLAIN: dict[str, Any] = {"expansion_factor": 4, "known_part": "mean", "modulation": "none"}


def made(k: int, **changes: Any) -> MatchingPursuitSAE:
    torch.manual_seed(0)
    settings: dict[str, Any] = PLAIN | {"k": k} | changes
    sae = MatchingPursuitSAE(SHAPE, **settings)
    with torch.no_grad():
        sae.b_dec.normal_(std=0.1)
    return sae


def dense(u_ND: Tensor, W_FD: Tensor, b_D: Tensor, k: int) -> Tensor:
    """Codes [N, F]."""
    left, codes = u_ND - b_D, u_ND.new_zeros(len(u_ND), len(W_FD))
    for _ in range(k):
        best = (left @ W_FD.T).argmax(1)
        chosen = torch.nn.functional.one_hot(best, len(W_FD)).to(u_ND.dtype)
        step = chosen * (left @ W_FD.T).relu()
        codes, left = codes + step, left - step @ W_FD
    return codes


@pytest.mark.parametrize("k", [1, 5, SHAPE.d_in + 3])
def test_codes_loss_and_gradients_are_the_dense_ones(k: int) -> None:
    sae, batch = made(k).double(), double(tokens(40, rest=1.0))
    output = sae(batch)
    W, b = (parameter.detach().clone().requires_grad_() for parameter in (sae.W_dec, sae.b_dec))
    codes = dense(output.u.detach(), W, b, k)
    torch.testing.assert_close(output.code.to_dense(), codes, rtol=1e-8, atol=1e-10)
    loss = (output.u.detach() - codes @ W - b).square().mean()
    torch.testing.assert_close(training_loss(output).total, loss, rtol=1e-8, atol=1e-10)
    training_loss(output).total.backward()
    loss.backward()
    torch.testing.assert_close(sae.W_dec.grad, W.grad, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(sae.b_dec.grad, b.grad, rtol=1e-6, atol=1e-9)


def test_a_latent_found_again_fires_once() -> None:
    sae = made(SHAPE.d_in, expansion_factor=1)
    code = sae.encode(tokens(40, rest=1.0).x)
    for latents, values in zip(code.indices, code.values, strict=True):
        fired = latents[values > 0]
        assert len(fired) == len(fired.unique())


def test_empty_batches_and_half_precision() -> None:
    sae = made(3).eval()
    assert sae(tokens(0, rest=1.0)).x_hat.shape == (0, SHAPE.d_in)
    batch = tokens(20, rest=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        near = sae(batch).x_hat
    torch.testing.assert_close(near.float(), sae(batch).x_hat, rtol=0.1, atol=0.2)


def test_there_is_no_encoder() -> None:
    sae = made(3)
    assert set(dict(sae.named_parameters())) == {"W_dec", "b_dec"}
    assert sae.by_latent() == [sae.W_dec]
    assert 3 < cost_of(sae).encoder_products < 4
    row = torch.nn.functional.normalize(torch.randn(1, SHAPE.d_in), dim=1)
    sae.reseed(torch.tensor([2]), torch.zeros(1, SHAPE.d_in), row)
    assert torch.equal(sae.W_dec[2], row[0])

"""The AuxK loss and the decoder's gradient against explicit dense formulas in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.saes.synthetic import SHAPE, tokens
from tide_lightning.saes import SAEOutput, TideSAE, training_loss
from tide_lightning.tokens import TokenBatch

ALPHA = 1 / 32


@pytest.fixture
def sae() -> TideSAE:
    torch.manual_seed(0)
    sae = TideSAE(SHAPE, expansion_factor=3, k=4, known_part="mean_t", modulation="zero").double()
    with torch.no_grad():
        assert sae.modulation is not None
        sae.modulation.out.weight.normal_(std=0.05)
        sae.b_enc.normal_(std=0.1)
        sae.b_dec.normal_(std=0.1)
        sae.W_enc.add_(0.1 * torch.randn_like(sae.W_enc))
    sae.normalise_decoder()
    return sae


@pytest.fixture
def batch() -> TokenBatch:
    batch = tokens(64, seed=1, input=1.0, rest=1.0)
    return replace(batch, x=batch.x.double())


@pytest.fixture
def dead(sae: TideSAE) -> Tensor:
    return torch.arange(0, sae.d_sae, 5)


def explicit_auxk(sae: TideSAE, batch: TokenBatch, output: SAEOutput, dead: Tensor, k_aux: int) -> Tensor:
    """mean (e - W_dec^T z_dead)^2, token by token."""
    assert sae.modulation is not None
    error = (output.u - output.u_hat).detach()
    scale, shift = sae.modulation(batch.t)
    pre_dead = (output.u * scale + shift - sae.b_dec) @ sae.W_enc.T + sae.b_enc
    is_dead = torch.zeros(sae.d_sae, dtype=error.dtype).index_fill(0, dead, 1)
    total = error.new_zeros(())
    for row in range(len(error)):
        pre = pre_dead[row].relu() * is_dead
        best = pre.argsort(descending=True)[:k_aux]
        total = total + (error[row] - pre[best] @ sae.W_dec[best]).square().sum()
    return total / error.numel()


def gradients(sae: TideSAE, loss: Tensor) -> dict[str, Tensor]:
    sae.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in sae.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("k_aux", [3, 50])  # 50: more than are dead
def test_value_and_all_gradients(sae: TideSAE, batch: TokenBatch, dead: Tensor, k_aux: int) -> None:
    loss = training_loss(sae(batch, dead, k_aux), ALPHA)
    reference = sae(batch)
    auxk = explicit_auxk(sae, batch, reference, dead, k_aux)
    explicit = (reference.u - reference.u_hat).square().mean() + ALPHA * auxk
    torch.testing.assert_close(loss.total, loss.reconstruction + ALPHA * loss.auxk)
    torch.testing.assert_close(loss.total.double(), explicit, rtol=1e-5, atol=1e-6)  # errors are taken in float32
    ours, theirs = gradients(sae, loss.total), gradients(sae, explicit)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-7, msg=name)


def test_reaches_the_dead_latents_and_no_others(sae: TideSAE, batch: TokenBatch, dead: Tensor) -> None:
    found = gradients(sae, training_loss(sae(batch, dead, 3), ALPHA).auxk)
    is_dead = torch.zeros(sae.d_sae, dtype=torch.bool).index_fill(0, dead, True)
    for name in ("W_enc", "W_dec", "b_enc"):
        touched = found[name].reshape(sae.d_sae, -1).abs().sum(1) > 0
        assert torch.equal(touched, is_dead), name
    # What the encoder reads depends on the modulation and on b_dec; the error that is explained does not.
    assert found["b_dec"].abs().sum() > 0


def test_a_step_down_its_gradient_explains_more_of_the_error(sae: TideSAE, batch: TokenBatch, dead: Tensor) -> None:
    output = sae(batch, dead, 8)
    before = training_loss(output, ALPHA).auxk
    found = gradients(sae, before)
    with torch.no_grad():
        for name in ("W_enc", "W_dec", "b_enc"):
            getattr(sae, name).sub_(0.05 * found[name])
        aux_hat = sae(batch, dead, 8).aux_hat
    after = training_loss(output._replace(aux_hat=aux_hat), ALPHA).auxk
    assert after < before


def test_without_dead_latents_there_is_no_auxk(sae: TideSAE, batch: TokenBatch) -> None:
    loss = training_loss(sae(batch), ALPHA)
    assert loss.auxk == 0
    assert loss.total == loss.reconstruction


def test_the_decoders_gradient_is_projected_off_its_rows(sae: TideSAE, batch: TokenBatch) -> None:
    training_loss(sae(batch)).total.backward()
    assert sae.W_dec.grad is not None
    before = sae.W_dec.grad.clone()
    sae.project_decoder_gradient()
    along = (sae.W_dec.grad * sae.W_dec).sum(1)
    torch.testing.assert_close(along, torch.zeros_like(along), atol=1e-12, rtol=0)
    removed = before - sae.W_dec.grad  # along the rows only
    torch.testing.assert_close(removed, (removed * sae.W_dec).sum(1, keepdim=True) * sae.W_dec)

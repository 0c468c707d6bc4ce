"""The AuxK loss and the decoder's gradient against explicit dense formulas in float64."""

from __future__ import annotations

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
    return TokenBatch(**{**batch.tensors(), "x": batch.x.double()})


@pytest.fixture
def dead(sae: TideSAE) -> Tensor:
    return torch.arange(sae.d_sae) % 5 == 0


def explicit_auxk(sae: TideSAE, output: SAEOutput, dead: Tensor, k_aux: int) -> Tensor:
    """mean (e - W_dec^T z_dead)^2, token by token."""
    error = (output.u - output.u_hat).detach()
    total = error.new_zeros(())
    for row in range(len(error)):
        pre = output.pre[row] * dead
        best = pre.argsort(descending=True)[:k_aux]
        total = total + (error[row] - pre[best] @ sae.W_dec[best]).square().sum()
    return total / error.numel()


def gradients(sae: TideSAE, loss: Tensor) -> dict[str, Tensor]:
    sae.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in sae.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("k_aux", [3, 50])  # 50: more than are dead
def test_value_and_all_gradients(sae: TideSAE, batch: TokenBatch, dead: Tensor, k_aux: int) -> None:
    output = sae(batch)
    loss = training_loss(sae, output, dead, k_aux, ALPHA)
    reference = sae(batch)
    explicit = (reference.u - reference.u_hat).square().mean() + ALPHA * explicit_auxk(sae, reference, dead, k_aux)
    torch.testing.assert_close(loss.total, loss.reconstruction + ALPHA * loss.auxk)
    torch.testing.assert_close(loss.total.double(), explicit, rtol=1e-5, atol=1e-6)  # errors are taken in float32
    ours, theirs = gradients(sae, loss.total), gradients(sae, explicit)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-7, msg=name)


def test_reaches_the_dead_latents_and_no_others(sae: TideSAE, batch: TokenBatch, dead: Tensor) -> None:
    output = sae(batch)
    auxk = training_loss(sae, output, dead, 3, ALPHA).auxk
    found = gradients(sae, auxk)
    for name in ("W_enc", "W_dec", "b_enc"):
        touched = found[name].reshape(sae.d_sae, -1).abs().sum(1) > 0
        assert touched[dead].all(), name
        assert not touched[~dead].any(), name
    # What the encoder reads depends on the modulation and on b_dec; the error that is explained does not.
    assert found["b_dec"].abs().sum() > 0


def test_a_step_down_its_gradient_explains_more_of_the_error(sae: TideSAE, batch: TokenBatch, dead: Tensor) -> None:
    output = sae(batch)
    before = training_loss(sae, output, dead, 8, ALPHA).auxk
    found = gradients(sae, before)
    with torch.no_grad():
        for name in ("W_enc", "W_dec", "b_enc"):
            getattr(sae, name).sub_(0.05 * found[name])
        pre = sae(batch).pre
    after = training_loss(sae, output._replace(pre=pre), dead, 8, ALPHA).auxk
    assert after < before


def test_without_dead_latents_there_is_no_auxk(sae: TideSAE, batch: TokenBatch) -> None:
    loss = training_loss(sae, sae(batch), None, 8, ALPHA)
    assert loss.auxk == 0
    assert loss.total == loss.reconstruction


def test_the_decoders_gradient_is_projected_off_its_rows(sae: TideSAE, batch: TokenBatch) -> None:
    training_loss(sae, sae(batch), None).total.backward()
    assert sae.W_dec.grad is not None
    before = sae.W_dec.grad.clone()
    sae.project_decoder_gradient()
    along = (sae.W_dec.grad * sae.W_dec).sum(1)
    torch.testing.assert_close(along, torch.zeros_like(along), atol=1e-12, rtol=0)
    removed = before - sae.W_dec.grad  # along the rows only
    torch.testing.assert_close(removed, (removed * sae.W_dec).sum(1, keepdim=True) * sae.W_dec)

"""Codes that are chosen anew by the decoder's rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.saes.synthetic import double, tokens
from tests.saes.test_tide import small_sae
from tide_lightning.saes import TideSAE, training_loss
from tide_lightning.tokens import TokenBatch

INGREDIENTS = {"mean": 1.0, "time": 1.0, "input": 0.5, "rest": 1.0}


def kept(scores: Tensor, budget: str, k: int) -> Tensor:
    """Which entries a selection keeps."""
    flat, count = (scores, k) if budget == "token" else (scores.view(1, -1), k * len(scores))
    return torch.zeros_like(flat).scatter(1, flat.topk(count).indices, 1).view_as(scores) * (scores > 0)


def fitted(goal: Tensor, z: Tensor, W_dec: Tensor, steps: int = 3) -> Tensor:
    """Conjugate gradients as in any textbook, a token at a time."""
    rows = []
    for target, start in zip(goal, z, strict=True):
        chosen = (start > 0).nonzero().squeeze(1)
        own, value = W_dec[chosen], start[chosen].clone()
        matrix, residual = own @ own.T, own @ (target - value @ own)
        direction = residual.clone()
        for _ in range(steps):
            if float(residual.square().sum()) < 1e-20:
                break
            length = residual.square().sum() / (direction @ matrix @ direction)
            value, after = value + length * direction, residual - length * matrix @ direction
            direction = after + after.square().sum() / residual.square().sum() * direction
            residual = after
        rows.append(torch.zeros_like(start).index_put((chosen,), value.clamp(min=0)))
    return torch.stack(rows) if rows else z


def reference(sae: TideSAE, batch: TokenBatch, budget: str) -> tuple[Tensor, Tensor, Tensor]:
    """The formulas at the heads of tide.py and pursuit.py, written out densely: the code, x_hat and the loss."""
    known, s = sae.known(batch.context), sae.known.scale_at(batch.t)
    u = (batch.x - known) / s
    scale, shift = sae.modulation(batch.t) if sae.modulation is not None else (torch.ones(()), torch.zeros(()))

    def decoded(z: Tensor) -> Tensor:
        u_hat = z @ sae.W_dec + sae.b_dec
        return (u_hat - shift) / scale if sae.unmodulate else u_hat

    pre = torch.relu((u * scale + shift - sae.b_dec) @ sae.W_enc.T + sae.b_enc)
    for left in range(sae.refinements, 0, -1):
        z = pre * kept(pre, "token", sae.k)
        pre = torch.relu(z + ((u - decoded(z)) * scale) @ sae.W_enc.T)
        assert left
    first = pre * kept(pre, budget, sae.k)
    with torch.no_grad():
        goal = (u * scale + shift if sae.unmodulate else u) - sae.b_dec
        z = fitted(goal, first, sae.W_dec)
        for _ in range(sae.pursuits):
            scores = z + (goal - z @ sae.W_dec) @ sae.W_dec.T
            z = fitted(goal, scores * kept(scores, budget, sae.k), sae.W_dec)
    loss = (u - decoded(z)).square().mean() + (u - decoded(first)).square().mean()
    return z, known + s * decoded(z), loss


@pytest.mark.parametrize("budget", ["token", "batch"])
@pytest.mark.parametrize(("refinements", "pursuits"), [(0, 1), (1, 1), (1, 3)])
@pytest.mark.parametrize(("k", "unmodulate"), [(1, False), (5, False), (5, True)])
def test_values_and_gradients_equal_a_dense_float64_reference(
    budget: str, refinements: int, pursuits: int, k: int, unmodulate: bool
) -> None:
    sae = small_sae(budget=budget, refinements=refinements, pursuits=pursuits, k=k, unmodulate=unmodulate).double()
    batch = double(tokens(37, seed=3, **INGREDIENTS))
    code, x_hat, loss = reference(sae, batch, budget)
    expected = torch.autograd.grad(loss, list(sae.parameters()))
    output = sae(batch)
    torch.testing.assert_close(output.code.to_dense(), code)
    torch.testing.assert_close(output.x_hat, x_hat)
    got = training_loss(output).total
    torch.testing.assert_close(got, loss, rtol=1e-6, atol=1e-7)
    for gradient, wanted in zip(torch.autograd.grad(got, list(sae.parameters())), expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-7)


def test_a_pursuit_leaves_less_over_at_the_same_budget() -> None:
    batch = tokens(500, seed=8, **INGREDIENTS)
    errors = []
    for pursuits in (0, 1, 3):
        output = small_sae(budget="batch", pursuits=pursuits, encoder_norm=0.5)(batch)
        assert output.code.l0().double().mean() <= 5
        errors.append((output.u - output.u_hat).square().mean().item())
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("budget", ["token", "batch"])
def test_codes_are_the_same_from_encode_and_forward_from_disk_and_for_a_token_alone(
    budget: str, tmp_path: Path
) -> None:
    sae = small_sae(budget=budget, refinements=1, pursuits=2).train()
    for seed in range(5):
        batch = tokens(200, seed=seed, **INGREDIENTS)
        sae.follow(batch, sae(batch))
    sae.eval()
    batch = tokens(50, seed=9, **INGREDIENTS)
    output = sae(batch)
    code = sae.encode(batch.x, batch.context)
    torch.testing.assert_close(code.to_dense(), output.code.to_dense())
    torch.testing.assert_close(sae.decode(code, batch.context), output.x_hat)
    loaded = TideSAE.from_pretrained(sae.save_pretrained(tmp_path / "sae"))
    assert loaded.config == sae.config
    assert torch.equal(loaded(batch).x_hat, output.x_hat)
    alone = sae(batch.select(slice(7, 8)))
    torch.testing.assert_close(alone.code.to_dense(), output.code.to_dense()[7:8])
    assert len(sae(batch.select(slice(0, 0))).x_hat) == 0


def test_each_round_learns_a_threshold_that_keeps_the_budget() -> None:
    sae = small_sae(budget="batch", refinements=1, pursuits=2).train()
    for seed in range(30):
        batch = tokens(400, seed=seed, **INGREDIENTS)
        sae.follow(batch, sae(batch))
    assert sae.pursuit is not None
    thresholds = [sae.threshold, sae.pursuit.threshold(0), sae.pursuit.threshold(1)]
    values = {float(threshold.value) for threshold in thresholds if threshold is not None and threshold.is_known()}
    assert len(values) == 3
    l0 = sae.eval()(tokens(400, seed=99, **INGREDIENTS)).code.l0().double().mean()
    assert l0 == pytest.approx(sae.k, rel=0.1)


def test_only_training_asks_what_the_encoder_alone_would_write() -> None:
    batch = tokens(50, seed=9, **INGREDIENTS)
    assert set(small_sae(pursuits=1).train()(batch).penalties) == {"encoder"}
    assert not small_sae(pursuits=1).eval()(batch).penalties
    assert not small_sae().train()(batch).penalties


def test_bfloat16_changes_little() -> None:
    sae = small_sae(budget="token", refinements=1, pursuits=1)
    batch = tokens(300, seed=9, **INGREDIENTS)
    exact = sae(batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough = sae(batch)
        training_loss(rough).total.backward()
    assert rough.u_hat.isfinite().all()
    error = [(output.u - output.u_hat).square().mean().item() for output in (exact, rough)]
    assert error[1] == pytest.approx(error[0], rel=0.05)
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in sae.parameters())


def test_an_activation_that_asks_for_a_gradient_gets_that_of_its_projection() -> None:
    """On fixed latents x_hat is affine in x: its derivative follows from differences."""
    sae = small_sae(budget="token", pursuits=1, k=2, modulation="none").double()
    batch = double(tokens(9, seed=3, **INGREDIENTS))
    x = batch.x.clone().requires_grad_()
    output = sae(replace(batch, x=x))
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    [gradient] = torch.autograd.grad((output.x_hat * weight).sum(), x)
    step = 1e-5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    other = sae(replace(batch, x=batch.x + step))
    same = (output.code.indices.sort(1).values == other.code.indices.sort(1).values).all(1)
    same &= ((output.code.values > 0) == (other.code.values > 0)).all(1)
    assert same.sum() >= 7
    change = ((other.x_hat - output.x_hat) * weight).sum(1)
    torch.testing.assert_close((gradient * step).sum(1)[same], change[same].detach(), rtol=1e-3, atol=1e-9)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # of torch.compile's own making, as is the next
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("budget", ["token", "batch"])
def test_can_be_compiled(budget: str) -> None:
    sae = small_sae(budget=budget, refinements=1, pursuits=1).train()
    batch = tokens(60, seed=10, **INGREDIENTS)
    wanted = training_loss(sae(batch)).total
    expected = torch.autograd.grad(wanted, list(sae.parameters()))
    compiled = torch.compile(sae, backend="aot_eager")
    got = training_loss(compiled(batch)).total
    torch.testing.assert_close(got, wanted)
    for gradient, known in zip(torch.autograd.grad(got, list(sae.parameters())), expected, strict=True):
        torch.testing.assert_close(gradient, known, rtol=1e-4, atol=1e-6)

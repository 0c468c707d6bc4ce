"""Every rival against its paper's formulas, written out densely in float64: reconstruction, loss, all gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from tests.saes.synthetic import SHAPE, double, tokens
from tests.saes.test_tide import calibrated
from tide_lightning.errors import UserError
from tide_lightning.saes import (
    SAE,
    GatedSAE,
    JumpReLUSAE,
    MatryoshkaSAE,
    PerBinSAE,
    ReLUSAE,
    TideSAE,
    training_loss,
)
from tide_lightning.tokens import TokenBatch

INGREDIENTS: dict[str, Any] = {"mean": 1.0, "time": 1.0, "input": 0.5, "rest": 1.0}
CASES: dict[str, tuple[type[SAE], dict[str, Any]]] = {
    "relu": (ReLUSAE, {}),
    "relu, unit norm": (ReLUSAE, {"unit_norm": True}),
    "gated": (GatedSAE, {}),
    "jumprelu": (JumpReLUSAE, {"bandwidth": 0.3}),
    "jumprelu, step": (JumpReLUSAE, {"bandwidth": 0.3, "penalty": "step"}),
    "matryoshka": (MatryoshkaSAE, {"prefixes": [0.125, 0.5]}),
    "per bin": (PerBinSAE, {"num_saes": 4}),
}


def build(name: str, modulation: str, **changes: Any) -> SAE:
    """Away from where it starts, where much is symmetric."""
    torch.manual_seed(0)
    cls, arguments = CASES[name]
    settings: dict[str, Any] = {"expansion_factor": 4, "k": 5, "modulation": modulation, **arguments, **changes}
    sae = cls(SHAPE, **settings)
    if sae.modulation is not None:
        curve = torch.linspace(-0.5, 0.5, 24).repeat(32, 1)
        sae.modulation.initialise(torch.linspace(0, 1, 32), curve, 0.1 * curve)
    with torch.no_grad():
        for parameter in sae.parameters(recurse=False):
            parameter.add_(0.1 * torch.randn_like(parameter))
    return calibrated(sae, tokens(2_000, **INGREDIENTS)).train()


class Dense:
    """An SAE's parts for a batch, and what the classes' formulas make of them."""

    def __init__(self, sae: SAE, batch: TokenBatch) -> None:
        self.sae, self.batch = sae, batch
        self.known, self.s = sae.known(batch.context), sae.known.scale_at(batch.t)
        self.u = (batch.x - self.known) / self.s
        self.gain, self.shift = torch.ones(()), torch.zeros(())
        if sae.modulation is not None:
            self.gain, self.shift = sae.modulation(batch.t)
        self.pre = linear(self.u * self.gain + self.shift - sae.b_dec, sae.W_enc, sae.b_enc)

    def decoded(self, z: Tensor, W_dec: Tensor | None = None, b_dec: Tensor | None = None) -> Tensor:
        W_dec, b_dec = self.sae.W_dec if W_dec is None else W_dec, self.sae.b_dec if b_dec is None else b_dec
        u_hat: Tensor = z @ W_dec + b_dec
        return (u_hat - self.shift) / self.gain if self.sae.unmodulate else u_hat

    def error(self, z: Tensor, *decoder: Tensor) -> Tensor:
        error: Tensor = self.u - self.decoded(z, *decoder)
        return error.square().mean()

    def weighted(self, per_token: Tensor) -> Tensor:
        assert isinstance(self.sae, ReLUSAE | GatedSAE | JumpReLUSAE)
        return self.sae.sparsity / SHAPE.d_in * per_token.mean()


def relu(dense: Dense) -> tuple[Tensor, Tensor]:
    sae, z = dense.sae, dense.pre.relu()
    norms = torch.ones(sae.d_sae) if sae.unit_norm else sae.W_dec.norm(dim=1)
    return z, dense.error(z) + dense.weighted((z * norms).sum(1))


def gated(dense: Dense) -> tuple[Tensor, Tensor]:
    sae = dense.sae
    assert isinstance(sae, GatedSAE)
    read = dense.u * dense.gain + dense.shift - sae.b_dec
    magnitude = linear(read, sae.r_mag.exp().unsqueeze(1) * sae.W_enc, sae.b_mag)
    z = (dense.pre > 0) * magnitude.relu()
    gate = dense.pre.relu()
    auxiliary = dense.error(gate, sae.W_dec.detach(), sae.b_dec.detach())
    return z, dense.error(z) + dense.weighted(gate.sum(1)) + auxiliary


def straight_through(value: Tensor, slope: Tensor, threshold: Tensor) -> Tensor:
    """The value, with a gradient of the threshold that is given outright."""
    return value + slope.detach() * (threshold - threshold.detach())


def jumprelu(dense: Dense) -> tuple[Tensor, Tensor]:
    sae = dense.sae
    assert isinstance(sae, JumpReLUSAE)
    theta, width = sae.threshold, sae.bandwidth
    above = (dense.pre > theta).double()
    near = (((dense.pre - theta) / width).abs() < 0.5).double()
    z = straight_through(dense.pre * above, -theta / width * near, theta)
    l0 = straight_through(above, -near / width, theta).sum(1)
    penalty = l0 if sae.penalty == "step" else 2 / sae.k * (l0 - sae.k).square()
    return z, dense.error(z) + dense.weighted(penalty)


def matryoshka(dense: Dense) -> tuple[Tensor, Tensor]:
    pre = dense.pre.relu()
    smallest = pre.flatten().topk(dense.sae.k * len(pre)).values[-1]
    z = pre * (pre >= smallest)
    latents = torch.arange(dense.sae.d_sae)
    prefixes = [dense.error(z * (latents < width)) for width in (12, 48)]
    return z, dense.error(z) + torch.stack(prefixes).sum()


def per_bin(dense: Dense) -> tuple[Tensor, Tensor]:
    z = torch.zeros_like(dense.pre)
    for number in range(4):
        rows, own = (dense.batch.t * 4).long() == number, slice(24 * number, 24 * number + 24)
        pre = dense.pre[rows, own].relu()
        kept = torch.zeros_like(pre).scatter(1, pre.topk(dense.sae.k).indices, 1)
        part = torch.zeros(int(rows.sum()), dense.sae.d_sae, dtype=z.dtype)
        part[:, own] = pre * kept
        z[rows] = part
    return z, dense.error(z)


REFERENCE: dict[str, Callable[[Dense], tuple[Tensor, Tensor]]] = {
    "relu": relu,
    "relu, unit norm": relu,
    "gated": gated,
    "jumprelu": jumprelu,
    "jumprelu, step": jumprelu,
    "matryoshka": matryoshka,
    "per bin": per_bin,
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("modulation", "unmodulate", "known_part"),
    [("none", False, "mean"), ("zero", False, "input_token"), ("zero", True, "mean_t")],
)
def test_values_loss_and_gradients_equal_a_dense_float64_reference(
    name: str, modulation: str, unmodulate: bool, known_part: str
) -> None:
    sae = build(name, modulation, unmodulate=unmodulate, known_part=known_part).double()
    batch = double(tokens(40, seed=3, **INGREDIENTS))
    dense = Dense(sae, batch)
    z, loss = REFERENCE[name](dense)
    parameters = list(sae.parameters())
    expected = torch.autograd.grad(loss, parameters)
    output = sae(batch)
    torch.testing.assert_close(output.code.to_dense(), z)
    torch.testing.assert_close(output.x_hat, dense.known + dense.s * dense.decoded(z))
    got = training_loss(output).total
    torch.testing.assert_close(got, loss, rtol=1e-6, atol=1e-7)
    for gradient, wanted in zip(torch.autograd.grad(got, parameters), expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_after_training_codes_are_the_same_from_encode_and_forward_and_from_disk(name: str, tmp_path: Path) -> None:
    sae = build(name, "zero")
    for seed in range(3):
        batch = tokens(64, seed=seed, **INGREDIENTS)
        sae.follow(batch, sae(batch))
    sae.eval()
    batch = tokens(50, seed=8, **INGREDIENTS)
    output = sae(batch)
    assert output.penalties == {}
    code = sae.encode(batch.x, batch.context)
    torch.testing.assert_close(sae.decode(code, batch.context), output.x_hat)
    alone = batch.select(slice(4, 5))
    torch.testing.assert_close(sae.encode(alone.x, alone.context).to_dense(), code.to_dense()[4:5])
    loaded = SAE.from_pretrained(sae.save_pretrained(tmp_path / "sae"))
    assert type(loaded) is type(sae)
    assert loaded.config == sae.config
    assert torch.equal(loaded(batch).x_hat, output.x_hat)
    with pytest.raises(ValueError, match="depends on the time"):
        sae.encode(batch.x)
    assert len(sae(batch.select(slice(0, 0))).x_hat) == 0


@pytest.mark.parametrize("name", CASES)
def test_a_reseeded_latent_fires_for_what_it_was_seeded_with(name: str) -> None:
    sae = build(name, "none", known_part="mean")
    assert isinstance(sae, SAE)
    batch = tokens(50, seed=8, **INGREDIENTS)
    direction = torch.nn.functional.normalize(sae(batch).u[:1].detach(), dim=1)
    latent = torch.tensor([int(batch.t[0] * 4) * 24 + 1])  # of the first token's bin
    sae.reseed(latent, 20 * direction, direction)
    code = sae.eval().encode(batch.x, batch.context).select(slice(0, 1))
    assert code.to_dense()[0, latent] > 1
    before = {name: value.clone() for name, value in sae.state_dict().items()}
    sae.reseed(latent, 20 * direction, direction)
    assert all(torch.equal(before[name], value) for name, value in sae.state_dict().items())
    assert all(len(parameter) == sae.d_sae for parameter in sae.by_latent())


def test_only_a_free_decoder_keeps_its_norms() -> None:
    for name in CASES:
        sae = build(name, "none")
        before = sae.W_dec.detach().clone()
        training_loss(sae(tokens(50, **INGREDIENTS))).total.backward()
        norm = sae.project_decoder_gradient()
        assert sae.W_dec.grad is not None
        torch.testing.assert_close(norm, sae.W_dec.grad.norm())
        sae.normalise_decoder()
        assert torch.equal(sae.W_dec, before) == (name == "relu")


@pytest.mark.parametrize("name", ["relu", "gated", "jumprelu"])
def test_the_weight_is_steered_to_k_active_latents(name: str) -> None:
    sae = build(name, "none", known_part="mean", gain=0.01)
    optimizer = torch.optim.Adam(sae.parameters(), lr=2e-3)
    l0 = []
    for step in range(500):
        batch = tokens(128, seed=step, **INGREDIENTS)
        output = sae(batch)
        sae.follow(batch, output)
        optimizer.zero_grad()
        training_loss(output).total.backward()
        optimizer.step()
        sae.normalise_decoder()
        l0.append(float(output.code.l0().double().mean()))
    assert l0[0] > 4 * sae.k
    assert sum(l0[-50:]) / 50 == pytest.approx(sae.k, rel=0.2)


def test_the_weight_follows_all_tokens_and_can_be_kept() -> None:
    sae = build("relu", "none")
    assert isinstance(sae, ReLUSAE)
    batch = tokens(50, **INGREDIENTS)
    output = sae(batch)
    assert output.code.l0().double().mean() > sae.k
    start = sae.weight.value()
    sae.follow(batch, output)
    assert sae.weight.value() > start
    sae.follow(batch, output._replace(code=output.code.with_values(torch.zeros_like(output.code.values))))
    torch.testing.assert_close(sae.weight.value(), start * torch.tensor(0.0).exp())
    kept = build("relu", "none", gain=0.0)
    kept.follow(batch, output)
    assert kept.state_dict()["weight.log"] == 0


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (ReLUSAE, {"sparsity": 0.0}, "sparsity = 0.0"),
        (GatedSAE, {"gain": -1.0}, "gain = -1.0"),
        (JumpReLUSAE, {"penalty": "tanh"}, "there is no 'tanh'"),
        (JumpReLUSAE, {"bandwidth": 0.0}, "bandwidth = 0.0"),
        (MatryoshkaSAE, {"prefixes": [0.5, 0.25]}, "must ascend"),
        (MatryoshkaSAE, {"prefixes": [0.5, 1.0]}, "stay below 1"),
        (PerBinSAE, {"num_saes": 10, "k": 16, "expansion_factor": 4}, "at least k = 16"),
    ],
)
def test_mistakes_are_told(cls: type[SAE], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        cls(SHAPE, **arguments)


def test_a_rival_is_no_tide_sae(tmp_path: Path) -> None:
    folder = build("gated", "none").save_pretrained(tmp_path / "sae")
    with pytest.raises(
        UserError, match="describes a GatedSAE, which is no TideSAE: load it by its own class or by SAE"
    ):
        TideSAE.from_pretrained(folder)

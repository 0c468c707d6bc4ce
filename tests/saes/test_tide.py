from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import linear, one_hot

from tests.saes.synthetic import SHAPE, at_all_times, double, tokens
from tide_lightning.errors import UserError
from tide_lightning.saes import SAE, KnownStatistics, TideSAE, training_loss
from tide_lightning.saes.modulation import TemporalModulation
from tide_lightning.tokens import TokenBatch

AnySAE = TypeVar("AnySAE", bound=SAE)


def calibrated(sae: AnySAE, batch: TokenBatch) -> AnySAE:
    statistics = KnownStatistics(sae.known)
    statistics.update(batch)
    statistics.fit()
    return sae


def small_sae(**arguments: object) -> TideSAE:
    torch.manual_seed(0)
    sae = TideSAE(SHAPE, **({"expansion_factor": 4, "k": 5, "modulation": "adaln"} | arguments))  # type: ignore[arg-type]
    if sae.modulation is not None:
        curve = torch.linspace(-0.5, 0.5, 24).repeat(32, 1)
        sae.modulation.initialise(torch.linspace(0, 1, 32), curve, 0.1 * curve)
    return calibrated(sae, tokens(2_000, mean=1.0, time=1.0, input=0.5, rest=1.0))


def reference(sae: TideSAE, batch: TokenBatch, dead: Tensor, k_aux: int) -> tuple[Tensor, Tensor]:
    """DESIGN section 2, written out densely: x_hat and the loss."""
    s = sae.known.scale_at(batch.t)
    known = sae.known(batch.context)
    u = (batch.x - known) / s
    scale, shift = sae.modulation(batch.t) if sae.modulation is not None else (torch.ones(()), torch.zeros(()))
    pre = torch.relu(linear(u * scale + shift - sae.b_dec, sae.W_enc, sae.b_enc))
    for _ in range(sae.refinements + 1):
        z = pre * one_hot(pre.topk(sae.k).indices, sae.d_sae).sum(1)
        u_hat = z @ sae.W_dec + sae.b_dec
        if sae.unmodulate:
            u_hat = (u_hat - shift) / scale
        last, pre = pre, torch.relu(z + linear((u - u_hat) * scale, sae.W_enc))
    pre = last
    error = (u - u_hat).detach()
    pre_dead = pre * dead
    z_dead = pre_dead * one_hot(pre_dead.topk(k_aux).indices, sae.d_sae).sum(1)
    loss = (u - u_hat).square().mean() + (error - z_dead @ sae.W_dec).square().mean() / 32
    return known + s * u_hat, loss


@pytest.mark.parametrize("modulation", ["none", "adaln"])
@pytest.mark.parametrize("unmodulate", [False, True])
@pytest.mark.parametrize("refinements", [0, 1, 3])
@pytest.mark.parametrize(("k", "by_timestep"), [(1, False), (5, False), (5, True)])
def test_values_and_gradients_equal_a_dense_float64_reference(
    modulation: str, unmodulate: bool, refinements: int, k: int, by_timestep: bool
) -> None:
    arguments = {"modulation": modulation, "unmodulate": unmodulate, "k": k, "scale_by_timestep": by_timestep}
    sae = small_sae(refinements=refinements, **arguments).double()
    batch = double(tokens(37, seed=3, mean=1.0, time=1.0, input=0.5, rest=1.0))
    dead = torch.arange(sae.d_sae) % 3 == 0
    x_hat, loss = reference(sae, batch, dead, k_aux=7)
    expected = torch.autograd.grad(loss, list(sae.parameters()))
    output = sae(batch, dead.nonzero().squeeze(1), k_aux=7)
    got = training_loss(output).total
    torch.testing.assert_close(output.x_hat, x_hat)
    torch.testing.assert_close(got, loss, rtol=1e-6, atol=1e-7)  # losses are float32
    for gradient, wanted in zip(torch.autograd.grad(got, list(sae.parameters())), expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["W_enc", "b_enc", "W_dec"])
def test_dead_latents_learn_from_auxk(name: str) -> None:
    sae = small_sae(k=1)
    output = sae(tokens(200, seed=4, input=0.5, rest=1.0))
    fired = output.code.fired() > 0
    assert fired.any()
    assert not fired.all()
    batch = tokens(200, seed=4, input=0.5, rest=1.0)
    training_loss(sae(batch, (~fired).nonzero().squeeze(1))).total.backward()
    gradient = getattr(sae, name).grad
    assert gradient[~fired].abs().sum() > 0
    sae.zero_grad()
    training_loss(sae(batch)).total.backward()
    assert getattr(sae, name).grad[~fired].abs().sum() == 0


def test_a_zero_initialised_conditioned_sae_equals_an_unconditioned_one() -> None:
    batch = tokens(100, seed=5, mean=1.0, rest=1.0)
    torch.manual_seed(0)
    plain = calibrated(TideSAE(SHAPE, 4, 5, modulation="none", known_part="mean"), batch)
    conditioned = calibrated(TideSAE(SHAPE, 4, 5, modulation="zero", known_part="mean"), batch)
    conditioned.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(conditioned(batch).x_hat, plain(batch).x_hat, atol=0, rtol=0)


def test_encode_and_decode_are_the_two_halves_of_forward() -> None:
    sae = small_sae(unmodulate=True)
    batch = tokens(64, seed=6, mean=1.0, time=1.0, rest=1.0)
    code = sae.encode(batch.x, batch.context)
    torch.testing.assert_close(sae.decode(code, batch.context), sae(batch).x_hat)
    assert int(code.l0().max()) <= sae.k


def test_a_conditioned_sae_never_guesses_the_timestep() -> None:
    sae = small_sae()
    batch = tokens(8)
    with pytest.raises(ValueError, match="depends on the time"):
        sae.encode(batch.x)
    with pytest.raises(ValueError, match="depends on the time"):
        sae.decode(sae.encode(batch.x, batch.context))
    plain = small_sae(modulation="none", known_part="mean")
    assert plain.encode(batch.x).num_tokens == 8


def test_no_tokens_are_no_error() -> None:
    sae = small_sae()
    output = sae(tokens(8).select(slice(0, 0)))
    assert output.x_hat.shape == (0, SHAPE.d_in)
    assert output.code.fired().sum() == 0


def test_k_may_be_a_fraction() -> None:
    assert TideSAE(SHAPE, 16, 0.05).k == round(0.05 * 384)


def test_what_no_memory_can_hold_is_told() -> None:
    with pytest.raises(UserError, match=r"GB of weights, this machine has .* GB of memory: lower expansion_factor"):
        TideSAE(SHAPE, expansion_factor=1e12)


@pytest.mark.parametrize("k", [0, 97, 2.5, -1])
def test_a_k_that_does_not_fit_is_refused(k: float) -> None:
    with pytest.raises(UserError, match="k = "):
        TideSAE(SHAPE, 4, k)


def test_the_decoder_keeps_unit_rows_and_a_tangent_gradient() -> None:
    sae = small_sae()
    training_loss(sae(tokens(50, rest=1.0))).total.backward()
    sae.project_decoder_gradient()
    assert sae.W_dec.grad is not None
    torch.testing.assert_close((sae.W_dec.grad * sae.W_dec).sum(1), torch.zeros(sae.d_sae), atol=1e-6, rtol=0)
    with torch.no_grad():
        sae.W_dec.mul_(3)
    sae.normalise_decoder()
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(sae.d_sae))


def test_bfloat16_autocast_stays_within_its_rounding() -> None:
    sae = small_sae(k=20)
    batch = tokens(500, seed=7, mean=1.0, rest=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = sae(batch)
    assert rounded.x_hat.dtype == torch.float32
    exact = (batch.x - sae(batch).x_hat.detach()).square().mean()
    assert (batch.x - rounded.x_hat.detach()).square().mean() == pytest.approx(float(exact), rel=1e-2)


@given(st.integers(0, 10_000))
def test_modulation_is_bounded_away_from_zero(seed: int) -> None:
    torch.manual_seed(seed)
    modulation = TemporalModulation(5)
    with torch.no_grad():
        modulation.out.weight.normal_(std=10)
    scale, _ = modulation(torch.rand(20))
    assert float(scale.detach().min()) > 0.09


def test_modulation_can_start_at_given_curves() -> None:
    t = torch.linspace(0, 1, 100)
    scale, shift = 0.5 * torch.sin(3 * t).outer(torch.ones(4)), torch.cos(2 * t).outer(torch.arange(4.0))
    modulation = TemporalModulation(4)
    modulation.initialise(t, scale, shift)
    got_scale, got_shift = modulation(t)
    assert (got_scale - 1 - scale).abs().max() < 0.05
    assert (got_shift - shift).abs().max() < 0.1


def test_saved_and_loaded_an_sae_is_the_same(tmp_path: Path) -> None:
    sae = small_sae(unmodulate=True)
    sae.save_pretrained(tmp_path / "site", site="blocks.1", pretrained="a/model")
    cfg = json.loads((tmp_path / "site" / "cfg.json").read_text())
    assert (cfg["schema"], cfg["d_in"], cfg["d_sae"], cfg["site"]) == (2, 24, 96, "blocks.1")
    batch = tokens(30, rest=1.0)
    for loaded in (TideSAE.from_pretrained(tmp_path / "site"), TideSAE.from_pretrained(tmp_path, site="site")):
        assert torch.equal(loaded(batch).x_hat, sae(batch).x_hat)
    written = sorted((tmp_path / "site").iterdir())
    assert [path.name for path in written] == ["cfg.json", "sae.safetensors"]
    assert len({path.stat().st_mode for path in written}) == 1  # whoever may read one may read both


def test_what_is_wrong_with_a_saved_sae_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a folder nor a hub repository"):
        TideSAE.from_pretrained("nobody/nothing")
    folder = small_sae().save_pretrained(tmp_path / "one")
    with pytest.raises(UserError, match="choose a site: one"):
        TideSAE.from_pretrained(tmp_path)
    weights = folder / "sae.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"sae\.safetensors cannot be read"):
        TideSAE.from_pretrained(folder)
    cfg = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(cfg | {"d_in": 25}))
    with pytest.raises(UserError, match=r"cfg\.json is damaged, or was changed by hand"):
        TideSAE.from_pretrained(folder)
    del cfg["cfg_sha256"]
    (folder / "cfg.json").write_text(json.dumps(cfg | {"schema": 7}))
    with pytest.raises(UserError, match="schema 7"):
        TideSAE.from_pretrained(folder)
    small_sae(expansion_factor=2).save_pretrained(folder)
    (folder / "cfg.json").write_text(json.dumps(cfg))
    with pytest.raises(UserError, match=r"damaged, or not what cfg\.json was written with"):
        TideSAE.from_pretrained(folder)
    (folder / "cfg.json").write_text(json.dumps({name: cfg[name] for name in cfg if name != "sha256"}))
    with pytest.raises(UserError, match=r"W_dec should be \[96, 24\], but is \[48, 24\]"):
        TideSAE.from_pretrained(folder)


def test_the_metric_measures_errors_by_what_they_do_to_the_denoiser() -> None:
    batch = tokens(3_000, mean=1.0, input=0.5, rest=1.0)
    sae = calibrated(TideSAE(SHAPE, 4, 5, modulation="none", fidelity_weight=0.75), batch)
    directions = torch.randn(6, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sensitivity = directions.mT @ directions
    sae.fit_sensitivity(at_all_times(sensitivity), batch)
    output = sae(batch)
    torch.testing.assert_close(output.u.square().mean(), torch.ones(()), rtol=1e-4, atol=0)
    error = (batch.x - output.x_hat).double() / sae.known.scale
    mixed = 0.25 * error.square().sum(1) + 0.75 * ((error @ sensitivity) * error).sum(1) / sensitivity.diagonal().mean()
    measured = (output.u - output.u_hat).square().sum(1).double()
    torch.testing.assert_close(measured / measured.mean(), mixed / mixed.mean(), rtol=1e-3, atol=1e-4)


def test_the_metric_changes_nothing_about_what_a_perfect_code_decodes_to() -> None:
    sae = small_sae(fidelity_weight=0.9, k=96)
    batch = tokens(50, mean=1.0, rest=1.0)
    sae.fit_sensitivity(at_all_times(torch.diag(torch.linspace(0, 5, 24))), batch)
    code = sae.encode(batch.x, batch.context)
    torch.testing.assert_close(sae.decode(code, batch.context), sae(batch).x_hat)
    assert "fidelity_weight" in sae.config


def test_what_was_saved_comes_back_as_its_own_class(tmp_path: Path) -> None:
    class OtherSAE(TideSAE):
        pass

    small_sae().save_pretrained(tmp_path / "tide")
    OtherSAE(SHAPE, 4, 5).save_pretrained(tmp_path / "other")
    assert type(SAE.from_pretrained(tmp_path / "tide")) is TideSAE
    assert type(TideSAE.from_pretrained(tmp_path / "other")) is OtherSAE
    with pytest.raises(UserError, match="describes a TideSAE, which is no OtherSAE"):
        OtherSAE.from_pretrained(tmp_path / "tide")

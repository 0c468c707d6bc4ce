from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.fitting import SITES, make_data, make_module
from tide_lightning.datamodules import ActivationDataModule, HeldOutBatch
from tide_lightning.diffusion import Conditioning, Site, record
from tide_lightning.diffusion.trajectories import guided_prediction, sample
from tide_lightning.evaluation import Fidelity, Trajectories, splice_denoiser
from tide_lightning.evaluation.end_to_end import similarity, unrelated
from tide_lightning.intervene.splicing import constant, known_alone, reconstruct_by, unread_tokens
from tide_lightning.saes import SAE, SAEOutput, TideSAE
from tide_lightning.tokens import SiteShape, TokenBatch
from tide_lightning.training import TideModule


class Identity(TideSAE):
    """Reconstructs everything exactly."""

    def forward(self, batch: TokenBatch, *args: Any, **kwargs: Any) -> SAEOutput:
        return super().forward(batch)._replace(x_hat=batch.x)


@pytest.fixture(scope="module")
def data(pretrained: Path) -> ActivationDataModule:
    return make_data(pretrained)


@pytest.fixture(scope="module")
def module(data: ActivationDataModule) -> TideModule:
    made = make_module(data).eval()
    made.calibrate(data)
    return made


@pytest.fixture(scope="module")
def batch(data: ActivationDataModule) -> HeldOutBatch:
    return next(iter(data.test_dataloader()))


def shape_of(data: ActivationDataModule, site: str) -> SiteShape:
    sizes: dict[str, Any] = dict(data.site_shapes[site])
    return SiteShape(**{**sizes, "grid": tuple(sizes["grid"])})


def what(batch: HeldOutBatch) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    return batch.call.x_t, batch.call.raw_t, batch.call.conditioning


def measure(data: ActivationDataModule, saes: Mapping[str, SAE], batch: HeldOutBatch) -> dict[str, Any]:
    means = {site: batch.tokens[site].x.mean(0) for site in saes}
    fidelity = Fidelity(data.denoiser, saes, means, num_bins=4)
    call = batch.call
    assert call.x0 is not None
    assert call.noise is not None
    target = data.denoiser.schedule.target(call.x0, call.noise, call.raw_t)
    fidelity.update(call.x_t, call.raw_t, call.conditioning, target, call.sample.tolist())
    return fidelity.compute()


def test_a_splice_knows_what_the_harvest_knew(data: ActivationDataModule, batch: HeldOutBatch) -> None:
    for site, tokens in batch.tokens.items():
        context = unread_tokens(data.denoiser, [Site.parse(site)], *what(batch))[Site.parse(site)].context
        for name in ("t", "position", "input"):
            torch.testing.assert_close(getattr(context, name), getattr(tokens.context, name), rtol=0, atol=0)


@torch.no_grad()
def test_a_splice_is_the_reconstruction_of_the_same_tokens(
    data: ActivationDataModule, module: TideModule, batch: HeldOutBatch
) -> None:
    site = SITES[0]
    sae, call = module.sae(site), batch.call
    spliced = splice_denoiser(data.denoiser, {site: reconstruct_by(sae)})
    following = data.denoiser.resolve_sites(["transformer_blocks.1"])
    with record(data.denoiser.module, following) as found:
        spliced.predict(call.x_t, call.raw_t, call.conditioning)
    with record(data.denoiser.module, following) as original:
        data.denoiser.predict(call.x_t, call.raw_t, call.conditioning)
    expected = sae(batch.tokens[site]).x_hat.reshape(len(call), -1, sae.d_in)
    x: list[torch.Tensor] = []
    handle = data.denoiser.module.get_submodule("transformer_blocks.1").register_forward_pre_hook(
        lambda _, args, kwargs: x.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    spliced.predict(call.x_t, call.raw_t, call.conditioning)
    handle.remove()
    torch.testing.assert_close(x[0], expected, rtol=1e-5, atol=1e-5)
    name = "transformer_blocks.1"
    assert not torch.equal(found[name], original[name])


def test_an_identity_changes_no_bit(data: ActivationDataModule, batch: HeldOutBatch) -> None:
    saes: dict[str, SAE] = {site: Identity(shape_of(data, site), 2, 2) for site in SITES}
    found = measure(data, saes, batch)
    for case in (*found["sites"].values(), found["all"]):
        assert case["loss_increase"] == 0
        assert case["loss_spliced"] == case["loss_original"] == found["loss_original"]
        assert case["loss_recovered"] == pytest.approx(1)
        assert "fault" not in case
    trajectories = Trajectories(data.denoiser, saes, num_inference_steps=3, guidance_scale=4.5, seed=0)
    outcome = trajectories.run(["red ball", "blue cube"])
    assert outcome.figures["all"]["mse"] == outcome.figures["sites"][SITES[0]]["mse"] == 0
    assert torch.equal(outcome.images[0], outcome.images[1])
    assert not torch.equal(outcome.images[0], outcome.images[-1])  # the known part alone


def test_losses_by_hand(data: ActivationDataModule, module: TideModule, batch: HeldOutBatch) -> None:
    site, call = SITES[1], batch.call
    sae = module.sae(site)
    found = measure(data, {site: sae}, batch)["sites"][site]
    assert call.noise is not None
    for kind, predictor in {
        "spliced": reconstruct_by(sae),
        "known": known_alone(sae),
        "ablated": constant(batch.tokens[site].x.mean(0)),
    }.items():
        spliced = splice_denoiser(data.denoiser, {site: predictor})
        with torch.no_grad():
            prediction = spliced.predict(call.x_t, call.raw_t, call.conditioning)
        loss = float((prediction - call.noise).double().square().mean())
        assert found[f"loss_{kind}"] == pytest.approx(loss)
    original, ablated = found["loss_original"], found["loss_ablated"]
    assert found["loss_increase"] == pytest.approx(found["loss_spliced"] / original - 1)
    assert found["loss_recovered"] == pytest.approx((ablated - found["loss_spliced"]) / (ablated - original))
    rows = found["by_timestep"]
    assert sum(row["samples"] for row in rows) == len(call)
    for key in ("loss_increase", "loss_increase_known"):
        assert found[f"{key}_even"] == pytest.approx(sum(row[key] for row in rows) / len(rows))
        low, high = found[f"{key}_even_interval"]
        assert low < found[f"{key}_even"] < high


def test_losses_as_training_weighed_them(data: ActivationDataModule, module: TideModule, batch: HeldOutBatch) -> None:
    site = SITES[1]
    sae, denoiser, call = module.sae(site), data.denoiser, batch.call
    uniform = measure(data, {site: sae}, batch)["sites"][site]
    rows = uniform["by_timestep"]
    original, spliced = (sum(row[f"loss_{kind}"] for row in rows) for kind in ("original", "spliced"))
    assert uniform["loss_increase_as_trained"] == pytest.approx(spliced / original - 1)  # every bin of t alike
    denoiser.trained_with("min_snr:5")
    try:
        found = measure(data, {site: sae}, batch)
    finally:
        denoiser.trained_with("uniform")
    assert found["loss_weights"] == "min_snr:5"
    figures = found["sites"][site]
    assert figures["loss_increase_even"] == uniform["loss_increase_even"]
    assert call.noise is not None
    weight = (5 / denoiser.schedule.log_snr(call.raw_t).double().exp()).clamp(max=1)
    by_kind = []
    for runner in (denoiser, splice_denoiser(denoiser, {site: reconstruct_by(sae)})):
        with torch.no_grad():
            error = (runner.predict(call.x_t, call.raw_t, call.conditioning) - call.noise).double()
        loss = weight * error.square().flatten(1).mean(1)
        bins = (denoiser.schedule.t(call.raw_t) * 4).long().clamp(max=3)
        by_kind.append(sum(float(loss[bins == b].mean()) for b in bins.unique()))
    assert figures["loss_increase_as_trained"] == pytest.approx(by_kind[1] / by_kind[0] - 1)


def test_a_denoiser_of_unknown_training_has_no_such_loss(data: ActivationDataModule, batch: HeldOutBatch) -> None:
    sae = TideSAE(shape_of(data, SITES[0]), 2, 2, known_part="mean")
    before, data.denoiser.loss_weights = data.denoiser.loss_weights, None
    try:
        found = measure(data, {SITES[0]: sae}, batch)
    finally:
        data.denoiser.loss_weights = before
    assert "loss_weights" not in found
    assert "loss_increase_as_trained" not in found["sites"][SITES[0]]


def test_a_leaking_rung_is_not_spliced(data: ActivationDataModule, batch: HeldOutBatch) -> None:
    first, second = SITES
    saes = {
        first: TideSAE(shape_of(data, first), 2, 2, known_part="noise_token"),
        second: TideSAE(shape_of(data, second), 2, 2, known_part="mean"),
    }
    found = measure(data, saes, batch)
    assert "true noise" in found["absent"][first]
    assert set(found["sites"]) == {second}
    assert "all" not in found
    trajectories = Trajectories(data.denoiser, saes, num_inference_steps=2, guidance_scale=1, seed=0)
    outcome = trajectories.run(["red ball"])
    assert outcome.cases == ["original", second, "known part alone"]


def test_a_loss_below_the_originals_is_called_a_fault(data: ActivationDataModule, batch: HeldOutBatch) -> None:
    class Cheat(TideSAE):
        def forward(self, batch: TokenBatch, *args: Any, **kwargs: Any) -> SAEOutput:
            return super().forward(batch)._replace(x_hat=cheat.expand(len(batch), -1))

    # Of many constants in the last block, one comes out better than an untrained denoiser's own activation.
    site = SITES[1]
    for seed in range(50):
        cheat = torch.randn(shape_of(data, site).d_in, generator=torch.Generator().manual_seed(seed))
        case = measure(data, {site: Cheat(shape_of(data, site), 2, 2)}, batch)["sites"][site]
        if case["loss_increase"] < 0:
            assert "must know something" in case["fault"]
            return
    raise AssertionError("no constant helped")


@torch.no_grad()
def test_both_halves_of_a_guided_forward_are_spliced(
    data: ActivationDataModule, module: TideModule, batch: HeldOutBatch
) -> None:
    denoiser, call = data.denoiser, batch.call
    spliced = splice_denoiser(denoiser, {site: reconstruct_by(module.sae(site)) for site in SITES})
    prompts = denoiser.encode_prompts(["red ball"] * len(call))
    blank = denoiser.encode_prompts([""] * len(call))
    together = guided_prediction(spliced, call.x_t, call.raw_t, prompts, 3.0)
    conditional = spliced.predict(call.x_t, call.raw_t, prompts)
    unconditional = spliced.predict(call.x_t, call.raw_t, blank)
    torch.testing.assert_close(together, unconditional + 3 * (conditional - unconditional), rtol=1e-4, atol=1e-4)
    plain = guided_prediction(denoiser, call.x_t, call.raw_t, prompts, 3.0)
    assert float((together - plain).abs().max()) > 1e-3


def test_trajectories_start_from_the_same_noise(data: ActivationDataModule, module: TideModule) -> None:
    saes = {site: module.sae(site) for site in SITES}
    prompts = ["red ball", "blue cube", "green cone"]
    done: list[int] = []
    trajectories = Trajectories(data.denoiser, saes, num_inference_steps=3, guidance_scale=2.0, seed=5)
    outcome = trajectories.run(prompts, chunk_size=2, progress=done.append)
    latents = sample(data.denoiser, prompts, seed=5, num_inference_steps=3, guidance_scale=2.0)
    torch.testing.assert_close(outcome.images[0], data.denoiser.decode_latents(latents).cpu())
    assert outcome.cases == ["original", *SITES, "all", "known part alone"]
    assert outcome.images.shape == (5, 3, 3, 16, 16)
    assert done == [2, 3]
    assert set(outcome.figures["sites"]) == set(SITES)
    assert outcome.figures["all"]["mse"] > 0
    late = trajectories.run(prompts, chunk_size=2, deadline=0.0)
    assert late.figures["images"] == 2  # the first chunk is always sampled
    assert torch.equal(late.images, outcome.images[:, :2])


def test_similarity_and_its_baseline() -> None:
    draw = torch.Generator().manual_seed(0)
    latents = torch.randn(200, 4, 8, 8, generator=draw) + 3
    same = similarity(latents, latents, latents)
    assert same["cosine_centred"] == pytest.approx(1)
    assert same["mse"] == 0
    other = unrelated(latents)
    assert other["cosine"] > 0.85  # inflated by the common mean
    assert other["cosine_centred"] == pytest.approx(-1 / 199, abs=1e-3)
    assert other["mse"] == pytest.approx(2, rel=0.05)
    assert unrelated(latents[:1]) == {}

"""Real SAEs whose every figure is known in advance: perfect, mean-only, half dead, permuted, scaled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.fitting import SITES, make_data
from tide_lightning.datamodules import ActivationDataModule, HeldOutBatch
from tide_lightning.evaluation import Fidelity, SiteReconstruction
from tide_lightning.evaluation.comparison.reproducibility import match
from tide_lightning.evaluation.lifetimes import Lifetimes
from tide_lightning.evaluation.matching import directions
from tide_lightning.saes import KnownStatistics, TideSAE
from tide_lightning.tokens import SiteShape

SITE = SITES[1]


@pytest.fixture(scope="module")
def data(pretrained: Path) -> ActivationDataModule:
    return make_data(pretrained, heldout={"num_test_samples": 32}, samples_per_batch=32)


@pytest.fixture(scope="module")
def batch(data: ActivationDataModule) -> HeldOutBatch:
    return next(iter(data.test_dataloader()))


@pytest.fixture
def perfect(data: ActivationDataModule, batch: HeldOutBatch) -> TideSAE:
    """Two latents a channel, one for what is above the mean and one for what is below; as many fire as it takes."""
    shape = SiteShape.of(data.site_shapes[SITE])
    sae = TideSAE(shape, expansion_factor=2, k=shape.d_in, known_part="mean", modulation="none")
    rows = torch.eye(shape.d_in)
    with torch.no_grad():
        sae.W_enc.copy_(torch.cat([rows, -rows]))
        sae.W_dec.copy_(torch.cat([rows, -rows]))
    statistics = KnownStatistics(sae.known)
    statistics.update(batch.tokens[SITE])
    statistics.fit()
    return sae.eval()


@torch.no_grad()
def measure(data: ActivationDataModule, sae: TideSAE, batch: HeldOutBatch) -> dict[str, Any]:
    """Reconstruction, health, lifetimes and fidelity."""
    tokens, call = batch.tokens[SITE], batch.call
    reconstruction = SiteReconstruction(sae, num_bins=4)
    lifetimes = Lifetimes(sae.d_sae, 4, torch.device("cpu"))
    output = sae(tokens)
    reconstruction.update(tokens, output)
    lifetimes.update(tokens, output)
    fidelity = Fidelity(data.denoiser, {SITE: sae}, {SITE: tokens.x.double().mean(0)}, num_bins=4)
    assert call.x0 is not None
    assert call.noise is not None
    target = data.denoiser.schedule.target(call.x0, call.noise, call.raw_t)
    fidelity.update(call.x_t, call.raw_t, call.conditioning, target, call.sample.tolist())
    losses = fidelity.compute()["sites"][SITE]
    return {**reconstruction.compute(), **losses, "lifetimes": lifetimes.compute()[0]}


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        if isinstance(value, float):
            assert found[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    assert found["lifetimes"] == expected["lifetimes"]


def test_a_perfect_sae(data: ActivationDataModule, perfect: TideSAE, batch: HeldOutBatch) -> None:
    found = measure(data, perfect, batch)
    assert found["fvu"] < 1e-10
    for name in ("explained_variance", "explained_variance_beyond_known", "cosine", "cosine_centred"):
        assert found[name] == pytest.approx(1), name
    assert found["l0"] == pytest.approx(perfect.d_in, abs=0.01)  # every channel is on one side of its mean
    assert found["loss_increase"] == pytest.approx(0, abs=1e-5)
    assert found["loss_recovered"] == pytest.approx(1, abs=1e-4)
    assert found["loss_known"] == pytest.approx(found["loss_ablated"])


def test_one_that_only_knows_the_mean(data: ActivationDataModule, perfect: TideSAE, batch: HeldOutBatch) -> None:
    with torch.no_grad():
        perfect.b_enc.fill_(-1e6)  # every latent is dead
    found = measure(data, perfect, batch)
    assert found["fvu"] == pytest.approx(1, abs=1e-5)
    assert found["explained_variance_beyond_known"] == pytest.approx(0, abs=1e-6)
    assert found["cosine"] > found["cosine_centred"]
    assert found["l0"] == found["alive_fraction"] == 0
    assert found["never_fired_fraction"] == 1
    assert found["lifetimes"]["latents"] == 0
    assert found["loss_spliced"] == found["loss_known"] == pytest.approx(found["loss_ablated"])
    assert found["loss_recovered"] == pytest.approx(0, abs=1e-4)


def test_one_that_is_half_dead(data: ActivationDataModule, perfect: TideSAE, batch: HeldOutBatch) -> None:
    with torch.no_grad():
        perfect.b_enc[perfect.d_in :] = -1e6  # what lies below the mean is not seen
    found = measure(data, perfect, batch)
    assert found["alive_fraction"] == 0.5
    below = (batch.tokens[SITE].x.double() - batch.tokens[SITE].x.double().mean(0)).clamp(max=0)
    spread = (batch.tokens[SITE].x.double() - batch.tokens[SITE].x.double().mean(0)).square().sum()
    assert found["fvu"] == pytest.approx(float(below.square().sum() / spread), rel=1e-4)


def test_the_order_of_latents_does_not_matter(
    data: ActivationDataModule, perfect: TideSAE, batch: HeldOutBatch
) -> None:
    expected, before = measure(data, perfect, batch), directions(perfect)
    order = torch.randperm(perfect.d_sae, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in (perfect.W_enc, perfect.W_dec, perfect.b_enc):
            parameter.copy_(parameter[order].clone())
    assert_same(measure(data, perfect, batch), expected)
    found = match(before, directions(perfect))
    assert found["max_cosine"] == pytest.approx(1)
    assert found["matched_share"] == 1


def test_the_scale_of_latents_does_not_matter(
    data: ActivationDataModule, perfect: TideSAE, batch: HeldOutBatch
) -> None:
    expected, before = measure(data, perfect, batch), directions(perfect)
    scale = torch.rand(perfect.d_sae, 1, generator=torch.Generator().manual_seed(0)) + 0.5
    with torch.no_grad():
        perfect.W_enc.mul_(scale)
        perfect.W_dec.div_(scale)
    assert_same(measure(data, perfect, batch), expected)
    torch.testing.assert_close(directions(perfect), before)


def test_a_reconstruction_that_is_too_small(data: ActivationDataModule, perfect: TideSAE, batch: HeldOutBatch) -> None:
    with torch.no_grad():
        perfect.W_dec.mul_(0.5)
    found = measure(data, perfect, batch)
    assert found["fvu"] == pytest.approx(0.25, rel=1e-4)  # of what the mean leaves, half is missing
    assert found["cosine_centred"] == pytest.approx(1, abs=1e-4)

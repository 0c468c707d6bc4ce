from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.evaluation.constructed import make_output, make_sae, make_tokens
from tests.saes.synthetic import SHAPE, tokens
from tide_lightning.evaluation import SiteFloors, SiteReconstruction
from tide_lightning.evaluation.floors import FittedFloors, FloorStatistics, floors_of
from tide_lightning.saes import SAE, KnownStatistics, TideSAE
from tide_lightning.tokens import TokenBatch


def fitted(sae: SAE, *batches: TokenBatch) -> FittedFloors:
    [floors] = floors_of({"site": sae}).values()
    statistics = FloorStatistics(floors)
    for batch in batches:
        statistics.update(batch)
    statistics.fit()
    return floors


def measure(num_bins: int = 5, **ingredients: float) -> dict[str, Any]:
    torch.manual_seed(0)
    sae = TideSAE(SHAPE, expansion_factor=2, k=3, known_part="input_token")
    calibration, heldout = tokens(20_000, seed=1, **ingredients), tokens(4000, seed=2, **ingredients)
    statistics = KnownStatistics(sae.known)
    statistics.update(calibration)
    statistics.fit()
    floors = SiteFloors(
        sae, fitted(sae, *(calibration.select(part) for part in torch.arange(20_000).chunk(3))), num_bins
    )
    with torch.no_grad():
        floors.update(heldout, sae(heldout))
    return floors.compute()


def test_each_rung_explains_more_than_the_one_below() -> None:
    found = measure(mean=3, time=3, place=1, input=0.3, rest=0.5)
    explained = [found[name]["explained_variance"] for name in ("mean", "mean_t", "mean_t_position", "known")]
    assert explained == sorted(explained)
    assert explained[0] == pytest.approx(0, abs=0.01)
    assert explained[1] > 0.1
    assert explained[2] > explained[1] + 0.2
    assert explained[3] > explained[2] + 0.1
    assert explained[3] < 1
    assert found["pca_k"]["explained_variance"] < found["pca_2k"]["explained_variance"]
    assert (found["pca_k"]["components"], found["pca_2k"]["components"]) == (3, 6)


def test_within_a_bin_the_means_over_time_explain_little() -> None:
    found = measure(time=3, rest=1)
    assert found["mean_t"]["explained_variance"] > 0.3
    for row in found["mean_t"]["by_timestep"]:
        assert -0.1 < row["explained_variance"] < 0.3
    assert [row["low"] for row in found["mean"]["by_timestep"]] == [0, 0.2, 0.4, 0.6, 0.8]


def test_principal_components_of_data_of_known_rank() -> None:
    draw = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(6, 6, generator=draw))[0]
    scales = torch.tensor([3.0, 2.0, 1.0, 0.5, 0.0, 0.0])
    x = torch.randn(20_000, 6, generator=draw) * scales @ basis + 10
    batch = make_tokens(x)
    sae = make_sae(k=2)
    floors = SiteFloors(sae, fitted(sae, batch), 5)
    floors.update(batch, make_output(batch, x))
    found = floors.compute()
    whole = float(scales.square().sum())
    assert found["pca_k"]["explained_variance"] == pytest.approx((9 + 4) / whole, abs=0.01)
    assert found["pca_2k"]["explained_variance"] == pytest.approx(1, abs=1e-6)
    assert found["mean"]["mse"] == pytest.approx(whole / 6, rel=0.02)
    assert floors.fitted.mean == pytest.approx(x.double().mean(0))


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_activations_have_defined_figures(value: float) -> None:
    tokens = make_tokens(torch.full((400, 6), value))
    sae = make_sae(d_in=6)
    floors, found = SiteFloors(sae, fitted(sae, tokens), num_bins=4), SiteReconstruction(sae, num_bins=4)
    exact, wrong = (make_output(tokens, tokens.x + shift) for shift in (0.0, 1.0))
    floors.update(tokens, exact)
    assert floors.compute()["mean"]["explained_variance"] == 1
    found.update(tokens, exact)
    assert found.compute()["explained_variance"] == 1
    found = SiteReconstruction(sae, num_bins=4)
    found.update(tokens, wrong)
    assert found.compute()["explained_variance"] == 0

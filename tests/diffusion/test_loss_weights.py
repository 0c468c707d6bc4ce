"""How a denoiser's training weighed errors: what is said, what is assumed, what is refused."""

from __future__ import annotations

import pytest
import torch

from tests.diffusion.predicted import predicted_x0
from tide_lightning.diffusion import load_denoiser
from tide_lightning.diffusion.loss_weights import check_weights, default_weights, loss_weight
from tide_lightning.diffusion.schedule import Flow, VariancePreserving
from tide_lightning.errors import UserError
from tide_lightning.grounds.toybox import PIPELINE

TABLE = torch.linspace(0.999, 0.001, 100)
TIMES = torch.tensor([0.0, 20.0, 50.0, 80.0, 99.0])


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weighs_the_error_of_x0_whatever_is_predicted(gamma: float) -> None:
    for prediction in ("epsilon", "v_prediction", "sample"):
        schedule = VariancePreserving(TABLE, prediction)
        x0, noise = torch.randn(5, 3).double(), torch.randn(5, 3).double()
        x_t = schedule.add_noise(x0, noise, TIMES)
        wrong = schedule.target(x0, noise, TIMES) + 0.1
        error = (predicted_x0(schedule, x_t, wrong, TIMES) - x0).square().mean(1)
        snr = schedule.log_snr(TIMES).double().exp()
        weighed = loss_weight(f"min_snr:{gamma:g}", schedule, TIMES) * 0.01
        torch.testing.assert_close(weighed, error * snr.clamp(max=gamma), rtol=1e-3, atol=1e-6)
        assert loss_weight("uniform", schedule, TIMES).tolist() == [1] * 5


def test_what_is_said_and_what_is_assumed() -> None:
    assert load_denoiser(PIPELINE).loss_weights == "min_snr:5"
    assert load_denoiser(PIPELINE, loss_weights="uniform").loss_weights == "uniform"
    assert default_weights(VariancePreserving(TABLE, "v_prediction")) == "uniform"
    assert default_weights(Flow(1000.0)) is None


def test_what_is_refused() -> None:
    for name in ("min_snr", "min_snr:-1", "p2"):
        with pytest.raises(UserError, match="loss_weights"):
            check_weights(name, VariancePreserving(TABLE, "epsilon"))
    with pytest.raises(UserError, match="predicts flow"):
        check_weights("min_snr:5", Flow(1000.0))

"""How a denoiser's training weighed its errors at each t, where that is known.

Errors cost it so much and no more: an SAE that saves what training hardly looked at saves little.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from tide_lightning.diffusion.schedule import Schedule
from tide_lightning.errors import UserError

UNIFORM = "uniform"
"""The squared error of the prediction at every t alike, t drawn evenly."""

_MIN_SNR = re.compile(r"min_snr:(\d+(?:\.\d+)?)")
"""Min-SNR (Hang et al., arXiv 2303.09556) with its gamma: the error of x_0 times min(SNR, gamma)."""


def default_weights(schedule: Schedule) -> str | None:
    """What is assumed where nobody says: flows are trained with t drawn unevenly in many ways, the others evenly."""
    return None if schedule.prediction == "flow" else UNIFORM


def check_weights(name: str, schedule: Schedule) -> str:
    """The name, if it means something for this schedule."""
    if name == UNIFORM or (_MIN_SNR.fullmatch(name) and schedule.prediction != "flow"):
        return name
    raise UserError(
        f"loss_weights: there is no {name!r} for a denoiser that predicts {schedule.prediction}; give {UNIFORM},"
        " or for epsilon, v_prediction and sample min_snr:GAMMA, such as min_snr:5"
    )


def loss_weight(name: str, schedule: Schedule, raw_t: Tensor) -> Tensor:
    """By how much training multiplied the squared error of the prediction at raw_t [N], t drawn evenly [N] float64."""
    found = _MIN_SNR.fullmatch(name)
    if found is None:
        return torch.ones(len(raw_t), dtype=torch.float64, device=raw_t.device)
    snr = schedule.log_snr(raw_t).double().exp()
    capped = snr.clamp(max=float(found[1]))
    return {"epsilon": capped / snr, "sample": capped, "v_prediction": capped / (snr + 1)}[schedule.prediction]

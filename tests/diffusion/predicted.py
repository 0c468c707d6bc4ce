from torch import Tensor

from tide_lightning.diffusion.schedule import Schedule


def predicted_x0(schedule: Schedule, x_t: Tensor, prediction: Tensor, raw_t: Tensor) -> Tensor:
    """The clean latent that a prediction implies."""
    alpha, sigma = _weights(schedule, x_t, raw_t)
    return {
        "epsilon": (x_t - sigma * prediction) / alpha.clamp_min(1e-6),
        "sample": prediction,
        "v_prediction": alpha * x_t - sigma * prediction,
        "flow": (x_t - sigma * prediction) / (alpha + sigma),
    }[schedule.prediction]


def predicted_noise(schedule: Schedule, x_t: Tensor, prediction: Tensor, raw_t: Tensor) -> Tensor:
    """The noise that a prediction implies."""
    alpha, sigma = _weights(schedule, x_t, raw_t)
    return {
        "epsilon": prediction,
        "sample": (x_t - alpha * prediction) / sigma.clamp_min(1e-6),
        "v_prediction": sigma * x_t + alpha * prediction,
        "flow": (x_t + alpha * prediction) / (alpha + sigma),
    }[schedule.prediction]


def _weights(schedule: Schedule, like: Tensor, raw_t: Tensor) -> tuple[Tensor, Tensor]:
    alpha, sigma = schedule.alpha_sigma(raw_t)
    shape = (-1,) + (1,) * (like.ndim - 1)
    return alpha.reshape(shape), sigma.reshape(shape)

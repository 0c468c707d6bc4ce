"""What may be wrong with a fit that gets nowhere."""

from __future__ import annotations

_GREAT_LOSS = 1e3  # in normalised units, where predicting nothing costs about 1
_SMALL_PART = 0.1  # of the variance; the known part alone explains more almost everywhere


def doubt_about(site: str, loss: float, explained_variance: float) -> str | None:
    """A line about an SAE behind its warm-up, and what to try; None where nothing is odd."""
    if loss > _GREAT_LOSS:
        return (
            f"the loss at {site} is {loss:.1e} after warm-up: lower model.lr; if data.num_calibration_samples is "
            "small, raise it (predicting nothing costs about 1)"
        )
    if explained_variance < _SMALL_PART:
        return (
            f"{site} explains {100 * explained_variance:.1f} % of the variance after warm-up: lower model.lr if its "
            "loss rises; if it falls, raise trainer.max_steps; or k is too small for this site"
        )
    return None

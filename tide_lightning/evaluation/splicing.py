"""Splicing, under the evaluation's name. The monitor of a training needs it too, so it lives with the callbacks."""

from tide_lightning.callbacks.splicing import (
    Predictor,
    SplicedDenoiser,
    constant,
    known_alone,
    reconstruct_by,
    site_context,
    why_not,
)

__all__ = [
    "Predictor",
    "SplicedDenoiser",
    "constant",
    "known_alone",
    "reconstruct_by",
    "site_context",
    "why_not",
]

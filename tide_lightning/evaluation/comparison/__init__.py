"""`tide compare`: tested runs beside each other, repetitions with other seeds taken together."""

from tide_lightning.evaluation.comparison.command import compare

__all__ = ["compare"]

"""The toybox's benchmark in `tide test`: what latents mean, and what they cause, against the truth."""

from tide_lightning.toybox.benchmark.callback import ToyboxBenchmark
from tide_lightning.toybox.benchmark.features import OracleFeatures

__all__ = ["OracleFeatures", "ToyboxBenchmark"]

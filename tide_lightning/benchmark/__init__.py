"""The benchmark in `tide test`: what latents mean, and what they cause, against the truth of a ground."""

from tide_lightning.benchmark.callback import GroundBenchmark

__all__ = ["GroundBenchmark"]

"""The atlas: every live latent on a page of its own, found by words, time, block and factor."""

from tide_lightning.explore.atlas.build import build_atlas

__all__ = ["build_atlas"]

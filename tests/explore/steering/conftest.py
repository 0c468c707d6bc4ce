"""The shipped pipeline and untrained SAEs, made once."""

from tests.untrained import denoiser, sae, saes

__all__ = ["denoiser", "sae", "saes"]

"""Temporal-aware sparse autoencoders for diffusion transformers."""

__version__ = "0.1.0"

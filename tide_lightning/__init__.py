"""Temporal-aware sparse autoencoders for diffusion transformers."""

import os

# PyTorch reads this once, at its first allocation: large tensors get large pages. Without, a step of a large SAE spends
# an eighth of its time on page faults (docs/numerics.md). Linux only; set it to 0 to leave things as they are.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

__version__ = "0.1.0"

"""What the toybox's oracle sees in an image, as features for Fréchet distances."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tide_lightning.grounds.toybox.oracle import OracleName, load_oracle


class OracleFeatures(nn.Module):
    """The last hidden layer of an oracle: 128 numbers that say what stands where.

    Args:
        oracle: a or b.
    """

    num_features = 128

    def __init__(self, oracle: OracleName = "a") -> None:
        super().__init__()
        body = load_oracle(oracle).body
        assert isinstance(body, nn.Sequential)
        self.body = body[:-1]

    @torch.no_grad()
    def forward(self, images_N3HW: Tensor) -> Tensor:
        """Features [N, 128] of images [N, 3, 64, 64] in [0, 1]."""
        features: Tensor = self.body(2 * images_N3HW - 1)
        return features

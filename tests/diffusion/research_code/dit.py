"""facebookresearch/DiT, and SiT as willisma/SiT releases it: noise at time 0."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.diffusion.research_code.parts import (
    DEPTH,
    WIDTH,
    Block,
    FinalLayer,
    LabelEmbedder,
    PatchEmbed,
    TimestepEmbedder,
    unpatchify,
)


class DiT(nn.Module):
    """x [N, C, H, W], t [N], y [N] to [N, 2 C, H, W]."""

    def __init__(
        self,
        input_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        num_classes: int = 1000,
        learn_sigma: bool = True,
    ) -> None:
        super().__init__()
        self.patch_size, self.num_tokens = patch_size, (input_size // patch_size) ** 2
        out_channels = 2 * in_channels if learn_sigma else in_channels
        self.x_embedder = PatchEmbed(patch_size, in_channels, WIDTH)
        self.t_embedder, self.y_embedder = TimestepEmbedder(WIDTH), LabelEmbedder(num_classes, WIDTH)
        self.pos_embed = nn.Parameter(torch.randn(1, self.num_tokens, WIDTH), requires_grad=False)
        self.blocks = nn.ModuleList([Block(WIDTH) for _ in range(DEPTH)])
        self.final_layer = FinalLayer(WIDTH, patch_size**2 * out_channels)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        x = self.x_embedder(x) + self.pos_embed
        c = self.t_embedder(t) + self.y_embedder(y, self.training)
        for block in self.blocks:
            x = block(x, c)
        return unpatchify(self.final_layer(x, c), self.patch_size)


class SiT(DiT):
    """Drops the learned variance itself."""

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return super().forward(x, t, y)[:, : x.shape[1]]


DiT_models = {"DiT-XL/2": DiT}
SiT_models = {"SiT-XL/2": SiT}

"""sihyun-yu/REPA: a SiT with noise at time 1, which gives its projections along."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


class SiT(nn.Module):
    """x [N, C, H, W], t [N], y [N] to ([N, C, H, W], projections of a block's tokens)."""

    def __init__(
        self,
        path_type: str = "edm",
        input_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        encoder_depth: int = 8,
        num_classes: int = 1000,
        use_cfg: bool = False,
        z_dims: Sequence[int] = (768,),
        projector_dim: int = 64,
        **block_kwargs: Any,
    ) -> None:
        super().__init__()
        assert {"qk_norm"} <= set(block_kwargs) <= {"fused_attn", "qk_norm"}
        self.patch_size, self.encoder_depth = patch_size, min(encoder_depth, DEPTH - 1)
        self.x_embedder = PatchEmbed(patch_size, in_channels, WIDTH)
        self.t_embedder, self.y_embedder = TimestepEmbedder(WIDTH), LabelEmbedder(num_classes, WIDTH)
        self.pos_embed = nn.Parameter(torch.randn(1, (input_size // patch_size) ** 2, WIDTH), requires_grad=False)
        self.blocks = nn.ModuleList([Block(WIDTH) for _ in range(DEPTH)])
        inner = [(WIDTH, projector_dim), (projector_dim, projector_dim)]
        self.projectors = nn.ModuleList(
            nn.Sequential(
                *(part for sizes in inner for part in (nn.Linear(*sizes), nn.SiLU())), nn.Linear(inner[1][1], z)
            )
            for z in z_dims
        )
        self.final_layer = FinalLayer(WIDTH, patch_size**2 * in_channels)

    def forward(self, x: Tensor, t: Tensor, y: Tensor, return_logvar: bool = False) -> tuple[Tensor, list[Tensor]]:
        x = self.x_embedder(x) + self.pos_embed
        c = self.t_embedder(t) + self.y_embedder(y, self.training)
        projected: list[Tensor] = []
        for number, block in enumerate(self.blocks, 1):
            x = block(x, c)
            if number == self.encoder_depth:
                projected = [projector(x) for projector in self.projectors]
        return unpatchify(self.final_layer(x, c), self.patch_size), projected


SiT_models = {"SiT-XL/2": SiT}

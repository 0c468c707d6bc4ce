"""Small models that are called as three research code bases call theirs: what their adapters are tested on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, rope: Any = None) -> Tensor:
        q, k, v = self.qkv(x)[:, None].chunk(3, dim=-1)
        return self.proj(nn.functional.scaled_dot_product_attention(q, k, v)[:, 0])  # type: ignore[no-any-return]


class Block(nn.Module):
    """Called with positions only; LightningDiT's third is its rotary embedding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attn, self.adaLN_modulation = Attention(width), nn.Linear(width, 2 * width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, c: Tensor, feat_rope: Any = None) -> Tensor:
        shift, scale = self.adaLN_modulation(c)[:, None].chunk(2, dim=-1)
        x = x + self.attn(self.norm(x) * (1 + scale) + shift, feat_rope)
        return x + self.mlp(self.norm(x))  # type: ignore[no-any-return]


class Model(nn.Module):
    """x [N, C, H, W], t [N], y [N] to [N, C or 2 C, H, W]."""

    def __init__(
        self,
        input_size: int,
        num_classes: int,
        patch_size: int = 2,
        in_channels: int = 4,
        learn_sigma: bool = True,
        use_rope: bool = False,
    ) -> None:
        super().__init__()
        width, self.patch_size = 32, patch_size
        self.out_channels = 2 * in_channels if learn_sigma else in_channels
        self.x_embedder = nn.Conv2d(in_channels, width, patch_size, patch_size)
        self.pos_embed = nn.Parameter(torch.zeros(1, (input_size // patch_size) ** 2, width))
        self.t_embedder, self.y_embedder = nn.Linear(1, width), nn.Embedding(num_classes + 1, width)
        self.feat_rope = nn.Identity() if use_rope else None
        self.blocks = nn.ModuleList([Block(width) for _ in range(3)])
        self.final_layer = nn.Linear(width, patch_size**2 * self.out_channels)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        rows = x.shape[-1] // self.patch_size
        tokens = self.x_embedder(x).flatten(2).mT + self.pos_embed
        c = self.t_embedder(t.to(x.dtype)[:, None] / 10) + self.y_embedder(y)
        for block in self.blocks:
            tokens = block(tokens, c) if self.feat_rope is None else block(tokens, c, self.feat_rope)
        patches = (
            self.final_layer(tokens).unflatten(1, (rows, rows)).unflatten(-1, (self.patch_size, -1, self.out_channels))
        )
        return torch.einsum("nhwpqc->nchpwq", patches).flatten(4).flatten(2, 3)


DiT_models = {"DiT-XL/2": Model}
SiT_models = {"SiT-XL/2": Model}


def lightning_dit(**sizes: Any) -> Model:
    return Model(patch_size=1, learn_sigma=False, **sizes)


LightningDiT_models = {"LightningDiT-XL/1": lightning_dit}

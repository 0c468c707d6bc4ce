"""RERV/VDT: a DiT of videos, whose blocks hold the frames in the batch; and one that holds windows there."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from tests.diffusion.research_code.dit import DiT
from tests.diffusion.research_code.parts import (
    DEPTH,
    WIDTH,
    Attention,
    FinalLayer,
    LabelEmbedder,
    Mlp,
    PatchEmbed,
    TimestepEmbedder,
    unpatchify,
)


class VDTBlock(nn.Module):
    """Attention over frames at each place, then over places in each frame."""

    def __init__(self, width: int, num_frames: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, elementwise_affine=False, eps=1e-6) for _ in range(2))
        self.attn, self.mlp = Attention(width), Mlp(width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.num_frames = num_frames
        self.temporal_norm1, self.temporal_attn = nn.LayerNorm(width), Attention(width)
        self.temporal_fc = nn.Linear(width, width)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        frames = self.num_frames
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = (
            part.repeat_interleave(frames, 0).unsqueeze(1) for part in self.adaLN_modulation(c).chunk(6, dim=1)
        )
        places = x.shape[1]
        along = self.temporal_attn(self.temporal_norm1(rearrange(x, "(b t) n m -> (b n) t m", t=frames)))
        x = x + self.temporal_fc(rearrange(along, "(b n) t m -> (b t) n m", n=places))
        x = x + gate * self.attn(self.norm1(x) * (1 + scale) + shift)
        return x + gate_mlp * self.mlp(self.norm2(x) * (1 + scale_mlp) + shift_mlp)  # type: ignore[no-any-return]


class VDT(nn.Module):
    """x [N, T, C, H, W], t [N], y [N] to [N, T, 2 C, H, W]."""

    def __init__(
        self,
        input_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        num_classes: int = 1000,
        mode: str = "video",
        num_frames: int = 16,
    ) -> None:
        super().__init__()
        assert mode == "video"
        self.patch_size, self.num_frames = patch_size, num_frames
        self.x_embedder = PatchEmbed(patch_size, in_channels, WIDTH)
        self.t_embedder, self.y_embedder = TimestepEmbedder(WIDTH), LabelEmbedder(num_classes, WIDTH)
        self.pos_embed = nn.Parameter(torch.randn(1, (input_size // patch_size) ** 2, WIDTH), requires_grad=False)
        self.time_embed = nn.Parameter(torch.randn(1, num_frames, WIDTH), requires_grad=False)
        self.blocks = nn.ModuleList([VDTBlock(WIDTH, num_frames) for _ in range(DEPTH)])
        self.final_layer = FinalLayer(WIDTH, patch_size**2 * 2 * in_channels)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        frames = x.shape[1]
        x = self.x_embedder(x.flatten(0, 1)) + self.pos_embed
        x = rearrange(x, "(b t) n m -> b t n m", t=frames) + self.time_embed[0, :, None]
        x = x.flatten(0, 1)
        c = self.t_embedder(t) + self.y_embedder(y, self.training)
        for block in self.blocks:
            x = block(x, c)
        x = unpatchify(self.final_layer(x, c.repeat_interleave(frames, 0)), self.patch_size)
        return rearrange(x, "(b t) c h w -> b t c h w", t=frames)


VDT_models = {"VDT-L/2": VDT}


class WindowedBlock(nn.Module):
    """[4 N, 64, d] of N 16x16 images: DiT's block within each of four windows."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.inner(x, c.repeat_interleave(4, 0))  # type: ignore[no-any-return]


class WindowedDiT(DiT):
    """A DiT whose blocks see windows of 8x8; `rolled` shifts them by half a window, as every other one of Swin's."""

    def __init__(self, rolled: bool = False, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.rolled = 4 if rolled else 0
        self.blocks = nn.ModuleList([WindowedBlock(block) for block in self.blocks])

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        x = self.x_embedder(x) + self.pos_embed
        c = self.t_embedder(t) + self.y_embedder(y, self.training)
        x = rearrange(x, "b (h w) d -> b h w d", h=16).roll((self.rolled, self.rolled), (1, 2))
        x = rearrange(x, "b (h i) (w j) d -> (b h w) (i j) d", h=2, w=2)
        for block in self.blocks:
            x = block(x, c)
        x = rearrange(x, "(b h w) (i j) d -> b (h i) (w j) d", h=2, w=2, i=8)
        x = rearrange(x.roll((-self.rolled, -self.rolled), (1, 2)), "b h w d -> b (h w) d")
        return unpatchify(self.final_layer(x, c), self.patch_size)

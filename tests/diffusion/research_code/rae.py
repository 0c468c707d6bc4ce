"""bytetriper/RAE: many blocks of one width, few of another, on the tokens of an image encoder; noise at time 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tests.diffusion.research_code.lightningdit import RMSNorm, SwiGLUFFN, VisionRotaryEmbeddingFast
from tests.diffusion.research_code.parts import Attention, LabelEmbedder, PatchEmbed, unpatchify

WIDTHS, DEPTHS = (32, 48), (2, 1)


class GaussianFourierEmbedding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(256), requires_grad=False)
        self.mlp = nn.Sequential(nn.Linear(512, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        angles = 2 * torch.pi * t[:, None] * self.W
        return self.mlp(torch.cat([angles.sin(), angles.cos()], 1))  # type: ignore[no-any-return]


class LightningDDTBlock(nn.Module):
    """Told by a vector for each token, or one for all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.attn, self.mlp = Attention(width), SwiGLUFFN(width, int(2 / 3 * 4 * width))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor, feat_rope: Any = None) -> Tensor:
        told = self.adaLN_modulation(c if c.ndim == 3 else c.unsqueeze(1))
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = told.chunk(6, dim=-1)
        x = x + gate * self.attn(self.norm1(x) * (1 + scale) + shift, rope=feat_rope)
        return x + gate_mlp * self.mlp(self.norm2(x) * (1 + scale_mlp) + shift_mlp)  # type: ignore[no-any-return]


class DDTFinalLayer(nn.Module):
    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.norm_final, self.linear = RMSNorm(width), nn.Linear(width, out_width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=-1)
        return self.linear(self.norm_final(x) * (1 + scale) + shift)  # type: ignore[no-any-return]


class DiTwDDTHead(nn.Module):
    """x [N, C, H, W], t [N], y [N] to [N, C, H, W]."""

    def __init__(
        self,
        input_size: int = 1,
        patch_size: int = 1,
        in_channels: int = 768,
        hidden_size: Sequence[int] = (1152, 2048),
        depth: Sequence[int] = (28, 2),
        num_heads: Sequence[int] = (16, 16),
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        assert [list(pair) for pair in (hidden_size, depth, num_heads)] == [[1152, 2048], [28, 2], [16, 16]]
        width, decoder_width = WIDTHS
        self.s_embedder = PatchEmbed(patch_size, in_channels, width)
        self.x_embedder = PatchEmbed(patch_size, in_channels, decoder_width)
        self.s_projector = nn.Linear(width, decoder_width)
        self.t_embedder, self.y_embedder = GaussianFourierEmbedding(width), LabelEmbedder(num_classes, width)
        self.pos_embed = nn.Parameter(torch.randn(1, (input_size // patch_size) ** 2, width), requires_grad=False)
        self.enc_feat_rope = VisionRotaryEmbeddingFast(width // 4, input_size // patch_size)
        self.dec_feat_rope = VisionRotaryEmbeddingFast(decoder_width // 4, input_size // patch_size)
        widths = [width] * DEPTHS[0] + [decoder_width] * DEPTHS[1]
        self.blocks = nn.ModuleList([LightningDDTBlock(each) for each in widths])
        self.final_layer = DDTFinalLayer(decoder_width, patch_size**2 * in_channels)

    def forward(self, x: Tensor, t: Tensor, y: Tensor, s: Any = None, mask: Any = None) -> Tensor:
        told = self.t_embedder(t)
        c = nn.functional.silu(told + self.y_embedder(y, self.training))
        tokens = self.s_embedder(x) + self.pos_embed
        for block in self.blocks[: DEPTHS[0]]:
            tokens = block(tokens, c, feat_rope=self.enc_feat_rope)
        tokens = self.s_projector(nn.functional.silu(told.unsqueeze(1) + tokens))
        x = self.x_embedder(x)
        for block in self.blocks[DEPTHS[0] :]:
            x = block(x, tokens, feat_rope=self.dec_feat_rope)
        return unpatchify(self.final_layer(x, tokens), 1)

"""hustvl/LightningDiT: a SiT whose blocks are compiled; SwiGLU and RMSNorm are off unless the configuration says so."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tests.diffusion.research_code.parts import (
    DEPTH,
    WIDTH,
    Attention,
    LabelEmbedder,
    Mlp,
    PatchEmbed,
    TimestepEmbedder,
    unpatchify,
)

# Theirs is torch.compile alone; inductor takes seconds to import, and it is the tracing that hides parts.
compiled = partial(torch.compile, backend="eager")


@compiled
def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, self.weight.shape, self.weight, 1e-6)


class SwiGLUFFN(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w12, self.w3 = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(nn.functional.silu(gate) * value)  # type: ignore[no-any-return]


class VisionRotaryEmbeddingFast(nn.Module):
    """Turns the two halves of a head against each other; its tables are saved."""

    freqs_cos: Tensor
    freqs_sin: Tensor

    def __init__(self, dim: int, pt_seq_len: int) -> None:
        super().__init__()
        places = torch.cartesian_prod(*[torch.arange(pt_seq_len).float()] * 2)
        frequencies = (torch.arange(dim // 2) * (math.log(1e-4) / (dim // 2 - 1))).exp()
        angles = (places[:, :, None] * frequencies).flatten(1).repeat_interleave(2, dim=1)
        self.register_buffer("freqs_cos", angles.cos())
        self.register_buffer("freqs_sin", angles.sin())

    def forward(self, x: Tensor) -> Tensor:
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
        return x * self.freqs_cos + torch.stack([-odd, even], -1).flatten(-2) * self.freqs_sin


def norm(width: int, use_rmsnorm: bool) -> nn.Module:
    return RMSNorm(width) if use_rmsnorm else nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)


class LightningDiTBlock(nn.Module):
    def __init__(self, width: int, use_swiglu: bool = False, use_rmsnorm: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(width, use_rmsnorm), norm(width, use_rmsnorm)
        self.attn = Attention(width)
        self.mlp = SwiGLUFFN(width, int(2 / 3 * 4 * width)) if use_swiglu else Mlp(width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    @compiled
    def forward(self, x: Tensor, c: Tensor, feat_rope: Any = None) -> Tensor:
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(c).chunk(6, dim=1)
        x = x + gate.unsqueeze(1) * self.attn(modulate(self.norm1(x), shift, scale), rope=feat_rope)
        return x + gate_mlp.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp))  # type: ignore[no-any-return]


class FinalLayer(nn.Module):
    def __init__(self, width: int, out_width: int, use_rmsnorm: bool = False) -> None:
        super().__init__()
        self.norm_final = norm(width, use_rmsnorm)
        self.linear = nn.Linear(width, out_width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    @compiled
    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(x), shift, scale))  # type: ignore[no-any-return]


class LightningDiT(nn.Module):
    """x [N, C, H, W], t [N] from noise at 0 to data at 1, y [N] to [N, C, H, W]."""

    def __init__(
        self,
        input_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 32,
        num_classes: int = 1000,
        learn_sigma: bool = False,
        use_swiglu: bool = False,
        use_rope: bool = False,
        use_rmsnorm: bool = False,
    ) -> None:
        super().__init__()
        assert not learn_sigma
        rows = input_size // patch_size
        self.patch_size = patch_size
        self.x_embedder = PatchEmbed(patch_size, in_channels, WIDTH)
        self.t_embedder, self.y_embedder = TimestepEmbedder(WIDTH), LabelEmbedder(num_classes, WIDTH)
        self.pos_embed = nn.Parameter(torch.randn(1, rows**2, WIDTH), requires_grad=False)
        self.feat_rope = VisionRotaryEmbeddingFast(WIDTH // 2 // 2, rows) if use_rope else None
        self.blocks = nn.ModuleList([LightningDiTBlock(WIDTH, use_swiglu, use_rmsnorm) for _ in range(DEPTH)])
        self.final_layer = FinalLayer(WIDTH, patch_size**2 * in_channels, use_rmsnorm)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        x = self.x_embedder(x) + self.pos_embed
        c = self.t_embedder(t) + self.y_embedder(y, self.training)
        for block in self.blocks:
            x = block(x, c, self.feat_rope)
        return unpatchify(self.final_layer(x, c), self.patch_size)


def lightning_dit_xl_1(**sizes: Any) -> LightningDiT:
    return LightningDiT(patch_size=1, **sizes)


LightningDiT_models = {"LightningDiT-XL/1": lightning_dit_xl_1}

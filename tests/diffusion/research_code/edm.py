"""NVlabs/edm: a preconditioned U-Net on pixels, told sigma and a class as one-hot; it gives clean images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

SHARE = 16  # of the released width


class UNetBlock(nn.Module):
    def __init__(self, width_in: int, width: int, emb: int, step: str = "", attention: bool = False) -> None:
        super().__init__()
        self.in_channels, self.step = width_in, step
        self.norm0, self.conv0 = nn.GroupNorm(2, width_in), nn.Conv2d(width_in, width, 3, padding=1)
        self.affine, self.skip = nn.Linear(emb, width), nn.Conv2d(width_in, width, 1)
        self.norm1, self.conv1 = nn.GroupNorm(2, width), nn.Conv2d(width, width, 3, padding=1)
        self.qkv = nn.Conv2d(width, 3 * width, 1) if attention else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        if self.step == "down":
            x = nn.functional.avg_pool2d(x, 2)
        if self.step == "up":
            x = nn.functional.interpolate(x, scale_factor=2)
        y = self.conv0(nn.functional.silu(self.norm0(x))) + self.affine(emb)[:, :, None, None]
        x = self.skip(x) + self.conv1(nn.functional.silu(self.norm1(y)))
        if self.qkv is not None:
            q, k, v = rearrange(self.qkv(x), "n (s c) h w -> s n (h w) c", s=3)
            mixed = nn.functional.scaled_dot_product_attention(q, k, v)
            x = x + rearrange(mixed, "n (h w) c -> n c h w", h=x.shape[2])
        return x


class SongUNet(nn.Module):
    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
    ) -> None:
        super().__init__()
        width = model_channels * channel_mult[0] // SHARE
        emb, low = 4 * width, img_resolution // 2
        self.map_layer0, self.map_label = nn.Linear(32, emb), nn.Linear(label_dim, 32, bias=False)
        self.map_augment = nn.Linear(augment_dim, 32, bias=False) if augment_dim else None
        full, half = f"{img_resolution}x{img_resolution}", f"{low}x{low}"
        attends = low in attn_resolutions
        self.enc = nn.ModuleDict(
            {
                f"{full}_conv": nn.Conv2d(in_channels, width, 3, padding=1),
                f"{full}_block0": UNetBlock(width, width, emb),
                f"{half}_down": UNetBlock(width, width, emb, "down"),
                f"{half}_block0": UNetBlock(width, width, emb, attention=attends),
            }
        )
        self.dec = nn.ModuleDict(
            {
                f"{half}_in0": UNetBlock(width, width, emb, attention=True),
                f"{half}_block0": UNetBlock(2 * width, width, emb, attention=attends),
                f"{full}_up": UNetBlock(width, width, emb, "up"),
                f"{full}_block0": UNetBlock(2 * width, width, emb),
            }
        )
        self.out = nn.Conv2d(width, out_channels, 3, padding=1)

    def forward(self, x: Tensor, noise_labels: Tensor, class_labels: Tensor, augment_labels: Any = None) -> Tensor:
        angles = noise_labels[:, None] * 1e-2 ** torch.linspace(0, 1, 16, device=x.device)
        emb = torch.cat([angles.cos(), angles.sin()], 1) + self.map_label(class_labels)
        emb = nn.functional.silu(self.map_layer0(emb))
        passed = []
        for block in self.enc.values():
            x = block(x, emb) if isinstance(block, UNetBlock) else block(x)
            passed.append(x)
        skips = [passed[3], passed[1]]
        for block in self.dec.values():
            x = torch.cat([x, skips.pop(0)], 1) if x.shape[1] != block.in_channels else x
            x = block(x, emb)
        return self.out(x)  # type: ignore[no-any-return]


class EDMPrecond(nn.Module):
    """x = image + sigma noise [N, C, H, W], sigma [N], one-hot [N, classes] to the image [N, C, H, W]."""

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = False,
        sigma_data: float = 0.5,
        model_type: str = "DhariwalUNet",
        **model_kwargs: Any,
    ) -> None:
        super().__init__()
        assert model_type == "SongUNet"
        self.label_dim, self.sigma_data = label_dim, sigma_data
        self.model = SongUNet(img_resolution, img_channels, img_channels, label_dim, **model_kwargs)

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        sigma, data = sigma.reshape(-1, 1, 1, 1), self.sigma_data
        labels = x.new_zeros(1, self.label_dim) if class_labels is None else class_labels.float()
        norm = (sigma**2 + data**2).sqrt()
        shown = self.model(x / norm, sigma.log().flatten() / 4, class_labels=labels)
        return data**2 / norm**2 * x + sigma * data / norm * shown  # type: ignore[no-any-return]

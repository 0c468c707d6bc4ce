"""DiT: class labels in place of prompts, adaptive norms that read timestep and class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tide_lightning.diffusion.class_labels import ClassConditional


class DiT(ClassConditional):
    """diffusers' DiTTransformer2DModel in a DiTPipeline."""

    @property
    def num_classes(self) -> int:  # type: ignore[override]  # read from the model here, declared elsewhere
        """ImageNet's, in published DiTs."""
        return int(self.config.num_embeds_ada_norm)

    @property
    def class_names(self) -> Mapping[str, int]:
        """As the pipeline has them."""
        names: dict[str, int] = self.pipeline.labels
        return names

    def entry_modulation(self, block: int | None, raw_t: Tensor) -> tuple[Tensor, Tensor]:
        """For no class: adaptive norms read the class too."""
        return adaptive_norm(self, block, raw_t)


def adaptive_norm(denoiser: ClassConditional, block: int | None, raw_t: Tensor) -> tuple[Tensor, Tensor]:
    """Shift and scale [G, d] of a block of a DiTTransformer2DModel (None: its output layer) for no class."""
    module: Any = denoiser.module
    none = torch.full((len(raw_t),), denoiser.num_classes, device=raw_t.device)
    norm = module.transformer_blocks[block or 0].norm1
    embedded = torch.nn.functional.silu(norm.emb(raw_t, none, hidden_dtype=denoiser.dtype))
    if block is None:
        shift, scale = module.proj_out_1(embedded).chunk(2, dim=1)
    else:
        shift, scale = norm.linear(embedded).chunk(6, dim=1)[:2]
    return shift, scale

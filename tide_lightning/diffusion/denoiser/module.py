"""The frozen transformer itself: where it is, how precise, which weights."""

from __future__ import annotations

import hashlib
from abc import ABC
from typing import Any

import torch
from torch import Tensor, nn


class HoldsModule(ABC):
    """A frozen transformer and the pipeline that owns what belongs to it.

    Attributes:
        module: the transformer.
        pipeline: the diffusers pipeline that owns VAE and text encoders; None where only shapes are wanted.
    """

    module: nn.Module
    pipeline: Any
    _told: tuple[torch.dtype, torch.dtype] | None = None  # of the first weight, and of the forward

    @property
    def config(self) -> Any:
        """The transformer's configuration."""
        return self.module.config

    @property
    def device(self) -> torch.device:
        """Where the transformer is."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the transformer's forward; diffusers' models tell it apart from parts kept in float32."""
        held = next(self.module.parameters()).dtype
        if self._told is None or self._told[0] != held:  # asked again only then: they look through all of their parts
            told = getattr(self.module, "dtype", None)
            self._told = held, told if isinstance(told, torch.dtype) else held
        return self._told[1]

    def zeros(self, *shape: int) -> Tensor:
        """Zeros where and as the transformer computes."""
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def fingerprint(self) -> str:
        """Tells these weights from others, whatever precision they are held in: a hash of a part of each."""
        digest = hashlib.sha256()
        for name, parameter in self.module.state_dict().items():
            some = parameter.detach().flatten()[:256].to(torch.bfloat16).view(torch.int16).cpu()
            digest.update(name.encode() + some.numpy().tobytes())
        return digest.hexdigest()[:16]

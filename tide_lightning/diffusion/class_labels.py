"""Denoisers that are told a class instead of a prompt."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tide_lightning.diffusion.conditioning import Conditioning
from tide_lightning.diffusion.denoiser import Denoiser, Guidance
from tide_lightning.errors import UserError


class ClassConditional(Denoiser):
    """A prompt is a class, by name or number; the empty one is the class that stands for none."""

    num_classes: int = 1000
    """Classes; the number behind the last one stands for none. 0 where the denoiser is told nothing at all."""

    @property
    def class_names(self) -> Mapping[str, int]:
        """Numbers by name, where classes have names."""
        return {}

    @property
    def guidance(self) -> Guidance:
        """Towards the class, where there are classes."""
        return "classifier_free" if self.num_classes else "none"

    @property
    def prompt_shape(self) -> tuple[int, int]:
        """There are no prompt tokens."""
        return 0, 0

    def encode_prompt(self, prompt: str) -> Conditioning:
        """The class."""
        return self._labelled([self._label(prompt)])

    def blank_conditioning(self, tokens: Tensor) -> Conditioning:
        """Class 0."""
        return self._labelled([0] * len(tokens))

    def arguments(self, x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """Latents, timesteps, classes."""
        return {"hidden_states": x_t, "timestep": raw_t, **conditioning.extra}

    def _labelled(self, labels: list[int]) -> Conditioning:
        numbers = torch.tensor(labels, device=self.device)
        return Conditioning(self.zeros(len(labels), 0, 0), extra={"class_labels": numbers})

    def _label(self, prompt: str) -> int:
        if prompt == "" or not self.num_classes:
            return self.num_classes
        names = {name.lower(): number for name, number in self.class_names.items()}
        number = int(prompt) if prompt.isdecimal() else names.get(prompt.lower(), -1)
        if not 0 <= number < self.num_classes:
            near = difflib.get_close_matches(prompt.lower(), names, n=4)
            hint = f"; near matches: {', '.join(near)}" if near else ""
            raise UserError(f"prompt {prompt!r} is no class: give a name or 0 to {self.num_classes - 1}{hint}")
        return number

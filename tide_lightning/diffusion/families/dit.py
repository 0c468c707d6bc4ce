"""DiT: class labels in place of prompts, adaptive norms that read timestep and class."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import Tensor

from tide_lightning.diffusion.conditioning import Conditioning
from tide_lightning.diffusion.denoiser import Denoiser
from tide_lightning.errors import UserError


class DiT(Denoiser):
    """diffusers' DiTTransformer2DModel in a DiTPipeline. A prompt is a class: its name or its number."""

    @property
    def prompt_shape(self) -> tuple[int, int]:
        """There are no prompt tokens."""
        return 0, 0

    def encode_prompt(self, prompt: str) -> Conditioning:
        """The class; of "" the one that stands for none."""
        return self._labelled([self._label(prompt)])

    def blank_conditioning(self, tokens: Tensor) -> Conditioning:
        """Class 0."""
        return self._labelled([0] * len(tokens))

    def arguments(self, x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """Latents, timesteps, classes."""
        return {"hidden_states": x_t, "timestep": raw_t, "class_labels": conditioning.extra["class_labels"]}

    def _labelled(self, labels: list[int]) -> Conditioning:
        numbers = torch.tensor(labels, device=self.device)
        return Conditioning(self.zeros(len(labels), 0, 0), extra={"class_labels": numbers})

    def _label(self, prompt: str) -> int:
        num_classes = int(self.config.num_embeds_ada_norm)
        if prompt == "":
            return num_classes
        names = {name.lower(): number for name, number in self.pipeline.labels.items()}
        number = int(prompt) if prompt.isdecimal() else names.get(prompt.lower(), -1)
        if not 0 <= number < num_classes:
            near = difflib.get_close_matches(prompt.lower(), names, n=4)
            hint = f"; near matches: {', '.join(near)}" if near else ""
            raise UserError(f"prompt {prompt!r} is no class of this DiT: a name or 0 to {num_classes - 1}{hint}")
        return number

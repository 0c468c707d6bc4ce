"""Prompts: what the transformer is conditioned on."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tide_lightning.diffusion.conditioning import Conditioning, PromptCache, unknown_words
from tide_lightning.diffusion.denoiser.module import HoldsModule

_log = logging.getLogger(__name__)


class EncodesPrompts(HoldsModule):
    """A denoiser's prompts, each embedded by itself and kept."""

    _prompts: PromptCache

    @property
    @abstractmethod
    def prompt_shape(self) -> tuple[int, int]:
        """Most tokens of a prompt and the width of their embeddings."""

    @abstractmethod
    def encode_prompt(self, prompt: str) -> Conditioning:
        """One prompt's conditioning, without a cache; of "" the unconditional one."""

    def blank_conditioning(self, tokens: Tensor) -> Conditioning:
        """Conditioning of no meaning around prompt embeddings [N, L, C], to find out shapes."""
        return Conditioning(tokens)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of the prompts, one row each, on the denoiser's device; "" is the unconditional one."""
        return self._prompts(prompts, self.device)

    def encode_prompts_by(self, encode: Callable[[str], Conditioning]) -> None:
        """Have prompts encoded in another way than by the pipeline at once."""
        told: set[str] = set()

        def encode_here(prompt: str) -> Conditioning:
            tokenizer = getattr(self.pipeline, "tokenizer", None)
            unknown = [] if tokenizer is None else unknown_words(tokenizer, prompt)
            if unknown := [word for word in unknown if word not in told]:
                told.update(unknown)
                _log.warning("the tokenizer does not know %s, as in the prompt %r", ", ".join(unknown), prompt)
            return encode(prompt).to(self.device)

        self._prompts = PromptCache(encode_here)

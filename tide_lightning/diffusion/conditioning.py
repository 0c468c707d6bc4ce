"""What a denoiser is told besides its input: prompt embeddings, batch first."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """Everything a forward needs besides x_t and the timestep; the first axis of each tensor is the batch.

    Args:
        tokens: prompt embeddings [N, L, C]; L is 0 where a denoiser reads no prompt.
        mask: which of them count [N, L], or None where all do.
        extra: further inputs of the family by name (image size, pooled embeddings, class, guidance).
    """

    tokens: Tensor
    mask: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def _each(self, change: Callable[[Tensor], Tensor]) -> Conditioning:
        return Conditioning(
            change(self.tokens),
            None if self.mask is None else change(self.mask),
            {name: change(value) for name, value in self.extra.items()},
        )

    def select(self, index: Tensor | slice) -> Conditioning:
        """The rows at `index`."""
        return self._each(lambda value: value[index])

    def told_guidance(self, scale: float) -> Conditioning:
        """The same for a denoiser that is told its guidance scale."""
        told = torch.full((len(self),), scale, device=self.tokens.device)
        return Conditioning(self.tokens, self.mask, {**self.extra, "guidance": told})

    def to(self, device: torch.device | str) -> Conditioning:
        """The same on another device."""
        return self._each(lambda value: value.to(device))

    @staticmethod
    def concatenate(parts: Sequence[Conditioning]) -> Conditioning:
        """All rows in order; shorter prompts are padded with masked tokens."""
        first, longest = parts[0], max(part.tokens.shape[1] for part in parts)
        masks = [part.mask for part in parts if part.mask is not None]
        return Conditioning(
            torch.cat([_padded(part.tokens, longest) for part in parts]),
            torch.cat([_padded(mask, longest) for mask in masks]) if masks else None,
            {name: torch.cat([part.extra[name] for part in parts]) for name in first.extra},
        )


def _padded(value_NL: Tensor, length: int) -> Tensor:
    missing = length - value_NL.shape[1]
    if missing == 0:
        return value_NL
    return torch.cat([value_NL, value_NL.new_zeros(len(value_NL), missing, *value_NL.shape[2:])], dim=1)


def unknown_words(tokenizer: Any, prompt: str) -> list[str]:
    """The words of a prompt that a tokenizer can only read as its unknown token, in order, without repeats."""
    unknown, text = tokenizer.unk_token_id, prompt.lower()
    if unknown is None or unknown not in tokenizer(text).input_ids:
        return []
    words = dict.fromkeys(re.findall(r"[^\s,]+", text))
    return [word for word in words if unknown in tokenizer(word, add_special_tokens=False).input_ids]


class PromptCache:
    """Embeddings of the prompts used last, kept where the denoiser is, up to `max_bytes`."""

    def __init__(self, encode: Callable[[str], Conditioning], max_bytes: int = 2**30) -> None:
        self._encode = encode
        self._max_bytes = max_bytes
        self._rows: OrderedDict[str, Conditioning] = OrderedDict()
        self._num_bytes = 0

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """One row per prompt. A prompt is always embedded by itself, so that its bits depend on nothing else."""
        return Conditioning.concatenate([self._row(prompt) for prompt in prompts])

    def clear(self) -> None:
        """Forget everything, as when the device changes."""
        self._rows.clear()
        self._num_bytes = 0

    def _row(self, prompt: str) -> Conditioning:
        row = self._rows.get(prompt)
        if row is None:
            row = self._encode(prompt)
            self._rows[prompt] = row
            self._num_bytes += _num_bytes(row)
            while self._num_bytes > self._max_bytes and len(self._rows) > 1:
                self._num_bytes -= _num_bytes(self._rows.popitem(last=False)[1])
        else:
            self._rows.move_to_end(prompt)
        return row


def _num_bytes(row: Conditioning) -> int:
    tensors = [row.tokens, *row.extra.values()] + ([] if row.mask is None else [row.mask])
    return sum(tensor.nbytes for tensor in tensors)

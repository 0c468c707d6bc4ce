"""What is known of a forward besides its input and time: prompt embeddings above all, batch first."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from tide_lightning.diffusion.streams import StreamOrder, hold


@dataclass(frozen=True)
class Conditioning:
    """Everything a forward needs besides x_t and the timestep; the first axis of each tensor is the batch.

    Args:
        tokens: prompt embeddings [N, L, C]; L is 0 where a denoiser reads no prompt.
        mask: which of them count [N, L], or None where all do.
        extra: further inputs of the family by name (image size, pooled embeddings, class, guidance).
        trajectory_noise: the noise in x_t as the trajectory's steps so far tell it [N, *latent_shape]; None off
            trajectories. No denoiser is told; an SAE's known part may be.
        unconditional: which rows are a guided forward's unconditional half [N], bool; None where none is. No denoiser
            is told; an edit of one half is.
    """

    tokens: Tensor
    mask: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    trajectory_noise: Tensor | None = None
    unconditional: Tensor | None = None

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def _each(self, change: Callable[[Tensor], Tensor]) -> Conditioning:
        return Conditioning(
            change(self.tokens),
            None if self.mask is None else change(self.mask),
            {name: change(value) for name, value in self.extra.items()},
            None if self.trajectory_noise is None else change(self.trajectory_noise),
            None if self.unconditional is None else change(self.unconditional),
        )

    def tensors(self) -> list[Tensor]:
        """All that there are."""
        every = [self.tokens, self.mask, *self.extra.values(), self.trajectory_noise, self.unconditional]
        return [value for value in every if value is not None]

    def select(self, index: Tensor | slice) -> Conditioning:
        """The rows at `index`."""
        return self._each(lambda value: value[index])

    def told_guidance(self, scale: float) -> Conditioning:
        """The same for a denoiser that is told its guidance scale."""
        told = torch.full((len(self),), scale, device=self.tokens.device)
        return replace(self, extra={**self.extra, "guidance": told})

    def along(self, trajectory_noise: Tensor | None) -> Conditioning:
        """The same on a trajectory (or, with None, off any)."""
        return replace(self, trajectory_noise=trajectory_noise)

    def as_half(self, unconditional: bool) -> Conditioning:
        """The same as one half of a guided forward."""
        return replace(self, unconditional=torch.full((len(self),), unconditional, device=self.tokens.device))

    def to(self, device: torch.device | str) -> Conditioning:
        """The same on another device."""
        return self._each(lambda value: value.to(device))

    @staticmethod
    def concatenate(parts: Sequence[Conditioning]) -> Conditioning:
        """All rows in order; shorter prompts are padded with masked tokens."""
        first, longest = parts[0], max(part.tokens.shape[1] for part in parts)
        masks = [part.mask for part in parts if part.mask is not None]
        noises = [part.trajectory_noise for part in parts if part.trajectory_noise is not None]
        halves = [part.unconditional for part in parts if part.unconditional is not None]
        return Conditioning(
            torch.cat([_padded(part.tokens, longest) for part in parts]),
            torch.cat([_padded(mask, longest) for mask in masks]) if masks else None,
            {name: torch.cat([part.extra[name] for part in parts]) for name in first.extra},
            torch.cat(noises) if len(noises) == len(parts) else None,
            torch.cat(halves) if len(halves) == len(parts) else None,
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
        self._lock = threading.RLock()  # tokenizers hold settings of the call at hand: one thread at a time
        self._order = StreamOrder()

    def __call__(self, prompts: Sequence[str], device: torch.device) -> Conditioning:
        """One row per prompt. A prompt is always embedded by itself, so that its bits depend on nothing else."""
        with self._lock, self._order(device):
            rows = [self._row(prompt) for prompt in prompts]
            for row in rows:
                hold(row.tensors())  # lest a prompt that is forgotten now be written over before it was read
            return Conditioning.concatenate(rows)

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
    return sum(tensor.nbytes for tensor in row.tensors())

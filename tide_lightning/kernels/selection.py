"""Which pre-activations a code keeps: the rules that `encode` takes, and how each of them selects block by block.

Pre-activations come as blocks, some tokens by some latents, so that all of them never stand in memory at once. What
is not positive is kept at value 0, if at all: selecting and then clamping is the same as TopK(ReLU(.)).

Shape suffixes: N tokens and M latents of all blocks, n and m of one block, K kept a token, Z kept in all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from tide_lightning.kernels.blocks import Block
from tide_lightning.kernels.places import above, ascending, in_whole
from tide_lightning.kernels.topk import check_k, topk


class Selected(NamedTuple):
    """A sparse code as tensors; see `SparseCode`.

    Fields:
        values: [N, K], or [Z] with a row pointer.
        indices: int64, of the same shape.
        row_pointer: None, or int64 [N + 1].
    """

    values: Tensor
    indices: Tensor
    row_pointer: Tensor | None


class Selection(Protocol):
    """A selection under way. Blocks come by tokens first, then by latents, each once and in order.

    Fields:
        room: how many free columns it asks for before a block's pre-activations.
    """

    room: int

    def see(self, block: Block) -> None:
        """Take in a block; its memory is used again for the next."""

    def finish(self) -> Selected:
        """What was selected of all blocks."""


class Rule(Protocol):
    """A way to select."""

    def start(self, num_tokens: int, num_latents: int) -> Selection:
        """Begin to select from so many tokens and latents."""


@dataclass(frozen=True)
class TopK:
    """The k largest of each token.

    Args:
        k: how many of each token; the code's width.
        k_N: int64 [N], how many of them each token keeps, at most k, where tokens differ; the others are 0.
    """

    k: int
    k_N: Tensor | None = None

    def start(self, num_tokens: int, num_latents: int) -> Selection:
        """Begin to select."""
        check_k(self.k, num_latents)
        return _TokenwiseSelection(self.k, self.k_N)


@dataclass(frozen=True)
class BatchTopK:
    """The N k largest of a whole batch of N tokens: k a token on average, more where more is to say.

    Args:
        k: how many a token on average.
        weight_N: positive, by which a token's pre-activations count where tokens are compared; values are as without.
    """

    k: int
    weight_N: Tensor | None = None

    def start(self, num_tokens: int, num_latents: int) -> Selection:
        """Begin to select."""
        check_k(self.k, num_latents)
        return _BatchwiseSelection(num_tokens, num_latents, self.k * num_tokens, self.weight_N)


@dataclass(frozen=True)
class Threshold:
    """Whatever exceeds a threshold and 0: each token's code is independent of the batch.

    Args:
        threshold: one for all latents, or one for each [M].
        weight_N: positive, by which a token's pre-activations count against it; values are as without.
    """

    threshold: float | Tensor
    weight_N: Tensor | None = None

    def start(self, num_tokens: int, num_latents: int) -> Selection:
        """Begin to select."""
        return _ThresholdSelection(num_tokens, num_latents, self.threshold, self.weight_N)


@dataclass(frozen=True)
class Within:
    """What another rule selects when each token has a range of latents of its own.

    Args:
        rule: the other rule; where it selects a latent outside the range, at value 0.
        low_N: int64, the first latent of each token's range.
        high_N: int64, the first one behind it.
    """

    rule: Rule
    low_N: Tensor
    high_N: Tensor

    def start(self, num_tokens: int, num_latents: int) -> Selection:
        """Begin to select."""
        return _WithinSelection(self.rule.start(num_tokens, num_latents), self.low_N, self.high_N)


class _TokenwiseSelection:
    """Carries each token's k largest so far from block to block."""

    def __init__(self, k: int, k_N: Tensor | None) -> None:
        self.k, self.k_N, self.room = k, k_N, k
        self.parts: list[tuple[Tensor, Tensor]] = []
        self.current_token = -1

    def see(self, block: Block) -> None:
        pre_nm, first_token, first_latent, joined = block
        if first_token != self.current_token:
            values_nK, indices_nK = topk(pre_nm, min(self.k, pre_nm.shape[1]))
            self.parts.append((values_nK, indices_nK + first_latent if first_latent else indices_nK))
            self.current_token = first_token
            return
        best_nK, at_nK = self.parts[-1]
        num_best = best_nK.shape[1]
        # The best so far go first, into the room there: a partial sort then moves little of what follows.
        joined = joined[:, self.room - num_best :]
        joined[:, :num_best] = best_nK
        values_nK, place_nK = topk(joined, min(self.k, joined.shape[1]))
        before = at_nK.gather(1, place_nK.clamp(max=num_best - 1))
        self.parts[-1] = values_nK, torch.where(place_nK < num_best, before, place_nK + (first_latent - num_best))

    def finish(self) -> Selected:
        values, indices = (parts[0] if len(parts) == 1 else torch.cat(parts) for parts in zip(*self.parts, strict=True))
        values = values.relu_()
        if self.k_N is not None:
            values, by_size = values.sort(dim=1, descending=True)
            indices = indices.gather(1, by_size)
            rank = torch.arange(values.shape[1], device=values.device)
            values = values.where(rank < self.k_N.unsqueeze(1), 0)
        return Selected(values, indices, None)


class _BatchwiseSelection:
    """Carries the batch's Z largest so far from block to block, by their places in the whole [N, M].

    What is compared, and what it was before it got its token's weight, are the same where there are no weights.
    """

    room = 0

    def __init__(self, num_tokens: int, num_latents: int, num_kept: int, weight_N: Tensor | None) -> None:
        self.num_tokens, self.num_latents, self.num_kept = num_tokens, num_latents, num_kept
        self.weight_N = weight_N
        self.in_order = True  # the places
        self.compared_Z: Tensor | None = None
        self.values_Z: Tensor | None = None
        self.places_Z: Tensor | None = None

    def see(self, block: Block) -> None:
        pre_nm, first_token, first_latent, _ = block
        weight_n = _of_block(self.weight_N, block)
        values, places = self._worth_a_look(pre_nm, weight_n)
        compared = values if weight_n is None else values * weight_n[places.div(pre_nm.shape[1], rounding_mode="floor")]
        places = in_whole(places, pre_nm.shape[1], first_token, first_latent, self.num_latents)
        # Of several blocks they are sorted once, in the end, and elsewhere marking them would wait for their count.
        self.in_order = self.places_Z is None and places.device.type == "cpu"
        if self.compared_Z is not None and self.values_Z is not None and self.places_Z is not None:
            compared, values = torch.cat([self.compared_Z, compared]), torch.cat([self.values_Z, values])
            places = torch.cat([self.places_Z, places])
        if compared.numel() > self.num_kept:
            order = compared.topk(self.num_kept, sorted=False).indices
            order = ascending(order, compared.numel()) if self.in_order else order
            compared, places = compared[order], places[order]
            values = compared if weight_n is None else values[order]
        elif self.values_Z is None:
            values = values.clone()  # the block's own memory would change
            compared = values if weight_n is None else compared
        self.compared_Z, self.values_Z, self.places_Z = compared, values, places

    def _worth_a_look(self, pre_nm: Tensor, weight_n: Tensor | None) -> tuple[Tensor, Tensor]:
        """The entries of a block that may be selected, and their places in it: on the CPU only those above a floor."""
        flat = pre_nm.flatten()
        if flat.device.type == "cpu" and flat.numel() > 4 * self.num_kept:  # elsewhere one would wait for the count
            if self.compared_Z is not None and self.compared_Z.numel() == self.num_kept:
                places = above(pre_nm, _by_weight(self.compared_Z.min(), weight_n))
                return flat[places], places
            sample = flat[::_SAMPLE_EVERY]
            if weight_n is not None:
                sample = sample * weight_n[torch.arange(0, flat.numel(), _SAMPLE_EVERY) // pre_nm.shape[1]]
            rank = min(len(sample), 3 * self.num_kept // (2 * _SAMPLE_EVERY) + 16)
            places = above(pre_nm, _by_weight(sample.topk(rank).values[-1], weight_n))
            if places.numel() >= self.num_kept:  # so what is below cannot be among the largest
                return flat[places], places
        return flat, torch.arange(flat.numel(), device=flat.device)

    def finish(self) -> Selected:
        assert self.values_Z is not None
        assert self.places_Z is not None
        values_Z, places_Z = self.values_Z, self.places_Z
        if not self.in_order:
            places_Z, order_Z = places_Z.sort()
            values_Z = values_Z[order_Z]
        return _by_token(values_Z.relu(), places_Z, self.num_tokens, self.num_latents)


class _ThresholdSelection:
    """Gathers what exceeds the threshold."""

    room = 0

    def __init__(self, num_tokens: int, num_latents: int, threshold: float | Tensor, weight_N: Tensor | None) -> None:
        self.num_tokens, self.num_latents, self.threshold = num_tokens, num_latents, threshold
        self.weight_N = weight_N
        self.values: list[Tensor] = []
        self.places: list[Tensor] = []

    def see(self, block: Block) -> None:
        pre_nm, first_token, first_latent, _ = block
        threshold = self.threshold
        if isinstance(threshold, Tensor) and threshold.ndim == 1:
            threshold = threshold[first_latent : first_latent + pre_nm.shape[1]]
        floor = threshold.clamp(min=0) if isinstance(threshold, Tensor) else max(threshold, 0.0)
        flat = pre_nm.flatten()
        places = above(pre_nm, _by_weight(floor, _of_block(self.weight_N, block)))
        self.values.append(flat[places])
        self.places.append(in_whole(places, pre_nm.shape[1], first_token, first_latent, self.num_latents))

    def finish(self) -> Selected:
        if len(self.places) == 1:  # in order already
            return _by_token(self.values[0], self.places[0], self.num_tokens, self.num_latents)
        places_Z, order_Z = torch.cat(self.places).sort()
        return _by_token(torch.cat(self.values)[order_Z], places_Z, self.num_tokens, self.num_latents)


class _WithinSelection:
    """Hides what lies outside each token's range from another selection, and from whoever sees the block after it."""

    def __init__(self, selection: Selection, low_N: Tensor, high_N: Tensor) -> None:
        self.selection, self.room, self.low_N, self.high_N = selection, selection.room, low_N, high_N

    def see(self, block: Block) -> None:
        tokens = slice(block.first_token, block.first_token + len(block.pre_nm))
        latents_m = torch.arange(block.pre_nm.shape[1], device=block.pre_nm.device) + block.first_latent
        below_nm = latents_m < self.low_N[tokens].unsqueeze(1)
        block.pre_nm.masked_fill_(below_nm | (latents_m >= self.high_N[tokens].unsqueeze(1)), -torch.inf)
        self.selection.see(block)

    def finish(self) -> Selected:
        return self.selection.finish()


_SAMPLE_EVERY = 61  # no divisor of a usual number of latents: all of them take part


def _of_block(weight_N: Tensor | None, block: Block) -> Tensor | None:
    """The weights of a block's tokens."""
    return None if weight_N is None else weight_N[block.first_token : block.first_token + len(block.pre_nm)]


def _by_weight(floor: float | Tensor, weight_n: Tensor | None) -> float | Tensor:
    """The floor that a token's own pre-activations have to exceed where they count by its weight."""
    return floor if weight_n is None else floor / weight_n.unsqueeze(1)


def _by_token(values_Z: Tensor, places_Z: Tensor, num_tokens: int, num_latents: int) -> Selected:
    """The code of entries in order of their places."""
    starts = torch.arange(num_tokens + 1, device=places_Z.device) * num_latents
    return Selected(values_Z, places_Z % num_latents, torch.searchsorted(places_Z, starts))

"""Selection by PyTorch's operations, anywhere; made for a CPU, where counting what was found costs nothing.

Shape suffixes: N tokens and M latents of all blocks, n and m of one block, Z kept in all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tide_lightning.kernels.blocks import Block, of_block
from tide_lightning.kernels.places import above, ascending, in_whole
from tide_lightning.kernels.selection.interface import Selected, by_token

_SAMPLE_EVERY = 61  # no divisor of a usual number of latents: all of them take part


class BatchwiseSelection:
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
        """Take in a block."""
        pre_nm, first_token, first_latent, _ = block
        weight_n = of_block(self.weight_N, block)
        values, places = self._worth_a_look(pre_nm, weight_n)
        compared = values if weight_n is None else values * weight_n[places.div(pre_nm.shape[1], rounding_mode="floor")]
        places = in_whole(places, pre_nm.shape[1], first_token, first_latent, self.num_latents)
        self.in_order = self.places_Z is None  # of several blocks they are sorted once, in the end
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
        """The entries of a block that may be selected, and their places in it: of many, those above a floor."""
        flat = pre_nm.flatten()
        if flat.numel() > 4 * self.num_kept:
            if self.compared_Z is not None and self.compared_Z.numel() == self.num_kept:
                places = above(pre_nm, _by_weight(self.compared_Z.min(), weight_n))
                return flat[places], places
            sample = flat[::_SAMPLE_EVERY]
            if weight_n is not None:
                places = torch.arange(0, flat.numel(), _SAMPLE_EVERY, device=flat.device)
                sample = sample * weight_n[places // pre_nm.shape[1]]
            rank = min(len(sample), 3 * self.num_kept // (2 * _SAMPLE_EVERY) + 16)
            places = above(pre_nm, _by_weight(sample.topk(rank).values[-1], weight_n))
            if places.numel() >= self.num_kept:  # so what is below cannot be among the largest
                return flat[places], places
        return flat, torch.arange(flat.numel(), device=flat.device)

    def finish(self) -> Selected:
        """What was selected."""
        assert self.values_Z is not None
        assert self.places_Z is not None
        values_Z, places_Z = self.values_Z, self.places_Z
        if not self.in_order:
            places_Z, order_Z = places_Z.sort()
            values_Z = values_Z[order_Z]
        return by_token(values_Z.relu(), places_Z, self.num_tokens, self.num_latents)


class ThresholdSelection:
    """Gathers what exceeds the threshold."""

    room = 0

    def __init__(self, num_tokens: int, num_latents: int, threshold: float | Tensor, weight_N: Tensor | None) -> None:
        self.num_tokens, self.num_latents, self.threshold = num_tokens, num_latents, threshold
        self.weight_N = weight_N
        self.values: list[Tensor] = []
        self.places: list[Tensor] = []

    def see(self, block: Block) -> None:
        """Take in a block."""
        pre_nm, first_token, first_latent, _ = block
        threshold = self.threshold
        if isinstance(threshold, Tensor) and threshold.ndim == 1:
            threshold = threshold[first_latent : first_latent + pre_nm.shape[1]]
        floor = threshold.clamp(min=0) if isinstance(threshold, Tensor) else max(threshold, 0.0)
        flat = pre_nm.flatten()
        places = above(pre_nm, _by_weight(floor, of_block(self.weight_N, block)))
        self.values.append(flat[places])
        self.places.append(in_whole(places, pre_nm.shape[1], first_token, first_latent, self.num_latents))

    def finish(self) -> Selected:
        """What was selected."""
        if len(self.places) == 1:  # in order already
            return by_token(self.values[0], self.places[0], self.num_tokens, self.num_latents)
        places_Z, order_Z = torch.cat(self.places).sort()
        return by_token(torch.cat(self.values)[order_Z], places_Z, self.num_tokens, self.num_latents)


def _by_weight(floor: float | Tensor, weight_n: Tensor | None) -> float | Tensor:
    """The floor that a token's own pre-activations have to exceed where they count by its weight."""
    return floor if weight_n is None else floor / weight_n.unsqueeze(1)

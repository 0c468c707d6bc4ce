"""Adaptive norms with one timestep embedding for all blocks, each of which adds a table of its own (adaLN-single)."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def table_modulation(
    module: Any, blocks: Any, block: int | None, rows: Tensor, embedded_GD: Tensor
) -> tuple[Tensor, Tensor]:
    """Shift and scale [G, d] at a block's entry, or (None) the output layer's, which takes the timestep's embedding.

    `rows` are the timestep's six for every block, shift and scale before attention first [G, 6 d] or [G, 6, d].
    """
    if block is None:
        table_2D = module.scale_shift_table.reshape(2, -1)
        shift, scale = (table_2D + embedded_GD[:, None]).unbind(1)
    else:
        table_6D = blocks[block].scale_shift_table.reshape(6, -1)
        shift, scale = (table_6D + rows.reshape(len(rows), 6, -1))[:, :2].unbind(1)
    return shift, scale

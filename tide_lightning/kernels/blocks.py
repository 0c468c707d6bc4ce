"""Pre-activations in blocks of some tokens by some latents, so that all of them never stand in memory at once.

A block fits a CPU's last cache, where selection finds it again, and stays below the 32 MiB from which the C library
asks the system for fresh memory each time. Shape suffixes: N tokens, M latents, D channels; n, m of a block.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from tide_lightning.kernels.csr import Csr


class BlockShape(NamedTuple):
    """The size of a block; the last ones may be smaller."""

    tokens: int
    latents: int


class Block(NamedTuple):
    """Pre-activations, before the ReLU, and where they stand in the whole.

    Fields:
        pre_nm: the pre-activations.
        first_token: of them.
        first_latent: of them.
        joined: the same memory, [n, room + m], with free columns before the pre-activations: so a selection puts what
            it carries along next to them without copying them.
    """

    pre_nm: Tensor
    first_token: int
    first_latent: int
    joined: Tensor


def of_block(weight_N: Tensor | None, block: Block) -> Tensor | None:
    """The weights of a block's tokens."""
    return None if weight_N is None else weight_N[block.first_token : block.first_token + len(block.pre_nm)]


def block_shape(x_ND: Tensor, num_latents: int) -> BlockShape:
    """As large as is good for the device: on a GPU, large products; on a CPU, blocks that stay in the cache."""
    most_tokens, most_bytes = (1024, 20 * 2**20) if x_ND.device.type == "cpu" else (8192, 512 * 2**20)
    tokens = max(1, min(len(x_ND), most_tokens))
    num_blocks = -(-num_latents * tokens * x_ND.element_size() // most_bytes)
    return BlockShape(tokens, -(-num_latents // num_blocks))


def preactivation_blocks(
    x_ND: Tensor,
    weight_MD: Tensor,
    bias_M: Tensor | None,
    shape: BlockShape,
    start: Csr | None = None,
    room: int = 0,
    in_triton: bool = False,
) -> Iterator[Block]:
    """The blocks of x W^T + b: tokens first, then latents. A block's memory is used again for the next.

    Args:
        x_ND: the tokens.
        weight_MD: the encoder.
        bias_M: of the latents, or None.
        shape: of the blocks.
        start: a sparse code [N, M] to add.
        room: free columns before the pre-activations, where a token's latents come in several blocks.
        in_triton: whether the code is added by a kernel for a GPU.
    """
    room = room if shape.latents < len(weight_MD) else 0
    first_tokens = range(0, max(1, len(x_ND)), shape.tokens)  # no tokens are one block without rows
    add = None
    if start is not None:
        add = _adding_by_triton(start) if in_triton else _adding(start, shape.tokens, len(first_tokens))
    memory = x_ND.new_empty(shape.tokens * (room + shape.latents))
    for token in first_tokens:
        x_nD = x_ND[token : token + shape.tokens]
        for latent in range(0, len(weight_MD), shape.latents):
            weight_mD = weight_MD[latent : latent + shape.latents]
            width = room + len(weight_mD)
            joined = memory[: len(x_nD) * width].view(len(x_nD), width)
            pre_nm = joined[:, room:]
            if bias_M is None:
                torch.mm(x_nD, weight_mD.T, out=pre_nm)
            else:
                torch.addmm(bias_M[latent : latent + shape.latents], x_nD, weight_mD.T, out=pre_nm)
            if add is not None:
                add(pre_nm, token, latent)
            yield Block(pre_nm, token, latent, joined)


def _adding_by_triton(code: Csr) -> Callable[[Tensor, int, int], None]:
    from tide_lightning.kernels.triton_kernels import codes

    return lambda pre_nm, first_token, first_latent: codes.add(pre_nm, code, first_token, first_latent)


def _adding(code: Csr, step: int, num_blocks: int) -> Callable[[Tensor, int, int], None]:
    """Adds to a block the entries of its tokens: those in it their values, the others 0 to its edges."""
    parts = _by_tokens(code, step, num_blocks)

    def add(pre_nm: Tensor, first_token: int, first_latent: int) -> None:
        rows, columns, values = parts[first_token // step]
        columns, last = columns - first_latent, pre_nm.shape[1] - 1
        is_inside = (columns >= 0) & (columns <= last)
        pre_nm.index_put_((rows, columns.clamp(0, last)), values.where(is_inside, 0), accumulate=True)

    return add


def _by_tokens(code: Csr, step: int, num_blocks: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Rows, columns and values of the entries of each block of tokens; one block needs no answer from the device."""
    edges = (
        [0, *code.row_pointer[step:-1:step].tolist(), len(code.columns)] if num_blocks > 1 else [0, len(code.columns)]
    )
    rows = code.rows()
    parts = [slice(low, high) for low, high in pairwise(edges)]
    return [(rows[part] - number * step, code.columns[part], code.values[part]) for number, part in enumerate(parts)]

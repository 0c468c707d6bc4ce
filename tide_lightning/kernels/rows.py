"""The decoder's rows on the unit sphere: what is done to all of them at each step, in as few passes as can be.

On a GPU a kernel does all of a row; on a CPU work goes block by block, and what a block's first operation has read is
still in the cache for the next ones.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from tide_lightning.kernels import triton_kernels

_BLOCK_BYTES = 4 * 2**20


def project_off_rows(grad_MD: Tensor, weight_MD: Tensor) -> Tensor:
    """Remove from each row of a gradient its part along the weight's row of unit norm, in place.

    Returns:
        The norm of what is left, which clipping asks for.
    """
    if _in_triton(grad_MD, weight_MD):
        from tide_lightning.kernels.triton_kernels import rows

        norm: Tensor = rows.project(grad_MD, weight_MD)
        return norm
    return _project_in_blocks(grad_MD, weight_MD)


def normalise_rows(weight_MD: Tensor) -> None:
    """Give each row unit norm, in place; a row of zeros stays one."""
    if _in_triton(weight_MD):
        from tide_lightning.kernels.triton_kernels import rows

        rows.normalise(weight_MD)
    else:
        _normalise_in_blocks(weight_MD)


def _in_triton(*matrices: Tensor) -> bool:
    """Kernels read rows whose numbers lie side by side."""
    return all(triton_kernels.chosen_for(matrix) and matrix.stride(1) == 1 for matrix in matrices)


def _project_in_blocks(grad_MD: Tensor, weight_MD: Tensor) -> Tensor:
    norms = []
    for rows in _blocks(weight_MD):
        grad, weight = grad_MD[rows], weight_MD[rows]
        along = (grad * weight).sum(dim=1, keepdim=True)
        norms.append(torch.linalg.vector_norm(grad.addcmul_(along, weight, value=-1)))
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total


def _normalise_in_blocks(weight_MD: Tensor) -> None:
    for rows in _blocks(weight_MD):
        weight = weight_MD[rows]
        weight.div_(torch.linalg.vector_norm(weight, dim=1, keepdim=True).clamp_(min=1e-12))


def _blocks(weight_MD: Tensor) -> Iterator[slice]:
    step = max(1, _BLOCK_BYTES // (weight_MD.shape[1] * weight_MD.element_size()))
    return (slice(start, start + step) for start in range(0, len(weight_MD), step))

"""Exact selection of the k largest pre-activations. N: tokens, D: latents."""

from torch import Tensor

from tide_lightning.errors import UserError


def topk(pre_ND: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest entries of every row and their columns, both [N, k], in no particular order.

    Exact and repeatable; of equal entries any may be taken. The gradient reaches the selected entries only.
    """
    check_k(k, pre_ND.shape[-1])
    # Selecting in two stages, by maxima of chunks first, gains too little on a CPU:
    # docs/results/summaries/numerics.json has the figures.
    values_NK, indices_NK = pre_ND.topk(k, dim=-1, sorted=False)
    return values_NK, indices_NK


def check_k(k: int, num_latents: int) -> None:
    """There must be that many to select from."""
    if not 1 <= k <= num_latents:
        raise UserError(f"k = {k} must lie between 1 and the number of latents, {num_latents}")

"""The code of a few of the dictionary's latents: the dead ones, which AuxK lets explain what the others left over."""

from typing import NamedTuple

from torch import Tensor

from tide_lightning.kernels.csr import Csr, even_row_pointer


class AuxCode(NamedTuple):
    """A code over some latents only; whoever multiplies with it gathers their rows first.

    Fields:
        values: [N, K].
        places: int64 [N, K], the latents by their places in `latents`.
        latents: int64 [L], which of the dictionary these are, each once, in order.
    """

    values: Tensor
    places: Tensor
    latents: Tensor


def aux_csr(values_NK: Tensor, places_NK: Tensor, latents_L: Tensor) -> Csr:
    """The code as a sparse [N, L] matrix."""
    return Csr(values_NK.flatten(), places_NK.flatten(), even_row_pointer(places_NK), len(latents_L))


def add_to_rows(total_MD: Tensor, rows_L: Tensor, part_LD: Tensor) -> None:
    """Add to some rows, each named once: so the sum is repeatable, whichever way it is made."""
    total_MD.index_add_(0, rows_L, part_LD.to(total_MD.dtype))

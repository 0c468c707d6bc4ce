"""What of an activation does not follow from time, place and input: one common known part for all SAEs of a site.

Each SAE has a known part of its own, if any. What a push is to add must not hang on that, or SAEs of one site would be
pushed differently far. So in each bin of t the mean of each place and a linear map of the token's input are fitted to
the labelled training images, and taken out.

Shapes: N images, T tokens, U units an image, D channels, P numbers of input, B = N T tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

_RIDGE = 1e-6
"""Of the input's mean square: no more than keeps the map finite where an input is constant."""


def beyond_known(x_BD: Tensor, input_BP: Tensor | None, weights_NUT: Tensor) -> Tensor:
    """The units' means of what is left of the activations [N, U, D].

    Args:
        x_BD: activations of some images in one bin of t, image by image.
        input_BP: the tokens' inputs; None where they have none.
        weights_NUT: how a unit's tokens are averaged.
    """
    left_NTD = _centred(x_BD, len(weights_NUT))
    if input_BP is not None and input_BP.shape[1]:
        read_BP = _centred(input_BP, len(weights_NUT)).flatten(0, 1)
        gram = read_BP.mT @ read_BP
        gram.diagonal().add_(_RIDGE * gram.diagonal().mean() + torch.finfo(gram.dtype).tiny)
        weight_PD = torch.linalg.solve(gram, read_BP.mT @ left_NTD.flatten(0, 1))
        left_NTD = left_NTD - (read_BP @ weight_PD).view_as(left_NTD)
    return (weights_NUT.double() @ left_NTD).float()


def _centred(values_BC: Tensor, num_images: int) -> Tensor:
    """Without each place's mean [N, T, C] float64."""
    values_NTC = values_BC.double().reshape(num_images, -1, values_BC.shape[1])
    return values_NTC - values_NTC.mean(0)

"""What an SAE costs in use, beside the operations that PyTorch counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tide_lightning.saes import TideSAE
from tide_lightning.saes.cost import cost_of
from tide_lightning.tokens import SiteShape

SHAPE = SiteShape(d_in=16, grid=(2, 2), d_input=4)


@pytest.mark.parametrize(
    ("changes", "products"),
    [({}, 1), ({"refinements": 2}, 3), ({"pursuits": 1}, 2), ({"refinements": 1, "pursuits": 2}, 4)],
)
def test_dense_products_are_those_that_run(changes: dict[str, Any], products: int) -> None:
    sae = TideSAE(SHAPE, 8, 4, known_part="mean", modulation="none", decode_backend="embedding_bag", **changes).eval()
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        sae.encode(torch.randn(5, 16))
    assert sae.dense_products == products
    assert counted.get_total_flops() == products * 2 * 5 * 16 * sae.d_sae
    assert products < cost_of(sae).encoder_products < products + 2


def test_the_known_part_passes_numbers_by() -> None:
    found = {
        rung: cost_of(TideSAE(SHAPE, 8, 4, known_part=rung)) for rung in ("mean", "mean_t_position", "input_token")
    }
    assert [each.numbers_besides_latents for each in found.values()] == [0, 0, 4]
    assert found["input_token"].encoder_products > found["mean_t_position"].encoder_products


def test_one_plain_product_and_a_sparse_one() -> None:
    sae = TideSAE(SHAPE, 8, 4, known_part="mean", modulation="none")
    assert cost_of(sae).encoder_products == pytest.approx(1 + 4 / sae.d_sae)

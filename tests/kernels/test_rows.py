"""What is done to the decoder's rows at each step, against the formulas on whole matrices."""

import pytest
import torch
from torch.nn.functional import normalize

from tide_lightning.kernels import normalise_rows, project_off_rows, rows


@pytest.fixture(params=[4, 4 * 2**20], ids=["a row a block", "one block"], autouse=True)
def _block_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_BLOCK_BYTES", request.param)


def test_projection_leaves_the_tangent_part_and_says_its_norm() -> None:
    weight, grad = normalize(torch.randn(13, 7, dtype=torch.float64), dim=1), torch.randn(13, 7, dtype=torch.float64)
    expected = grad - (grad * weight).sum(1, keepdim=True) * weight
    norm = project_off_rows(grad, weight)
    torch.testing.assert_close(grad, expected)
    torch.testing.assert_close(norm, expected.norm())
    torch.testing.assert_close((grad * weight).sum(1), torch.zeros(13, dtype=torch.float64))


def test_rows_get_unit_norm_and_zeros_stay_zeros() -> None:
    weight = torch.randn(13, 7, dtype=torch.float64)
    weight[4] = 0
    expected = normalize(weight, dim=1)
    normalise_rows(weight)
    torch.testing.assert_close(weight, expected)
    assert weight[4].eq(0).all()

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("num_rows", "channels"), [(5, 7), (3, 1030), (0, 7)])
def test_a_gpus_kernels_do_the_same(num_rows: int, channels: int, dtype: torch.dtype) -> None:
    """Through Triton's interpreter, rows longer than a program's block among them."""
    pytest.importorskip("triton")
    from tide_lightning.kernels.triton_kernels import rows as kernels

    wide = torch.randn(num_rows, channels + 3).to(dtype)
    weight = wide[:, :channels]  # rows that lie apart
    if num_rows:
        weight[-1] = 0
    expected = normalize(weight.double(), dim=1)
    kernels.normalise(weight)
    tolerance = 1e-6 if dtype == torch.float32 else 2**-7  # the interpreter does not round
    torch.testing.assert_close(weight.double(), expected, atol=tolerance, rtol=tolerance)

    grad = torch.randn(num_rows, channels).to(dtype)
    along = (grad.double() * weight.double()).sum(1, keepdim=True)
    expected = grad.double() - along * weight.double()
    norm = kernels.project(grad, weight)
    tolerance = 1e-5 if dtype == torch.float32 else 2**-5
    torch.testing.assert_close(grad.double(), expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(norm.double(), expected.norm(), atol=1e-4, rtol=1e-4)

"""Sparse codes of both layouts against their dense matrices."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tide_lightning.kernels import decode
from tide_lightning.saes.code import SparseCode


@st.composite
def codes(draw: st.DrawFn) -> SparseCode:
    """Codes as encoders make them: values at least 0, some of them 0, no latent twice in a token."""
    num_tokens, num_latents = draw(st.integers(0, 7)), draw(st.integers(1, 15))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    pre = torch.randn(num_tokens, num_latents, generator=generator)
    if draw(st.booleans()):
        return SparseCode.from_dense(pre.relu())
    values, indices = pre.topk(draw(st.integers(1, num_latents)))
    return SparseCode(values.relu(), indices, num_latents)


@settings(max_examples=60, deadline=None)
@given(code=codes(), data=st.data())
def test_agrees_with_its_dense_matrix(code: SparseCode, data: st.DataObject) -> None:
    dense = code.to_dense()
    assert dense.shape == (code.num_tokens, code.num_latents)
    assert torch.equal(dense[code.tokens(), code.indices.flatten()], code.values.flatten())
    assert torch.equal(code.to_coo().to_dense(), dense)
    assert torch.equal(code.l0(), (dense > 0).sum(1))
    assert torch.equal(code.fired(), (dense > 0).sum(0))
    assert code.l0().dtype == code.fired().dtype == torch.int64
    assert torch.equal(SparseCode.from_dense(dense).to_dense(), dense)
    assert torch.equal(code.to("cpu").detach().to_dense(), dense)
    assert torch.equal(code.with_values(2 * code.values).to_dense(), 2 * dense)
    weight = torch.randn(code.num_latents, 3)
    torch.testing.assert_close(decode(code.values, code.indices, weight, code.row_pointer), dense @ weight)

    rows = torch.tensor(data.draw(st.lists(st.integers(0, code.num_tokens - 1))) if code.num_tokens else []).long()
    assert torch.equal(code.select(rows).to_dense(), dense[rows])
    mask = torch.zeros(code.num_tokens, dtype=torch.bool).index_fill(0, rows, True)
    assert torch.equal(code.select(mask).to_dense(), dense[mask])
    assert torch.equal(code.select(slice(1, None, 2)).to_dense(), dense[1::2])


def test_a_latent_selected_at_zero_does_not_fire() -> None:
    code = SparseCode(torch.tensor([[1.0, 0.0], [0.0, -1.0]]), torch.tensor([[0, 1], [1, 2]]), 3)
    assert code.l0().tolist() == [1, 0]
    assert code.fired().tolist() == [1, 0, 0]


def test_from_dense_keeps_what_is_not_zero_in_order() -> None:
    code = SparseCode.from_dense(torch.tensor([[0.0, 2.0, -1.0], [0.0, 0.0, 0.0], [3.0, 0.0, 0.0]]))
    assert code.values.tolist() == [2.0, -1.0, 3.0]
    assert code.indices.tolist() == [1, 2, 0]
    assert code.row_pointer is not None
    assert code.row_pointer.tolist() == [0, 2, 2, 3]


@pytest.mark.parametrize("is_variable_length", [False, True])
def test_gradients_reach_the_values(is_variable_length: bool) -> None:
    indices = torch.tensor([[0, 2], [2, 4]])
    values = torch.rand(2, 2, dtype=torch.float64)
    pointer = None
    if is_variable_length:
        indices, values, pointer = indices.flatten(), values.flatten(), torch.tensor([0, 1, 4])
    values.requires_grad_()

    def conversions(values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        code = SparseCode(values, indices, 5, pointer)
        rows = torch.tensor([1, 1, 0])
        return code.to_dense(), code.to_coo().to_dense(), code.select(rows).to_dense(), code.to("cpu").to_dense()

    assert torch.autograd.gradcheck(conversions, (values,))
    assert not SparseCode(values, indices, 5, pointer).detach().values.requires_grad


def test_gradient_passes_through_from_dense_and_a_sparse_product() -> None:
    dense = torch.tensor([[0.0, 2.0], [1.0, 3.0]], requires_grad=True)
    code = SparseCode.from_dense(dense)
    torch.sparse.mm(code.to_coo(), torch.tensor([[1.0], [10.0]])).sum().backward()
    assert dense.grad is not None
    assert dense.grad.tolist() == [[0.0, 10.0], [1.0, 10.0]]

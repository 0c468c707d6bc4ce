"""Top-k against a full sort."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tide_lightning.errors import UserError
from tide_lightning.kernels import topk


@settings(max_examples=60, deadline=None)
@given(
    num_tokens=st.integers(0, 7),
    num_latents=st.integers(1, 1300),
    share=st.floats(0, 1),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    seed=st.integers(0, 99),
)
def test_selects_exactly_the_largest(
    num_tokens: int, num_latents: int, share: float, dtype: torch.dtype, seed: int
) -> None:
    k = min(1024, 1 + int(share * (num_latents - 1)))
    pre = torch.randn(num_tokens, num_latents, generator=torch.Generator().manual_seed(seed)).to(dtype)  # bf16: ties
    values, indices = topk(pre, k)
    assert values.shape == indices.shape == (num_tokens, k)
    assert values.dtype == dtype
    assert indices.dtype == torch.int64
    assert torch.equal(values, pre.gather(1, indices))
    assert torch.equal(values.sort(dim=1, descending=True).values, pre.sort(dim=1, descending=True).values[:, :k])
    assert all(len(row.unique()) == k for row in indices)


def test_repeatable_where_values_tie() -> None:
    pre = torch.randint(0, 5, (33, 2048)).float()
    first, second = topk(pre, 64), topk(pre, 64)
    assert torch.equal(first[1], second[1])
    assert torch.equal(first[0], pre.gather(1, first[1]))


def test_infinities_and_zeros_of_either_sign() -> None:
    pre = torch.tensor([[0.0, -0.0, float("inf"), -1.0, float("-inf"), 2.0], [float("-inf")] * 6])
    values, _ = topk(pre, 4)
    assert values[0].sort().values.tolist() == [0, 0, 2, float("inf")]
    assert values[1].tolist() == [float("-inf")] * 4


def test_gradient_reaches_the_selected_entries_only() -> None:
    pre = torch.randn(5, 40, requires_grad=True)
    values, indices = topk(pre, 3)
    grad = torch.randn(5, 3)
    values.backward(grad)
    assert pre.grad is not None
    assert torch.equal(pre.grad, torch.zeros(5, 40).scatter(1, indices, grad))


@pytest.mark.parametrize("k", [0, 41])
def test_a_k_that_does_not_fit_is_an_error(k: int) -> None:
    with pytest.raises(UserError, match=f"k = {k} must lie between 1 and the number of latents, 40"):
        topk(torch.randn(5, 40), k)

"""The kernels that select on a GPU, by Triton's interpreter, against PyTorch's sorting and comparing."""

from __future__ import annotations

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tide_lightning.kernels import BatchTopK, Encoded, Rule, Selected, Threshold, TopK, encode
from tide_lightning.kernels.blocks import BlockShape
from tide_lightning.kernels.csr import Csr, even_row_pointer, expand_row_pointer

pytest.importorskip("triton")

from tide_lightning.kernels.triton_kernels import batch, codes, threshold, topk

encode_module = importlib.import_module("tide_lightning.kernels.encode")

TYPES = [torch.float32, torch.bfloat16, torch.float16]
UNEVEN = torch.linspace(0.5, 2, 13).sqrt()


@st.composite
def matrices(draw: st.DrawFn) -> Tensor:
    """Of any shape; few distinct numbers make ties, and a part of a wider one has rows that lie apart."""
    num_rows, num_columns = draw(st.integers(0, 4)), draw(st.integers(1, 1300))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    wide = torch.randn(num_rows, num_columns + draw(st.sampled_from([0, 0, 5])), generator=generator)
    kind = draw(st.sampled_from(["normal", "normal", "few", "zeros", "infinite"]))
    if kind == "few":
        wide = wide.mul(2).round()
    elif kind == "zeros":
        wide.zero_()
    elif kind == "infinite":
        wide = torch.where(wide > 1, torch.inf, wide).where(wide > -1, -torch.inf)
    return wide.to(draw(st.sampled_from(TYPES)))[:, wide.shape[1] - num_columns :]


def chosen(selected: Selected, pre: Tensor) -> Tensor:
    """Which entries of a matrix were selected, each once, with their own values."""
    assert selected.row_pointer is not None
    assert selected.indices.dtype == selected.row_pointer.dtype == torch.int64
    rows = expand_row_pointer(selected.row_pointer, len(selected.values))
    assert torch.equal(selected.values, pre[rows, selected.indices])
    mask = torch.zeros(pre.shape, dtype=torch.bool)
    mask[rows, selected.indices] = True
    assert int(mask.sum()) == len(selected.values)
    return mask


@settings(max_examples=30, deadline=None)
@given(pre=matrices(), share=st.floats(0, 1))
def test_the_largest_of_each_row(pre: Tensor, share: float) -> None:
    k = 1 + int(share * (pre.shape[1] - 1))
    values, columns = topk.topk(pre, k)
    assert values.shape == columns.shape == (len(pre), k)
    assert (values.dtype, columns.dtype) == (pre.dtype, torch.int64)
    assert torch.equal(values, pre.gather(1, columns))
    assert torch.equal(values.sort(dim=1, descending=True).values, pre.sort(dim=1, descending=True).values[:, :k])
    assert all(len(row.unique()) == k for row in columns)


def test_rows_with_more_equals_than_there_is_room_for_candidates() -> None:
    pre = torch.zeros(2, 5000)
    pre[0, 4000:4010] = 1
    pre[1, ::3] = -1
    values, columns = topk.topk(pre, 20)
    assert values.sum(1).tolist() == [10, 0]
    assert torch.equal(values, pre.gather(1, columns))
    assert all(len(row.unique()) == 20 for row in columns)


@settings(max_examples=30, deadline=None)
@given(pre=matrices(), share=st.floats(0, 1.2), is_weighted=st.booleans())
def test_the_largest_of_all_rows(pre: Tensor, share: float, is_weighted: bool) -> None:
    weight = torch.rand(len(pre), generator=torch.Generator().manual_seed(1)) * 3 + 0.1 if is_weighted else None
    num_taken = 1 + int(share**3 * pre.numel())
    selected = batch.largest(pre, weight, num_taken)
    compared = pre.float() if weight is None else pre.float() * weight.unsqueeze(1)
    num_taken = min(num_taken, pre.numel())
    expected = compared.flatten().sort(descending=True).values[:num_taken]
    assert torch.equal(compared[chosen(selected, pre)].sort(descending=True).values, expected)


def test_of_equals_the_first_rows_are_taken() -> None:
    pre = torch.ones(4, 300)
    mask = chosen(batch.largest(pre, None, 700), pre)
    assert mask.sum(1).tolist() == [300, 300, 100, 0]


@settings(max_examples=30, deadline=None)
@given(pre=matrices(), by_column=st.booleans(), is_weighted=st.booleans(), level=st.floats(0, 2))
def test_what_exceeds_a_threshold(pre: Tensor, by_column: bool, is_weighted: bool, level: float) -> None:
    generator = torch.Generator().manual_seed(1)
    bound = torch.rand(pre.shape[1], generator=generator) * level if by_column else torch.tensor(level)
    weight = torch.rand(len(pre), generator=generator) * 3 + 0.1 if is_weighted else None
    selected = threshold.above(pre, bound, weight)
    assert torch.equal(chosen(selected, pre), pre.float() > (bound if weight is None else bound / weight.unsqueeze(1)))


@pytest.mark.parametrize("dtype", TYPES)
def test_nothing_is_lost_where_something_is_no_number(dtype: torch.dtype) -> None:
    """A training that has gone astray ends with its own error, and not with one of ours."""
    pre = torch.full((2, 700), torch.nan, dtype=dtype)
    pre[1, ::2] = 1
    for k in (1, 400, 700):
        assert all(len(row.unique()) == k for row in topk.topk(pre, k)[1])
        assert len(batch.largest(pre, None, 2 * k).indices) == 2 * k


def test_a_code_is_added_to_a_block_of_a_wider_one() -> None:
    draw = torch.Generator().manual_seed(0)
    whole = torch.randn(9, 300, generator=draw)
    indices = torch.rand(9, 300, generator=draw).argsort(1)[:, :90]
    code = Csr(torch.randn(9 * 90, generator=draw), indices.flatten(), even_row_pointer(indices), 300)
    expected = whole + code.written_out()
    for first_token, first_latent, width in ((0, 0, 120), (4, 120, 180), (9, 0, 300)):
        part = whole[first_token : first_token + 4, first_latent : first_latent + width]
        before = part.clone()
        codes.add(part, code, first_token, first_latent)
        wanted = expected[first_token : first_token + 4, first_latent : first_latent + width]
        assert torch.equal(part, wanted)
        part.copy_(before)


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), max_size=4), dtype=st.sampled_from(TYPES))
def test_a_code_is_looked_up_in_another(lengths: list[tuple[int, int]], dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    held, wanted = (
        torch.cat(
            [torch.zeros(0, dtype=torch.int64), *(torch.randperm(150, generator=draw)[: row[i]] for row in lengths)]
        )
        for i in range(2)
    )
    held_pointer, pointer = (torch.tensor([0, *(row[i] for row in lengths)]).cumsum(0) for i in range(2))
    code = Csr(torch.randn(len(held), generator=draw).to(dtype), held, held_pointer, 150)
    found = codes.look_up(code, wanted, pointer)
    assert torch.equal(found, code.written_out()[expand_row_pointer(pointer, len(wanted)), wanted])


@pytest.mark.parametrize(
    "rule",
    [TopK(4), BatchTopK(4, weight_N=UNEVEN), Threshold(1.0, weight_N=UNEVEN)],
    ids=lambda rule: type(rule).__name__,
)
@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        (torch.bfloat16, None),
        (torch.float32, BlockShape(6, 33)),
        (torch.float32, BlockShape(13, 21)),
        (torch.bfloat16, BlockShape(5, 50)),
    ],
    ids=str,
)
def test_encoding_selects_the_same_as_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, rule: Rule, dtype: torch.dtype, shape: BlockShape | None
) -> None:
    """Values, the dead latents' code, and gradients down to those of a code that is corrected."""
    if shape is not None:
        monkeypatch.setattr(encode_module, "block_shape", lambda *_: shape)
    draw = torch.Generator().manual_seed(0)
    x, weight = torch.randn(13, 7, generator=draw), torch.randn(50, 7, generator=draw)
    start_indices = torch.rand(13, 50, generator=draw).argsort(1)[:, :6]
    start_values, dead = torch.rand(13, 6, generator=draw), torch.arange(0, 50, 4)
    grad = torch.randn(13, 50, generator=draw)

    def run(backend: str) -> list[Tensor]:
        leaves = [tensor.to(dtype).clone().requires_grad_() for tensor in (x, weight, start_values)]
        start: Selected | None = Selected(leaves[2], start_indices, None)
        if dtype == torch.bfloat16:  # sums with a start are rounded, which the interpreter does otherwise
            leaves, start = leaves[:2], None
        encoded = encode(leaves[0], leaves[1], None, rule, dead, 3, backend, start)  # type: ignore[arg-type]
        assert encoded.aux is not None
        code = written_out(encoded, (13, 50))
        aux = torch.zeros(13, 50, dtype=dtype).scatter(1, encoded.aux.latents[encoded.aux.places], encoded.aux.values)
        return [code, aux, *torch.autograd.grad(((code + 2 * aux) * grad).sum(), leaves)]

    for ours, theirs in zip(run("triton"), run("embedding_bag"), strict=True):
        tolerance = 1e-5 if dtype == torch.float32 else 3e-2
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


def written_out(encoded: Encoded, shape: tuple[int, int]) -> Tensor:
    pointer = even_row_pointer(encoded.indices) if encoded.row_pointer is None else encoded.row_pointer
    rows = expand_row_pointer(pointer, encoded.indices.numel())
    code = encoded.values.new_zeros(shape)
    return code.index_put((rows, encoded.indices.flatten()), encoded.values.flatten())

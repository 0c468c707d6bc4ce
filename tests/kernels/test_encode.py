"""Encoding against a dense float64 reference, values and all gradients, for every rule and many shapes of blocks."""

import importlib
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.test_decode import LargestTensor
from tide_lightning.kernels import BatchTopK, Encoded, Rule, Selected, Threshold, TopK, Within, decode, encode
from tide_lightning.kernels import blocks as blocks_module
from tide_lightning.kernels.blocks import BlockShape

# The package's `encode` is the function.
encode_module = importlib.import_module("tide_lightning.kernels.encode")


class Problem:
    """Tokens, an encoder, some dead latents and a gradient of each entry of the code."""

    def __init__(self, num_tokens: int, num_latents: int, channels: int, seed: int = 0, dead: int = 0) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.x = torch.randn(num_tokens, channels, generator=draw, dtype=torch.float64)
        self.weight = torch.randn(num_latents, channels, generator=draw, dtype=torch.float64)
        self.bias = torch.randn(num_latents, generator=draw, dtype=torch.float64)
        self.grad = torch.randn(num_tokens, num_latents, generator=draw, dtype=torch.float64)
        self.aux_grad = torch.randn(num_tokens, num_latents, generator=draw, dtype=torch.float64)
        self.dead = torch.randperm(num_latents, generator=draw)[:dead].sort().values if dead else None

    def leaves(self) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(part.clone().requires_grad_() for part in (self.x, self.weight, self.bias))  # type: ignore[return-value]

    def run(self, rule: Rule, k_aux: int = 0, **arguments: Any) -> tuple[list[Tensor], list[Tensor]]:
        """The codes written out, and the gradients."""
        leaves = self.leaves()
        encoded = encode(*leaves, rule, self.dead, k_aux, **arguments)
        codes = [written_out(encoded, self.grad.shape)]
        if encoded.aux is not None:
            code = torch.zeros_like(self.grad)
            codes.append(code.scatter(1, encoded.aux.latents[encoded.aux.places], encoded.aux.values))
        loss = sum((code * grad).sum() for code, grad in zip(codes, (self.grad, self.aux_grad), strict=False))
        assert isinstance(loss, Tensor)
        return [code.detach() for code in codes], list(torch.autograd.grad(loss, leaves))

    def reference(self, kept: Tensor, kept_aux: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
        leaves = x, weight, bias = self.leaves()
        pre = (x @ weight.T + bias).relu()
        codes = [pre * kept] + ([] if kept_aux is None else [pre * kept_aux])
        loss = sum((code * grad).sum() for code, grad in zip(codes, (self.grad, self.aux_grad), strict=False))
        assert isinstance(loss, Tensor)
        return [code.detach() for code in codes], list(torch.autograd.grad(loss, leaves))

    def pre(self) -> Tensor:
        return (self.x @ self.weight.T + self.bias).relu()

    def largest(self, k: int, among: Tensor | None = None) -> Tensor:
        """Which entries are among the k largest of their token's, of some latents only."""
        pre = self.pre()
        mask = torch.zeros(pre.shape[1], dtype=pre.dtype)
        mask = mask.index_fill(0, torch.arange(len(mask)) if among is None else among, 1)
        return torch.zeros_like(pre).scatter(1, (pre * mask).topk(k).indices, 1) * mask


def written_out(encoded: Encoded, shape: torch.Size) -> Tensor:
    values, indices, row_pointer, _ = encoded
    if row_pointer is None:
        tokens = torch.arange(shape[0]).repeat_interleave(indices.shape[1])
    else:
        tokens = torch.arange(shape[0]).repeat_interleave(row_pointer.diff())
    assert (values >= 0).all()
    return values.new_zeros(shape).index_put((tokens, indices.flatten()), values.flatten(), accumulate=True)


def assert_same(ours: tuple[list[Tensor], list[Tensor]], theirs: tuple[list[Tensor], list[Tensor]]) -> None:
    for our_part, their_part in zip(ours, theirs, strict=True):
        for ours_one, theirs_one in zip(our_part, their_part, strict=True):
            torch.testing.assert_close(ours_one, theirs_one)


@pytest.fixture(params=[(1024, 10**6), (7, 13), (64, 5)], ids=["one block", "many blocks", "narrow blocks"])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes of blocks that do and do not divide the problem's."""
    shape = BlockShape(*request.param)
    monkeypatch.setattr(encode_module, "block_shape", lambda *_: shape)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize(
    ("num_tokens", "k", "dead", "k_aux"), [(1, 1, 0, 0), (33, 5, 9, 4), (16, 40, 3, 8), (0, 2, 2, 1)]
)
def test_topk_and_the_dead_latents_code(num_tokens: int, k: int, dead: int, k_aux: int) -> None:
    case = Problem(num_tokens, 50, 7, dead=dead)
    kept_aux = None if case.dead is None else case.largest(min(k_aux, dead), among=case.dead)
    assert_same(case.run(TopK(k), k_aux), case.reference(case.largest(k), kept_aux))


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize(("num_tokens", "k"), [(1, 1), (33, 2), (33, 45), (0, 3)])
def test_a_budget_shared_by_the_batch(num_tokens: int, k: int) -> None:
    case = Problem(num_tokens, 50, 7, dead=5)
    flat = case.pre().flatten()
    kept = torch.zeros_like(flat).index_fill(0, flat.topk(num_tokens * k).indices, 1).view(num_tokens, 50)
    assert case.dead is not None
    assert_same(case.run(BatchTopK(k), 2), case.reference(kept, case.largest(2, among=case.dead)))


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize(
    "threshold", [0.0, 2.5, torch.tensor(1.0, dtype=torch.float64), 1e9, torch.linspace(-1, 3, 50, dtype=torch.float64)]
)
def test_a_threshold(threshold: float | Tensor) -> None:
    case = Problem(33, 50, 7)
    assert_same(case.run(Threshold(threshold)), case.reference((case.pre() > threshold).double()))


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize(("num_tokens", "k"), [(1, 1), (33, 2), (33, 45), (0, 3)])
def test_tokens_that_count_more_get_more_of_a_shared_budget(num_tokens: int, k: int) -> None:
    case = Problem(num_tokens, 50, 7, dead=5)
    weight = torch.rand(num_tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 4 + 0.1
    flat = (case.pre() * weight.unsqueeze(1)).flatten()
    kept = torch.zeros_like(flat).index_fill(0, flat.topk(num_tokens * k).indices, 1).view(num_tokens, 50)
    assert case.dead is not None
    expected = case.reference(kept, case.largest(2, among=case.dead))
    assert_same(case.run(BatchTopK(k, weight_N=weight), 2), expected)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("threshold", [0.0, 2.5, torch.linspace(-1, 3, 50, dtype=torch.float64)])
def test_tokens_that_count_more_have_a_lower_threshold(threshold: float | Tensor) -> None:
    case = Problem(33, 50, 7)
    weight = torch.rand(33, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 4 + 0.1
    kept = (case.pre() * weight.unsqueeze(1) > threshold).double()
    assert_same(case.run(Threshold(threshold, weight)), case.reference(kept))


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("rule", [TopK(4), BatchTopK(4), Threshold(1.0)], ids=lambda rule: type(rule).__name__)
def test_latents_outside_a_tokens_range_are_hidden_from_any_rule(rule: Rule) -> None:
    case = Problem(30, 50, 7, dead=12)
    low = torch.tensor([0, 10, 35]).repeat(10)
    high = torch.tensor([10, 35, 50]).repeat(10)
    latents = torch.arange(50)
    inside = (latents >= low.unsqueeze(1)) & (latents < high.unsqueeze(1))
    pre = torch.where(inside, case.pre(), 0)
    kept = torch.zeros_like(pre)
    if isinstance(rule, TopK):
        kept.scatter_(1, pre.topk(4).indices, 1)
    elif isinstance(rule, BatchTopK):
        kept.flatten()[pre.flatten().topk(4 * 30).indices] = 1
    else:
        kept = (pre > 1.0).double()
    assert case.dead is not None
    dead_pre = pre * torch.zeros(50).index_fill(0, case.dead, 1)
    kept_aux = torch.zeros_like(pre).scatter(1, dead_pre.topk(3).indices, 1) * (dead_pre > 0)
    assert_same(case.run(Within(rule, low, high), 3), case.reference(kept * inside, kept_aux))


@settings(max_examples=40, deadline=None)
@given(num_tokens=st.integers(1, 40), num_latents=st.integers(4, 300), k=st.integers(1, 4), seed=st.integers(0, 99))
def test_a_shared_budget_of_any_size(num_tokens: int, num_latents: int, k: int, seed: int) -> None:
    """Large enough blocks are thinned out before selecting: by a sample at first, then by what was found before."""
    case = Problem(num_tokens, num_latents, 3, seed)
    flat = case.pre().flatten()
    kept = torch.zeros_like(flat).index_fill(0, flat.topk(num_tokens * k).indices, 1).view(num_tokens, num_latents)
    assert_same(case.run(BatchTopK(k)), case.reference(kept))


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("rule", [TopK(4), BatchTopK(4), Threshold(1.0)], ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("backend", ["dense", "coo", "embedding_bag", "triton"])
def test_every_backend_gives_the_same_gradients(rule: Rule, backend: str) -> None:
    if backend == "triton":
        pytest.importorskip("triton")
    case = Problem(33, 50, 7, dead=12)
    assert_same(case.run(rule, 3, backend=backend), case.run(rule, 3))


@pytest.mark.parametrize("rule", [TopK(4), BatchTopK(4), Threshold(1.0)], ids=lambda rule: type(rule).__name__)
def test_autocast_computes_in_bf16_and_returns_gradients_in_float32(rule: Rule) -> None:
    case = Problem(33, 50, 7)
    leaves = [leaf.float().detach().requires_grad_() for leaf in case.leaves()]
    with torch.autocast("cpu", torch.bfloat16):
        encoded = encode(leaves[0], leaves[1], leaves[2], rule)
    assert encoded.values.dtype == torch.bfloat16
    grads = torch.autograd.grad(encoded.values.float().square().sum(), leaves)
    assert all(grad.dtype == torch.float32 for grad in grads)
    halves = [leaf.bfloat16().double() for leaf in leaves]
    x, weight, bias = (half.detach().requires_grad_() for half in halves)
    kept = written_out(encoded, case.grad.shape) > 0
    exact = torch.autograd.grad((x @ weight.T + bias)[kept].square().sum(), (x, weight, bias))
    for grad, wanted in zip(grads, exact, strict=True):
        assert (grad - wanted).norm() <= 2**-7 * wanted.norm()


def test_bitwise_repeatable() -> None:
    case = Problem(257, 300, 33, dead=70)
    for rule in (TopK(8), BatchTopK(8), Threshold(3.0)):
        first, second = case.run(rule, 20), case.run(rule, 20)
        for one, other in zip([*first[0], *first[1]], [*second[0], *second[1]], strict=True):
            assert torch.equal(one, other)


def test_only_what_needs_a_gradient_gets_one() -> None:
    x, weight, bias = Problem(9, 20, 5).leaves()
    encode(x.detach(), weight, bias.detach(), TopK(2)).values.sum().backward()
    assert weight.grad is not None
    assert (x.grad, bias.grad) == (None, None)
    assert not encode(x.detach(), weight.detach(), bias.detach(), TopK(2)).values.requires_grad


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("needed", ["x weight bias offset", "weight bias offset", "offset", "weight"])
@pytest.mark.parametrize("rule", [TopK(4), BatchTopK(4), Threshold(1.0)], ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("dead", [0, 9])
def test_an_offset_of_all_tokens(rule: Rule, needed: str, dead: int) -> None:
    """Its gradient by whichever way: summed over the tokens' gradients, or from the bias's."""
    case = Problem(33, 50, 7, dead=dead)
    names = ("x", "weight", "bias", "offset")

    def leaves() -> list[Tensor]:
        tensors = [*(leaf.detach() for leaf in case.leaves()), torch.linspace(-1, 1, 7, dtype=torch.float64)]
        return [tensor.requires_grad_(name in needed.split()) for name, tensor in zip(names, tensors, strict=True)]

    def gradients(codes: list[Tensor], of: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        loss = sum((code * grad).sum() for code, grad in zip(codes, (case.grad, case.aux_grad), strict=False))
        assert isinstance(loss, Tensor)
        return [code.detach() for code in codes], list(
            torch.autograd.grad(loss, [leaf for leaf in of if leaf.requires_grad])
        )

    x, weight, bias, offset = ours = leaves()
    encoded = encode(x, weight, bias, rule, case.dead, 3, offset_D=offset)
    codes = [written_out(encoded, case.grad.shape)]
    if encoded.aux is not None:
        aux = torch.zeros_like(case.grad)
        codes.append(aux.scatter(1, encoded.aux.latents[encoded.aux.places], encoded.aux.values))
    x, weight, bias, offset = theirs = leaves()
    pre = ((x - offset) @ weight.T + bias).relu()
    assert_same(gradients(codes, ours), gradients([pre * (code.detach() > 0) for code in codes], theirs))


def test_an_offset_is_the_same_as_subtracting_it_before() -> None:
    case = Problem(33, 50, 7, dead=9)
    offset = torch.linspace(-1, 1, 7, dtype=torch.float64)
    own = encode(case.x, case.weight, case.bias, TopK(4), case.dead, 3, offset_D=offset)
    before = encode(case.x - offset, case.weight, case.bias, TopK(4), case.dead, 3)
    assert own.aux is not None
    assert before.aux is not None
    for one, other in zip((*own[:2], *own.aux), (*before[:2], *before.aux), strict=True):
        assert torch.equal(one, other)


def test_nothing_of_the_size_tokens_by_latents_outlives_the_forward_or_arises_in_the_backward(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    num_tokens, num_latents, channels = 256, 512, 16
    monkeypatch.setattr(encode_module, "block_shape", lambda *_: BlockShape(64, 128))
    case = Problem(num_tokens, num_latents, channels, dead=30)
    x, weight, bias = case.leaves()
    with LargestTensor() as largest:
        encoded = encode(x, weight, bias, TopK(4), case.dead, 3)
        assert encoded.aux is not None
        grads = torch.autograd.grad(encoded.values.sum() + encoded.aux.values.sum(), (x, weight, bias))
    assert all(grad.isfinite().all() for grad in grads)
    assert largest.num_elements <= max(64 * (128 + 4), num_latents * channels) < num_tokens * num_latents


def test_blocks_stay_below_what_a_cpu_caches() -> None:
    for num_tokens, num_latents in ((1, 2**17), (1024, 18432), (50_000, 2**17), (3, 5)):
        tokens, latents = blocks_module.block_shape(torch.empty(num_tokens, 2), num_latents)
        assert tokens * latents * 4 < 32 * 2**20
        assert tokens <= num_tokens
        assert latents <= num_latents


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # of torch.compile's own making
def test_can_be_compiled() -> None:
    case = Problem(9, 40, 5)

    def step(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        values, indices, row_pointer, _ = encode(x, weight, bias, TopK(3))
        return decode(values, indices, weight, row_pointer)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    ours, theirs = case.leaves(), case.leaves()
    result, wanted = compiled(*ours), step(*theirs)
    torch.testing.assert_close(result, wanted)
    grads = torch.autograd.grad(result.square().sum(), ours)
    for grad, expected in zip(grads, torch.autograd.grad(wanted.square().sum(), theirs), strict=True):
        torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("rule", [TopK(3), TopK(40), BatchTopK(5), Threshold(0.4)], ids=str)
@pytest.mark.parametrize(("tokens", "latents", "dead"), [(1, 40, 0), (37, 130, 9), (0, 40, 0)])
@pytest.mark.parametrize("shape", [None, BlockShape(16, 33)], ids=str)
@pytest.mark.parametrize("lengths", ["even", "uneven"])
def test_a_code_is_corrected(
    monkeypatch: pytest.MonkeyPatch,
    rule: Rule,
    tokens: int,
    latents: int,
    dead: int,
    shape: BlockShape | None,
    lengths: str,
) -> None:
    """relu(start + x W^T), values and gradients, the start's among them."""
    if shape is not None:
        monkeypatch.setattr(encode_module, "block_shape", lambda *_: shape)
    problem = Problem(tokens, latents, 11, dead=dead)
    draw = torch.Generator().manual_seed(1)
    start_indices = torch.rand(tokens, latents, generator=draw).argsort(1)[:, :6]
    start_values, row_pointer = torch.rand(tokens, 6, generator=draw, dtype=torch.float64), None
    start_rows = torch.arange(tokens).unsqueeze(1).expand(-1, 6)
    if lengths == "uneven":
        kept = torch.rand(tokens, 6, generator=draw) < 0.6
        start_values, start_indices, start_rows = start_values[kept], start_indices[kept], start_rows[kept]
        row_pointer = torch.cat([torch.zeros(1, dtype=torch.int64), kept.sum(1).cumsum(0)])

    def gradients(codes: list[Tensor], leaves: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        loss = sum((code * grad).sum() for code, grad in zip(codes, (problem.grad, problem.aux_grad), strict=False))
        assert isinstance(loss, Tensor)
        return [code.detach() for code in codes], list(torch.autograd.grad(loss, leaves))

    x, weight, _ = problem.leaves()
    start = start_values.clone().requires_grad_()
    encoded = encode(x, weight, None, rule, problem.dead, 4, start=Selected(start, start_indices, row_pointer))
    codes = [written_out(encoded, problem.grad.shape)]
    if encoded.aux is not None:
        aux = torch.zeros_like(problem.grad)
        codes.append(aux.scatter(1, encoded.aux.latents[encoded.aux.places], encoded.aux.values))
    ours = gradients(codes, [x, weight, start])

    x, weight, _ = problem.leaves()
    start = start_values.clone().requires_grad_()
    pre = (torch.zeros_like(problem.grad).index_put((start_rows, start_indices), start) + x @ weight.T).relu()
    assert_same(ours, gradients([pre * (code.detach() > 0) for code in codes], [x, weight, start]))
    if isinstance(rule, TopK) and tokens:
        assert ((codes[0] > 0).sum(1) == (pre > 0).sum(1).clamp(max=rule.k)).all()
        dropped = pre * (codes[0] == 0)
        kept = codes[0].detach()
        assert (dropped.amax(1) <= kept.where(kept > 0, torch.inf).amin(1)).all()

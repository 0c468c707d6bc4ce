"""Every backend against a float64 product of dense matrices."""

import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tide_lightning.errors import UserError
from tide_lightning.kernels import DecodeBackend, csr, decode
from tide_lightning.kernels.backends import gathering
from tide_lightning.kernels.backends import torch_sparse as torch_sparse_backend
from tide_lightning.kernels.choice import _log_choice, fastest_backend
from tide_lightning.kernels.csr import Csr


@pytest.fixture(scope="module", params=["dense", "coo", "embedding_bag", "torch_sparse", "triton"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "torch_sparse":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
            pytest.importorskip("torch_sparse")
    if request.param == "triton":
        pytest.importorskip("triton")
    name: str = request.param
    return name


class Problem(NamedTuple):
    """A code, a decoder and a gradient from above."""

    values: Tensor
    indices: Tensor
    weight: Tensor
    row_pointer: Tensor | None
    grad: Tensor

    def tokens(self) -> Tensor:
        num_tokens = self.grad.shape[0]
        lengths = self.row_pointer.diff() if self.row_pointer is not None else self.values.shape[1]
        return torch.arange(num_tokens).repeat_interleave(lengths)

    def run(self, backend: str) -> list[Tensor]:
        """Output, gradient of values, gradient of weight."""
        values, weight = self.values.clone().requires_grad_(), self.weight.clone().requires_grad_()
        decoded = decode(values, self.indices, weight, self.row_pointer, backend)  # type: ignore[arg-type]
        return [decoded.detach(), *torch.autograd.grad(decoded, (values, weight), self.grad)]

    def reference(self, magnitudes: bool = False) -> list[Tensor]:
        """The same in float64; or the sums of the terms' magnitudes, the yardstick of rounding errors."""
        values, weight, grad = (tensor.double() for tensor in (self.values, self.weight, self.grad))
        if magnitudes:
            values, weight, grad = values.abs(), weight.abs(), grad.abs()
        at = (self.tokens(), self.indices.flatten())
        code = torch.zeros(len(grad), len(weight), dtype=torch.float64)
        code.index_put_(at, values.flatten(), accumulate=True)
        return [code @ weight, (grad @ weight.T)[at].view_as(values), code.T @ grad]


def problem(
    num_tokens: int, k: int, num_latents: int, channels: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Problem:
    """A fixed-k code; indices may repeat."""
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randint(num_latents, (num_tokens, k), generator=generator)
    values = torch.randn(num_tokens, k, generator=generator)
    weight = torch.randn(num_latents, channels, generator=generator)
    grad = torch.randn(num_tokens, channels, generator=generator)
    return Problem(values.to(dtype), indices, weight.to(dtype), None, grad.to(dtype))


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    num_tokens, k = draw(st.integers(0, 9)), draw(st.integers(1, 9))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]))
    drawn = problem(num_tokens, k, draw(st.integers(1, 21)), draw(st.integers(1, 19)), dtype, draw(st.integers(0, 99)))
    if draw(st.booleans()):
        return drawn
    lengths = draw(st.lists(st.integers(0, k), min_size=num_tokens, max_size=num_tokens))
    pointer = torch.tensor([0, *lengths]).cumsum(0)
    flat = int(pointer[-1])
    return drawn._replace(
        values=drawn.values.flatten()[:flat], indices=drawn.indices.flatten()[:flat], row_pointer=pointer
    )


@settings(max_examples=60, deadline=None)
@given(case=problems())
def test_matches_the_dense_float64_product(backend: str, case: Problem) -> None:
    results = zip(case.run(backend), case.reference(), case.reference(magnitudes=True), strict=True)
    for result, reference, magnitude in results:
        assert result.dtype == case.weight.dtype
        assert result.shape == reference.shape
        numbers = torch.finfo(result.dtype)
        least = numbers.eps * numbers.smallest_normal  # between numbers near zero
        assert ((result.double() - reference).abs() <= 4 * numbers.eps * magnitude + least).all()


def test_bf16_is_rounded_once(backend: str) -> None:
    """Adding up in bf16 would be wrong by several per cent at this k; rounding once is off by 2^-9 at most."""
    case = problem(2, 900, 1000, 33, torch.bfloat16)
    indices = torch.arange(900).expand(2, 900)  # no repeats: a dense code would round their sum
    case = case._replace(indices=indices)
    for result, reference, magnitude in zip(
        case.run(backend), case.reference(), case.reference(magnitudes=True), strict=True
    ):
        rounding = 2**-7 if backend == "triton" else 2**-8  # Triton's interpreter truncates, GPUs do not
        assert ((result.double() - reference).abs() <= rounding * reference.abs() + 1e-6 * magnitude).all()


def test_gradcheck_through_a_weight_that_is_no_leaf(backend: DecodeBackend) -> None:
    case = problem(3, 4, 5, 3, torch.float64)
    assert torch.autograd.gradcheck(
        lambda values, weight: decode(values.relu(), case.indices, weight.T * 2, None, backend).sin(),
        (case.values.requires_grad_(), case.weight.T.contiguous().requires_grad_()),
    )


def test_only_what_needs_a_gradient_gets_one(backend: DecodeBackend) -> None:
    case = problem(3, 2, 5, 4)
    decode(case.values, case.indices, case.weight.requires_grad_(), None, backend).sum().backward()  # expanded grad
    fired = torch.zeros(5, dtype=torch.bool).index_fill(0, case.indices.flatten(), True)
    assert case.weight.grad is not None
    assert torch.equal(case.weight.grad.abs().sum(1) > 0, fired)
    assert case.values.grad is None
    assert not decode(case.values, case.indices, case.weight.detach(), None, backend).requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bitwise_repeatable(backend: str, dtype: torch.dtype) -> None:
    case = problem(33 if backend == "triton" else 257, 16, 300, 65, dtype)  # the interpreter is slow
    for first, second in zip(case.run(backend), case.run(backend), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("num_entries", [4096, 4097, 32_767, 32_768])
def test_transposing_is_stable_whichever_way_columns_are_sorted(num_entries: int) -> None:
    draw = torch.Generator().manual_seed(0)
    columns = torch.randint(300, (num_entries,), generator=draw)
    pointer = torch.tensor([0, num_entries // 3, num_entries])
    transposed = Csr(torch.arange(num_entries), columns, pointer, 300).transposed()
    assert torch.equal(transposed.values, columns.argsort(stable=True))
    assert torch.equal(transposed.row_pointer.diff(), columns.bincount(minlength=300))
    assert torch.equal(transposed.columns, (transposed.values >= num_entries // 3).long())


@pytest.mark.parametrize("num_columns", [32_767, 32_768])
def test_short_keys_sort_as_long_ones_do(num_columns: int) -> None:
    columns = torch.tensor([num_columns - 1, 0, 7, 7, num_columns - 1, 0])
    for sort in (csr._sort_on_cpu, csr._sort_on_gpu):
        in_order, places = sort(columns, num_columns)
        assert (in_order.dtype, in_order.tolist()) == (torch.int32, columns.sort().values.tolist())
        assert places.tolist() == [1, 5, 2, 3, 0, 4]


def test_threads_do_not_change_the_result() -> None:
    case = problem(513, 32, 512, 129)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = case.run("embedding_bag")
        torch.set_num_threads(2)
        together = case.run("embedding_bag")
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(first, second) for first, second in zip(alone, together, strict=True))


def test_autocast_casts_like_a_matrix_product(backend: DecodeBackend) -> None:
    case = problem(5, 3, 11, 8)
    values, weight = case.values.clone().requires_grad_(), case.weight.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        decoded = decode(values, case.indices, weight, None, backend)
    grads = torch.autograd.grad(decoded, (values, weight), case.grad.bfloat16())
    half = case._replace(values=case.values.bfloat16(), weight=case.weight.bfloat16(), grad=case.grad.bfloat16())
    expected = half.run(backend)
    assert decoded.dtype == torch.bfloat16
    assert torch.equal(decoded, expected[0])
    for grad, expected_grad in zip(grads, expected[1:], strict=True):
        assert grad.dtype == torch.float32
        assert torch.equal(grad, expected_grad.float())


def test_backward_inside_autocast_does_not_lower_the_precision(backend: DecodeBackend) -> None:
    case = problem(5, 3, 11, 8)
    values, weight = case.values.clone().requires_grad_(), case.weight.clone().requires_grad_()
    decoded = decode(values, case.indices, weight, None, backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        grads = torch.autograd.grad(decoded, (values, weight), case.grad)
    for grad, expected in zip(grads, case.run(backend)[1:], strict=True):
        assert torch.equal(grad, expected)


def test_mixed_types_meet_in_the_wider_one(backend: DecodeBackend) -> None:
    case = problem(5, 3, 11, 8)
    values, weight = case.values.bfloat16().requires_grad_(), case.weight.requires_grad_()
    decoded = decode(values, case.indices, weight, None, backend)
    decoded.sum().backward()
    assert decoded.dtype == torch.float32
    assert values.grad is not None
    assert values.grad.dtype == torch.bfloat16


class LargestTensor(TorchDispatchMode):
    """Watches for the largest strided tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple) else (result,):
            # A sparse tensor's numel counts what it does not store; its parts were strided tensors before.
            if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
                self.num_elements = max(self.num_elements, tensor.numel())
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_intermediate_of_tokens_by_k_by_channels(backend: str, dtype: torch.dtype) -> None:
    if backend == "triton":
        pytest.skip("the interpreter copies whole operands")
    num_tokens, k, num_latents, channels = 96, 8, 64, 32
    case = problem(num_tokens, k, num_latents, channels, dtype)
    with LargestTensor() as largest:
        case.run(backend)
    # Gathering backends do without a dense code, [N, M], too.
    allowed = num_tokens * (num_latents if backend == "dense" else channels)
    assert largest.num_elements <= allowed < num_tokens * k * channels


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # of torch.compile's own making
def test_the_default_can_be_compiled() -> None:
    case = problem(5, 3, 11, 8)
    weight = case.weight.requires_grad_()
    compiled = torch.compile(decode, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(case.values, case.indices, weight), decode(case.values, case.indices, weight))
    compiled(case.values, case.indices, weight).backward(case.grad)
    torch.testing.assert_close(weight.grad, case.run("embedding_bag")[2])


@pytest.fixture
def _fresh_log() -> Iterator[None]:
    _log_choice.cache_clear()
    yield
    _log_choice.cache_clear()


@pytest.mark.usefixtures("_fresh_log")
def test_auto_chooses_by_density_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="tide_lightning")
    sparse, crowded = problem(4, 1, 200, 3), problem(4, 150, 200, 3)
    for case in (sparse, sparse, crowded, crowded):
        assert all(torch.equal(*pair) for pair in zip(case.run("auto"), case.run("auto"), strict=True))
    first, second = (record.getMessage() for record in caplog.records)
    assert "auto takes embedding_bag" in first
    assert "auto takes dense" in second


@pytest.mark.parametrize(
    ("device_type", "dtype", "share", "has_triton", "expected"),
    [
        ("cpu", torch.float32, 0.09, False, "embedding_bag"),
        ("cpu", torch.float32, 0.11, False, "dense"),
        ("cpu", torch.bfloat16, 0.05, False, "dense"),
        ("cuda", torch.bfloat16, 64 / 18432, True, "triton"),
        ("cuda", torch.bfloat16, 0.006, True, "dense"),
        ("cuda", torch.float32, 0.006, True, "triton"),
        ("cuda", torch.bfloat16, 0.001, False, "embedding_bag"),
    ],
)
def test_the_fastest_backend_of_each_device(
    device_type: str, dtype: torch.dtype, share: float, has_triton: bool, expected: str
) -> None:
    assert fastest_backend(device_type, dtype, share, has_triton) == expected


@settings(max_examples=30, deadline=None)
@given(case=problems(), most_numbers=st.sampled_from([1, 7, 40, 2**20]))
def test_dot_products_in_parts_where_no_kernel_does_all_at_once(case: Problem, most_numbers: int) -> None:
    """What a GPU without Triton does."""
    pointer = torch.arange(len(case.grad) + 1) * case.values.shape[-1] if case.row_pointer is None else case.row_pointer
    code = Csr(case.values.flatten(), case.indices.flatten(), pointer, len(case.weight))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gathering, "_MOST_NUMBERS_GATHERED", most_numbers)
        products = gathering._gathered_in_parts(code, case.grad, case.weight)
    magnitude = case.reference(magnitudes=True)[1].flatten()
    off = (products.double() - case.reference()[1].flatten()).abs()
    assert (off <= 4 * torch.finfo(products.dtype).eps * magnitude).all()


def test_an_unknown_backend_is_named_with_the_known_ones() -> None:
    case = problem(2, 1, 3, 2)
    with pytest.raises(UserError, match="unknown decode backend 'csr': choose one of auto, dense, coo"):
        case.run("csr")


def test_without_torch_sparse_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_sparse", None)  # import fails, as where it is not installed
    torch_sparse_backend._library.cache_clear()
    with pytest.raises(UserError, match="make torch-sparse"):
        problem(2, 1, 3, 2).run("torch_sparse")

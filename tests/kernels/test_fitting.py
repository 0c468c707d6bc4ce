"""Values fitted to a target by least squares on each token's own latents, against a dense float64 solution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tide_lightning.kernels import DecodeBackend, decode, fit_values

Code = tuple[Tensor, Tensor, Tensor | None]


def code(num_tokens: int, num_latents: int, lengths: str, seed: int = 0) -> Code:
    """Random latents, each once a token: five of each, or 0 to 5."""
    draw = torch.Generator().manual_seed(seed)
    indices = torch.rand(num_tokens, num_latents, generator=draw).argsort(1)[:, :5]
    values = torch.rand(num_tokens, 5, generator=draw, dtype=torch.float64)
    if lengths == "even":
        return values, indices, None
    kept = torch.arange(5) < torch.arange(num_tokens).unsqueeze(1) % 6
    return values[kept], indices[kept], torch.cat([torch.zeros(1, dtype=torch.int64), kept.sum(1).cumsum(0)])


def decoder(num_latents: int, channels: int) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    rows = torch.randn(num_latents, channels, generator=draw, dtype=torch.float64)
    return torch.nn.functional.normalize(rows, dim=1)


def best_values(target: Tensor, indices: Tensor, weight: Tensor, row_pointer: Tensor | None) -> Tensor:
    """Each token's least squares solution, in the code's order."""
    num_tokens = len(target)
    lengths = [indices.shape[1]] * num_tokens if row_pointer is None else row_pointer.diff().tolist()
    latents = indices.flatten().split(lengths)
    solved = [torch.linalg.lstsq(weight[own].T, goal).solution for own, goal in zip(latents, target, strict=True)]
    return torch.cat([*solved, target.new_zeros(0)]).view_as(indices)


@pytest.mark.parametrize("lengths", ["even", "uneven"])
@pytest.mark.parametrize(("num_tokens", "channels"), [(1, 7), (33, 24), (0, 7)])
@pytest.mark.parametrize("backend", ["dense", "coo", "embedding_bag"])
def test_as_many_steps_as_latents_solve_the_least_squares(
    num_tokens: int, channels: int, lengths: str, backend: DecodeBackend
) -> None:
    values, indices, row_pointer = code(num_tokens, 40, lengths)
    weight = decoder(40, channels)
    target = torch.randn(num_tokens, channels, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = best_values(target, indices, weight, row_pointer)
    got = fit_values(target, values, indices, weight, row_pointer, steps=5, backend=backend)
    torch.testing.assert_close(got, expected.clamp(min=0))


def test_each_step_comes_closer() -> None:
    values, indices, row_pointer = code(50, 40, "uneven")
    weight = decoder(40, 24)
    target = decode(values * 3, indices, weight, row_pointer) + 0.1
    errors = []
    for steps in (0, 1, 2, 3):
        fitted = fit_values(target, values, indices, weight, row_pointer, steps)
        errors.append(float((target - decode(fitted, indices, weight, row_pointer)).square().sum()))
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < 0.1 * errors[0]


def test_an_exact_fit_and_a_silent_token_stay_as_they_are() -> None:
    values, indices, _ = code(10, 40, "even")
    weight = decoder(40, 24)
    values[3] = 0
    target = decode(values, indices, weight)
    torch.testing.assert_close(fit_values(target, values, indices, weight), values, atol=1e-12, rtol=0)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_steps_beyond_the_solution_change_nothing(k: int) -> None:
    """Of one latent the first step finds the value, and what rounding leaves must not move it, for any token."""
    draw = torch.Generator().manual_seed(0)
    weight_MD = torch.nn.functional.normalize(torch.randn(96, 24, generator=draw), dim=1)
    indices = torch.rand(20_000, 96, generator=draw).topk(k).indices
    target_ND, start = 3 * torch.randn(20_000, 24, generator=draw), torch.rand(20_000, k, generator=draw)
    found = fit_values(target_ND, start, indices, weight_MD, steps=5)
    rows = weight_MD[indices].double()
    exact = torch.linalg.lstsq(rows.mT, target_ND.double().unsqueeze(2)).solution.squeeze(2)
    torch.testing.assert_close(found.double(), exact.clamp(min=0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nor_do_they_in_a_gpus_kernels(dtype: torch.dtype) -> None:
    """A token whose latents nearly repeat each other, by both ways that its length may take."""
    pytest.importorskip("triton")
    draw = torch.Generator().manual_seed(0)
    weight = decoder(140, 24).to(dtype)
    weight[1] = weight[0]
    indices = torch.stack([torch.randperm(138, generator=draw)[:3] + 2 for _ in range(20)])
    indices[0, :2] = torch.tensor([0, 1])
    target = 3 * torch.randn(20, 24, generator=draw)
    found = fit_values(target, torch.rand(20, 3, generator=draw), indices, weight, None, 9, "triton")
    lost = (target.double() - decode(found.double(), indices, weight.double())).square().sum(1)
    start = torch.zeros(20, 3, dtype=torch.float64)
    best = fit_values(target.double(), start, indices, weight.double(), None, 9)
    least = (target.double() - decode(best, indices, weight.double())).square().sum(1)
    torch.testing.assert_close(lost, least, rtol=1e-3, atol=1e-3)
    many = torch.arange(140).unsqueeze(0)
    assert fit_values(target[:1], torch.rand(1, 140, generator=draw), many, weight, None, 9, "triton").max() < 10


def test_latents_that_repeat_each_other_stay_finite() -> None:
    weight = decoder(40, 24)
    weight[1] = weight[0]
    target = 2 * weight[:1]
    fitted = fit_values(target, torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[0, 1]]), weight, steps=5)
    torch.testing.assert_close(fitted, torch.ones_like(fitted))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sixteen_bits_are_fitted_in_thirty_two(dtype: torch.dtype) -> None:
    values, indices, row_pointer = code(33, 40, "uneven")
    weight = decoder(40, 24).to(dtype)
    target = torch.randn(33, 24, generator=torch.Generator().manual_seed(2)).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        got = fit_values(target, values.to(dtype), indices, weight, row_pointer, steps=5)
    assert got.dtype == dtype
    expected = best_values(target.double(), indices, weight.double(), row_pointer).clamp(min=0)
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(got.double(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("lengths", ["even", "uneven"])
def test_the_target_gets_the_solutions_gradient(lengths: str) -> None:
    values, indices, row_pointer = code(12, 40, lengths)
    weight = decoder(40, 24)
    goal = (decode(values + 0.5, indices, weight, row_pointer) + 0.05).requires_grad_()
    grad = torch.randn(values.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    got = fit_values(goal, values, indices, weight.requires_grad_(), row_pointer, steps=8)
    expected = best_values(goal, indices, weight.detach(), row_pointer)
    assert (expected.detach() > 0).all()
    torch.testing.assert_close(got, expected)
    [ours] = torch.autograd.grad((got * grad).sum(), goal)
    torch.testing.assert_close(ours, torch.autograd.grad((expected * grad).sum(), goal)[0])


def test_a_value_held_at_zero_has_no_gradient() -> None:
    weight = torch.eye(3, dtype=torch.float64)
    goal = torch.tensor([[2.0, -1.0, 0.5]], dtype=torch.float64).requires_grad_()
    got = fit_values(goal, torch.ones(1, 3, dtype=torch.float64), torch.tensor([[0, 1, 2]]), weight, steps=3)
    torch.testing.assert_close(got.detach(), torch.tensor([[2.0, 0.0, 0.5]], dtype=torch.float64))
    [gradient] = torch.autograd.grad(got.sum(), goal)
    torch.testing.assert_close(gradient, torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("channels", "steps"), [(70, 3), (33, 0), (128, 1)])
def test_a_gpus_kernels_fit_as_a_cpu_does(dtype: torch.dtype, channels: int, steps: int) -> None:
    """Through Triton's interpreter: tokens of no latents, of every size of program, and of more than the largest."""
    pytest.importorskip("triton")
    draw = torch.Generator().manual_seed(0)
    lengths = torch.tensor([0, 1, 16, 17, 60, 64, 65, 128, 129, 200, 3])
    indices = torch.cat([torch.randperm(300, generator=draw)[:length] for length in lengths])
    row_pointer = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    values, weight = torch.rand(len(indices), generator=draw), decoder(300, channels).to(dtype)
    target = torch.randn(len(lengths), channels, generator=draw)
    values = values.to(dtype)
    operands = target.double(), values.double(), indices, weight.double(), row_pointer
    got = fit_values(target, values, indices, weight, row_pointer, steps, "triton")
    assert got.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 2**-8  # bf16 values are rounded once
    torch.testing.assert_close(got.double(), fit_values(*operands, steps), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("k", [1, 5, 129])
def test_a_gpus_kernels_fit_codes_of_one_length(k: int) -> None:
    pytest.importorskip("triton")
    draw = torch.Generator().manual_seed(0)
    indices = torch.rand(3, 200, generator=draw).argsort(1)[:, :k]
    values, weight = torch.rand(3, k, generator=draw), decoder(200, 24)
    goal = torch.randn(3, 24, generator=draw).requires_grad_()
    exact = goal.detach().double().requires_grad_()
    got = fit_values(goal, values, indices, weight.float(), backend="triton")
    expected = fit_values(exact, values.double(), indices, weight)
    torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=1e-5)
    if k == 5:
        grads = torch.autograd.grad(got.sum(), goal)[0].double(), torch.autograd.grad(expected.sum(), exact)[0]
        torch.testing.assert_close(*grads, atol=1e-5, rtol=1e-5)


def test_a_gpus_kernels_read_rows_in_autocasts_type() -> None:
    pytest.importorskip("triton")
    values, indices, row_pointer = code(12, 40, "uneven")
    weight = decoder(40, 24)
    target = torch.randn(12, 24, generator=torch.Generator().manual_seed(2))
    with torch.autocast("cpu", torch.bfloat16):
        got = fit_values(target, values.float(), indices, weight.float(), row_pointer, 5, "triton")
    assert got.dtype == torch.float32
    expected = best_values(target.double(), indices, weight.bfloat16().double(), row_pointer).clamp(min=0)
    torch.testing.assert_close(got.double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("backend", ["embedding_bag", "triton"])
def test_no_tokens_are_fitted(backend: DecodeBackend) -> None:
    if backend == "triton":
        pytest.importorskip("triton")
    values, indices, _ = code(0, 40, "even")
    fitted = fit_values(torch.zeros(0, 24), values.float(), indices, decoder(40, 24).float(), backend=backend)
    assert fitted.shape == (0, 5)

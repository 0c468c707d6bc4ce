"""Kernels against float64: products and gradients of each backend, selection, fitting and rows, in all types.

An error is told in roundings: the type's epsilon times the sum of the terms' magnitudes. What is asked of each is the
same twice, too, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.gpu_check.section import Section
from tide_lightning.kernels import (
    BatchTopK,
    DecodeBackend,
    Encoded,
    Rule,
    Selected,
    Threshold,
    TopK,
    decode,
    encode,
    fit_values,
    normalise_rows,
    project_off_rows,
)
from tide_lightning.kernels.csr import even_row_pointer, expand_row_pointer

TYPES = (torch.bfloat16, torch.float32, torch.float16)
MOST_ROUNDINGS = 4.0


class Size(NamedTuple):
    """Of a problem."""

    tokens: int
    channels: int
    latents: int
    k: int


SMALL = [Size(33, 70, 300, 5), Size(7, 33, 50, 1), Size(64, 48, 512, 8)]
LARGE = [SMALL[0], Size(1000, 1152, 18432, 64)]  # few: each compiles kernels of its own


def measure(section: Section) -> None:
    """Each type in turn, bf16 first."""
    for dtype in TYPES:
        name = str(dtype).removeprefix("torch.")
        checks: dict[str, Callable[[], None]] = {
            f"products by {backend}": partial(_products, section, backend, dtype, name)
            for backend in _backends(section)
        }
        for rule in ("TopK", "BatchTopK", "weighted BatchTopK", "Threshold", "threshold for each latent"):
            checks[rule] = partial(_selection, section, rule, dtype, name)
        checks["fitted values"] = partial(_fitting, section, dtype, name)
        checks["rows"] = partial(_rows, section, dtype, name)
        for check, run in checks.items():
            if section.left() < 0:
                section.could_not(f"{check}, {name}", "no time was left")
                continue
            with section.trying(f"{check}, {name}"):
                run()


def _backends(section: Section) -> list[DecodeBackend]:
    on_gpu: list[DecodeBackend] = ["triton", "dense", "embedding_bag", "coo"]
    return [name for name in on_gpu if name != "triton" or section.device.type == "cuda"]


def _sizes(section: Section) -> list[Size]:
    return SMALL if section.is_small else LARGE


def _draws(size: Size, device: torch.device) -> Iterator[Tensor]:
    """Tokens, rows of unit norm, indices (each once a token), values, a gradient."""
    draw = torch.Generator(device).manual_seed(0)
    yield torch.randn(size.tokens, size.channels, generator=draw, device=device)
    yield normalize(torch.randn(size.latents, size.channels, generator=draw, device=device), dim=1)
    yield torch.rand(size.tokens, size.latents, generator=draw, device=device).topk(size.k).indices
    yield torch.rand(size.tokens, size.k, generator=draw, device=device)
    yield torch.randn(size.tokens, size.channels, generator=draw, device=device)


def _products(section: Section, backend: DecodeBackend, dtype: torch.dtype, name: str) -> None:
    worst, repeats = 0.0, True
    for size in _sizes(section):
        _, weight, indices, values, grad = (
            part.to(dtype) if part.is_floating_point() else part for part in _draws(size, section.device)
        )

        def run(
            values: Tensor = values, weight: Tensor = weight, indices: Tensor = indices, grad: Tensor = grad
        ) -> Sequence[Tensor]:
            leaves = values.clone().requires_grad_(), weight.clone().requires_grad_()
            decoded = decode(leaves[0], indices, leaves[1], backend=backend)
            return decoded.detach(), *torch.autograd.grad(decoded, leaves, grad)

        def exact(take: Callable[[Tensor], Tensor], parts: Sequence[Tensor], indices: Tensor = indices) -> list[Tensor]:
            values, weight, grad = (take(part.double()) for part in parts)
            code = values.new_zeros(len(values), len(weight)).scatter(1, indices, values)
            return [code @ weight, (grad @ weight.T).gather(1, indices), code.T @ grad]

        found, parts = run(), (values, weight, grad)
        repeats &= all(torch.equal(one, other) for one, other in zip(found, run(), strict=True))
        wanted, sums = exact(lambda part: part, parts), exact(torch.abs, parts)
        for one, right, magnitude in zip(found, wanted, sums, strict=True):
            info = torch.finfo(dtype)
            rounding = info.eps * (magnitude + info.smallest_normal)
            worst = max(worst, float(((one.double() - right).abs() / rounding).max()))
    note = "" if repeats else "not the same bits twice"
    section.at_most(f"products by {backend}, {name}", worst, MOST_ROUNDINGS, "roundings", note)
    if backend != "coo":  # docs/explanation/numerics.md says so of coo
        section.holds(f"products by {backend} repeat, {name}", repeats)


def _rule(kind: str, size: Size, device: torch.device) -> tuple[Rule, Tensor | None, Tensor | None]:
    """The rule, by which its rows count, and its threshold."""
    weight = torch.linspace(0.5, 2, size.tokens, device=device).sqrt() if kind.startswith(("weighted", "Thr")) else None
    bound = torch.linspace(1, 3, size.latents, device=device) if "each" in kind else torch.tensor(1.5, device=device)
    if kind == "TopK":
        return TopK(size.k), None, None
    if "Batch" in kind:
        return BatchTopK(size.k, weight_N=weight), weight, None
    return Threshold(bound, weight_N=weight), weight, bound


def _selection(section: Section, kind: str, dtype: torch.dtype, name: str) -> None:
    """What is selected of relu(start + x W^T), and its gradients."""
    worst_value = worst_gradient = 0.0
    repeats = True
    for size in _sizes(section):
        x, weight, indices, values, _ = _draws(size, section.device)
        x, weight, values = x.to(dtype), weight.to(dtype), values.to(dtype)
        rule, by_row, bound = _rule(kind, size, section.device)

        def run(
            x: Tensor = x,
            weight: Tensor = weight,
            values: Tensor = values,
            indices: Tensor = indices,
            rule: Rule = rule,
        ) -> tuple[Encoded, Sequence[Tensor]]:
            leaves = [part.clone().requires_grad_() for part in (x, weight, values)]
            found = encode(leaves[0], leaves[1], None, rule, start=Selected(leaves[2], indices, None))
            return found, torch.autograd.grad(found.values.float().square().sum(), leaves)

        (found, gradients), (again, gradients_again) = run(), run()
        repeats &= torch.equal(found.values, again.values) and torch.equal(found.indices, again.indices)
        repeats &= all(torch.equal(one, other) for one, other in zip(gradients, gradients_again, strict=True))

        exact = [part.double().requires_grad_() for part in (x, weight, values)]
        pre = (exact[0] @ exact[1].T).scatter_add(1, indices, exact[2])
        pointer = even_row_pointer(found.indices) if found.row_pointer is None else found.row_pointer
        at = expand_row_pointer(pointer, found.indices.numel()), found.indices.flatten()
        is_kept = torch.zeros_like(pre, dtype=torch.bool).index_put(at, found.values.flatten() > 0)
        rounding = 4 * torch.finfo(dtype).eps * float(pre.detach().abs().max())
        worst_value = max(worst_value, _shortfall(pre.detach().relu(), is_kept, rule, by_row, bound) / rounding)
        right = torch.autograd.grad((pre * is_kept).square().sum(), exact)
        for one, other in zip(gradients, right, strict=True):
            off = float((one.double() - other).norm() / other.norm().clamp(min=1e-9))
            worst_gradient = max(worst_gradient, off / torch.finfo(dtype).eps)
    section.at_most(f"{kind}, {name}", worst_value, 1.0, "roundings", "what was left out over what was kept, at most")
    section.at_most(f"gradients of {kind}, {name}", worst_gradient, MOST_ROUNDINGS, "roundings")
    section.holds(f"{kind} repeats, {name}", repeats)


def _shortfall(pre: Tensor, is_kept: Tensor, rule: Rule, by_row: Tensor | None, bound: Tensor | None) -> float:
    """By how much what was left out exceeds what was kept; infinite where too much was kept."""
    compared = pre if by_row is None else pre * by_row.double().unsqueeze(1)
    kept, left = compared.where(is_kept, torch.inf), compared.where(~is_kept, -torch.inf)
    if bound is not None:
        return max(0.0, float((bound - kept).max()), float((left - bound).max()))
    assert isinstance(rule, TopK | BatchTopK)
    if isinstance(rule, TopK):
        too_many, short = is_kept.sum(1) > rule.k, left.amax(1) - kept.amin(1)
    else:
        too_many, short = is_kept.sum() > rule.k * len(pre), left.max() - kept.min()
    return torch.inf if bool(too_many.any()) else max(0.0, float(short.max()))


def _fitting(section: Section, dtype: torch.dtype, name: str) -> None:
    """Codes of one length, and of many lengths; rows in this type, sums in float32."""
    worst, repeats = 0.0, True
    for size in _sizes(section):
        target, weight, indices, values, _ = _draws(size, section.device)
        lengths = (torch.arange(size.tokens, device=section.device) * 7) % (size.k + 1)
        is_kept = torch.arange(size.k, device=section.device) < lengths.unsqueeze(1)
        flat = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        for codes in ((values, indices, None), (values[is_kept], indices[is_kept], flat)):
            amounts, at, pointer = codes
            low = weight.to(dtype)

            def run(
                amounts: Tensor = amounts,
                at: Tensor = at,
                pointer: Tensor | None = pointer,
                low: Tensor = low,
                target: Tensor = target,
            ) -> Tensor:
                return fit_values(target, amounts, at, low, pointer)

            found = run()
            repeats &= torch.equal(found, run())
            right = fit_values(target.double(), amounts.double(), at, low.double(), pointer, backend="dense")
            worst = max(worst, float((found.double() - right).abs().max() / right.abs().max().clamp(min=1e-9)))
    section.at_most(f"fitted values, {name}", worst, 1e-4, "of the largest")
    section.holds(f"fitting repeats, {name}", repeats)


def _rows(section: Section, dtype: torch.dtype, name: str) -> None:
    worst = 0.0
    for size in _sizes(section):
        _, weight, *_ = _draws(size, section.device)
        rows = (3 * weight).to(dtype)
        wanted = normalize(rows.double(), dim=1)
        normalise_rows(rows)
        worst = max(worst, float((rows.double() - wanted).abs().max()) / torch.finfo(dtype).eps)
        grad = torch.randn_like(rows)
        wanted = grad.double() - (grad.double() * rows.double()).sum(1, keepdim=True) * rows.double()
        norm = project_off_rows(grad, rows)
        worst = max(worst, float((grad.double() - wanted).abs().max() / wanted.abs().max()) / torch.finfo(dtype).eps)
        worst = max(worst, float((norm.double() - wanted.norm()).abs() / wanted.norm()) / torch.finfo(dtype).eps)
    section.at_most(f"unit rows and projection, {name}", worst, MOST_ROUNDINGS, "roundings")

"""Muon for matrices, AdamW for the rest, as one optimiser.

Muon (Jordan et al., 2024) replaces a matrix's momentum by the nearest orthogonal matrix, found by a
Newton-Schulz iteration. Matrices of one shape are orthogonalised together, as one batched product.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim import Optimizer

_COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
"""Jordan's quintic: steep at zero, so that small singular values reach one in few steps."""


def orthogonalise(matrix_BMN: Tensor, steps: int = 5) -> Tensor:
    """Bring the singular values of each matrix near one, in bfloat16."""
    a, b, c = _COEFFICIENTS
    x = matrix_BMN.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class MuonAdamW(Optimizer):
    """One optimiser over groups that say `muon=True` or not.

    Args:
        groups: Parameter groups with `params`, `muon`, `lr` and `weight_decay`.
        momentum: Muon's momentum.
        betas: AdamW's.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
    ) -> None:
        super().__init__(groups, {"momentum": momentum, "betas": betas, "muon": False, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both kinds."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            grads: list[Tensor] = [p.grad for p in params]  # type: ignore[misc]
            if params:
                (self._muon if group["muon"] else self._adamw)(params, grads, group)
        return loss

    def _muon(self, params: list[Tensor], grads: list[Tensor], group: dict[str, Any]) -> None:
        by_shape: dict[torch.Size, list[int]] = defaultdict(list)
        for i, p in enumerate(params):
            by_shape[p.shape].append(i)
        for (rows, columns), members in by_shape.items():
            same = [params[i] for i in members]
            gradients = [grads[i] for i in members]
            buffers = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in same]
            torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
            ahead = torch._foreach_lerp(gradients, buffers, group["momentum"])
            update = orthogonalise(torch.stack(ahead)).float().unbind()
            torch._foreach_mul_(same, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(same, list(update), alpha=-group["lr"] * max(1, rows / columns) ** 0.5)

    def _adamw(self, params: list[Tensor], grads: list[Tensor], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        for p in params:
            if not self.state[p]:
                self.state[p] = {"mean": torch.zeros_like(p), "square": torch.zeros_like(p), "step": 0}
            self.state[p]["step"] += 1
        step = self.state[params[0]]["step"]
        means = [self.state[p]["mean"] for p in params]
        squares = [self.state[p]["square"] for p in params]
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        scale = torch._foreach_sqrt(squares)
        torch._foreach_div_(scale, (1 - beta2**step) ** 0.5)
        torch._foreach_add_(scale, 1e-8)
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_addcdiv_(params, means, scale, -group["lr"] / (1 - beta1**step))

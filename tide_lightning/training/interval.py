"""What happened between two lines of a log."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from tide_lightning.reduction import all_reduce_sum


class Interval:
    """Sums of each site's loss and its parts since they were last asked for, and the pace."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[list[str], Tensor]] = {}  # names of what is summed; the sums, and of how many
        self._before: tuple[float, int] | None = None

    @torch.no_grad()
    def add(self, site: str, parts: dict[str, Tensor]) -> None:
        """Add a step."""
        values = torch.stack([*parts.values(), torch.ones_like(next(iter(parts.values())))]).double()
        values = values.where(values.isfinite().all(), 0)  # a step that is skipped
        if site not in self._sums:
            self._sums[site] = list(parts), torch.zeros_like(values)
        self._sums[site][1].add_(values)

    def sums(self, site: str) -> list[Tensor]:
        """The memory that a site's steps are added to, from its first step on the same."""
        return [self._sums[site][1]] if site in self._sums else []

    def means(self, site: str) -> dict[str, float]:
        """Over the steps of all ranks; the sums start anew."""
        names, sums = self._sums[site]
        *totals, count = all_reduce_sum(sums.clone()).tolist()
        sums.zero_()
        return {name: total / count if count else math.nan for name, total in zip(names, totals, strict=True)}

    def tokens_per_second(self, tokens_seen: int) -> dict[str, float]:
        """Since the last call, under its name; nothing at the first."""
        now, before = time.perf_counter(), self._before
        self._before = now, tokens_seen
        return {} if before is None else {"tokens_per_second": (tokens_seen - before[1]) / (now - before[0])}

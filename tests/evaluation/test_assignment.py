from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor

from tide_lightning.evaluation.assignment import TOLERANCE, assign


def total(scores: Tensor, column: Tensor) -> float:
    rows = (column >= 0).nonzero().squeeze(1)
    assert len(column[rows].unique()) == len(rows) == min(scores.shape)
    return float(scores[rows, column[rows]].sum())


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (3, 6), (6, 3)])
def test_no_permutation_is_better(seed: int, size: tuple[int, int]) -> None:
    scores = torch.rand(size, generator=torch.Generator().manual_seed(seed))
    wide = scores if size[0] <= size[1] else scores.mT
    best = max(
        sum(float(wide[row, column]) for row, column in enumerate(order))
        for order in permutations(range(wide.shape[1]), wide.shape[0])
    )
    assert total(scores, assign(scores)) >= best - TOLERANCE * min(size)


def test_equal_scores_are_shared_out() -> None:
    assert sorted(assign(torch.ones(7, 7)).tolist()) == list(range(7))


def test_a_noisy_permutation_is_found() -> None:
    draw = torch.Generator().manual_seed(0)
    order = torch.randperm(300, generator=draw)
    scores = 0.4 * torch.rand(300, 300, generator=draw)
    scores[torch.arange(300), order] += 0.5
    assert torch.equal(assign(scores), order)

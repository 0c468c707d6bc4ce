"""AUROC, F1, thresholds, R^2 and IoU against plain definitions and constructed cases."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tide_lightning.benchmark.meaning import best_latents
from tide_lightning.evaluation.scores import (
    auroc,
    auroc_paired,
    best_threshold,
    f1_counts,
    iou_counts,
    square_sums,
)


def brute_auroc(scores: Tensor, labels: Tensor) -> float:
    """The share of pairs in which the positive wins, a tie being half a win."""
    wins = [(float(p) > float(n)) + 0.5 * (float(p) == float(n)) for p in scores[labels] for n in scores[~labels]]
    return sum(wins) / len(wins)


def f1(scores_UV: Tensor, thresholds_V: Tensor, labels_UV: Tensor) -> Tensor:
    hits, said = f1_counts(scores_UV, thresholds_V, labels_UV)
    return 2 * hits.sum(0) / said.sum(0)


def brute_f1(scores: Tensor, threshold: float, labels: Tensor) -> float:
    hits = sum(float(s) >= threshold and bool(y) for s, y in zip(scores, labels, strict=True))
    misses = sum(float(s) < threshold and bool(y) for s, y in zip(scores, labels, strict=True))
    alarms = sum(float(s) >= threshold and not bool(y) for s, y in zip(scores, labels, strict=True))
    return hits / (hits + (misses + alarms) / 2)


@pytest.fixture
def drawn() -> tuple[Tensor, Tensor]:
    """Sparse scores with many ties, and questions of very different frequency."""
    draw = torch.Generator().manual_seed(0)
    scores = torch.rand(60, 7, generator=draw) * (torch.rand(60, 7, generator=draw) < 0.4)
    labels = torch.rand(60, 5, generator=draw) < torch.tensor([0.05, 0.2, 0.5, 0.8, 0.95])
    return scores, labels


def test_auroc_equals_the_share_of_won_pairs(drawn: tuple[Tensor, Tensor]) -> None:
    scores, labels = drawn
    found = auroc(scores, labels)
    assert found.shape == (5, 7)
    for v in range(5):
        for f in range(7):
            assert float(found[v, f]) == pytest.approx(brute_auroc(scores[:, f], labels[:, v]), abs=1e-12)
    torch.testing.assert_close(auroc_paired(scores[:, :5], labels), found[:, :5].diagonal())


def test_auroc_in_chunks_is_the_same() -> None:
    draw = torch.Generator().manual_seed(0)
    scores, labels = torch.rand(20, 1500, generator=draw), torch.rand(20, 2, generator=draw) < 0.5
    whole = auroc(scores, labels)
    assert torch.equal(whole[:, 1400:], auroc(scores[:, 1400:], labels))


def test_auroc_is_nan_where_there_is_nothing_to_tell_apart() -> None:
    assert auroc(torch.rand(4, 2), torch.ones(4, 1, dtype=torch.bool)).isnan().all()


def test_perfect_negated_and_silent_latents() -> None:
    labels = torch.tensor([[True], [False], [True], [False], [False], [False]])
    perfect = labels.float() * 2
    scores = torch.cat([torch.zeros(6, 1), -perfect, perfect], 1)
    assert auroc(scores, labels)[0].tolist() == [0.5, 0, 1]
    # One that is silent where the value is, tells as much, but does not stand for it.
    assert best_latents(scores, labels).tolist() == [2]
    threshold = best_threshold(scores, labels.expand(-1, 3))
    assert f1(scores, threshold, labels.expand(-1, 3)).tolist() == pytest.approx([0.5, 0.5, 1])  # 0.5: always yes


def test_best_threshold_beats_every_other(drawn: tuple[Tensor, Tensor]) -> None:
    scores, labels = drawn[0][:, :5], drawn[1]
    thresholds = best_threshold(scores, labels)
    found = f1(scores, thresholds, labels)
    for v in range(5):
        candidates = [*scores[:, v].tolist(), -1.0]
        assert float(found[v]) == pytest.approx(max(brute_f1(scores[:, v], c, labels[:, v]) for c in candidates))
        assert float(found[v]) == pytest.approx(brute_f1(scores[:, v], float(thresholds[v]), labels[:, v]))


def test_iou_and_r2_of_known_cases() -> None:
    mask, other = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    assert iou_counts(mask, mask) == (2, 2)
    assert iou_counts(mask, other) == (1, 3)
    target = torch.tensor([1.0, 2.0, 3.0, 6.0])
    assert square_sums(target, target, 3.0) == (0, 14)
    error, variance = square_sums(torch.full((4,), 3.0), target, 3.0)
    assert 1 - error / variance == 0  # the mean explains nothing

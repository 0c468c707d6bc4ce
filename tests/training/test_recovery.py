"""A known dictionary is found again. How sae-lens does at the same budget stands in docs/rivals.md."""

from __future__ import annotations

import pytest

from benchmarks.recovery import KnownDictionary, ours

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",
    "ignore:The 'train_dataloader' does not have many workers:UserWarning",
    "ignore:You defined a `validation_step` but have no `val_dataloader`",
)


def test_a_known_dictionary_is_recovered() -> None:
    data = KnownDictionary(d_in=24, num_features=36, num_active=3, batch_size=256, seed=0)
    before = data.recovered(data.dictionary.roll(1, dims=1))
    assert before < 0.7
    assert data.recovered(data.dictionary) == pytest.approx(1)
    assert data.recovered(ours(data, steps=800, seed=0)) > 0.97

"""Meaning and read-out of every site, from one pass over labelled images in each bin of t."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from tide_lightning.benchmark.beyond import beyond_known
from tide_lightning.benchmark.directions import BEYOND_KNOWN
from tide_lightning.benchmark.examples import Examples
from tide_lightning.benchmark.meaning import PREDICTORS, Pooled, joined, measure_meaning
from tide_lightning.benchmark.reading import Reading, read
from tide_lightning.benchmark.readout import ReadOut
from tide_lightning.datamodules.harvest import Harvester
from tide_lightning.datamodules.loader import one_ahead
from tide_lightning.evaluation.figures import mean_over_bins
from tide_lightning.grounds import Split
from tide_lightning.saes import SAE

SPLITS: tuple[Split, Split] = ("train", "test")


def understand(
    harvester: Harvester,
    saes: Mapping[str, SAE],
    examples: Mapping[Split, Examples],
    bins: Sequence[tuple[float, float]],
    seed: int,
    batch_size: int,
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, Any], dict[str, list[Pooled]]]:
    """The entries `meaning` and `readout`, and what each site's SAE says of the training images, by bin of t.

    Of the training images also what the common known part leaves of the activations (`beyond_known`).
    """
    pooled: dict[Split, dict[str, list[Pooled]]] = {split: defaultdict(list) for split in SPLITS}
    rows: dict[str, dict[str, list[Any]]] = {"meaning": defaultdict(list), "readout": defaultdict(list)}
    beyond: dict[str, list[Tensor]] = defaultdict(list)
    readouts = {site: ReadOut(seed) for site in saes}

    def read_bin(bounds: tuple[float, float]) -> dict[Split, dict[str, Reading]]:
        return {
            split: read(harvester, saes, some, bounds, seed, batch_size, progress) for split, some in examples.items()
        }

    for (low, high), readings in zip(bins, one_ahead(map(read_bin, bins), harvester.denoiser.device), strict=True):
        edges = {"low": low, "high": high}
        for site in saes:
            train, test = ((examples[split], readings[split][site]) for split in SPLITS)
            rows["readout"][site].append({**edges, **readouts[site].update(train, test)})
            pairs = (train[0], train[1].pooled), (test[0], test[1].pooled)
            rows["meaning"][site].append({**edges, **measure_meaning(*pairs, 1, seed)})
            for split in SPLITS:
                pooled[split][site].append(readings[split][site].pooled)
            left = beyond_known(readings["train"][site].x, readings["train"][site].input, examples["train"].weights)
            beyond[site].append(left)
    found: dict[str, Any] = {"meaning": {}, "readout": {}}
    for site in saes:
        train_all, test_all = ((examples[split], joined(pooled[split][site])) for split in SPLITS)
        total = measure_meaning(train_all, test_all, len(bins), seed)
        by_bin = rows["meaning"][site]
        if total["mean"]:
            total["mean"]["f1_even"] = {
                name: mean_over_bins([row["mean"].get("f1", {}) for row in by_bin], name) for name in PREDICTORS
            }
        found["meaning"][site] = {**total, "by_timestep": by_bin}
        found["readout"][site] = {**readouts[site].compute(), "by_timestep": rows["readout"][site]}
    for site, bins_pooled in pooled["train"].items():
        pooled["train"][site] = [{**one, BEYOND_KNOWN: b} for one, b in zip(bins_pooled, beyond[site], strict=True)]
    return found, pooled["train"]

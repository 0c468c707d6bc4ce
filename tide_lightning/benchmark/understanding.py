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
from tide_lightning.diffusion import Denoiser, Replicas
from tide_lightning.evaluation.figures import mean_over_bins
from tide_lightning.grounds import Split
from tide_lightning.saes import SAE
from tide_lightning.threads import side_by_side

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
    readings: dict[Split, dict[str, Reading]] = {}  # of the bin at hand
    device = harvester.denoiser.device

    def read_part(denoiser: Denoiser, part: tuple[tuple[float, float], Split]) -> dict[str, Reading]:
        reader = Harvester(denoiser, harvester.sites, None)
        return read(reader, saes, examples[part[1]], part[0], seed, batch_size, progress)

    def measure(site: str) -> dict[str, dict[str, Any]]:
        train, test = ((examples[split], readings[split][site]) for split in SPLITS)
        beyond[site].append(beyond_known(train[1].x, train[1].input, train[0].weights))
        pairs = (train[0], train[1].pooled), (test[0], test[1].pooled)
        return {"readout": readouts[site].update(train, test), "meaning": measure_meaning(*pairs, 1, seed)}

    def measure_all(site: str) -> dict[str, Any]:
        train, test = ((examples[split], joined(pooled[split][site])) for split in SPLITS)
        return measure_meaning(train, test, len(bins), seed)

    parts = [(bounds, split) for bounds in bins for split in SPLITS]
    read_parts = Replicas(harvester.denoiser).map(read_part, parts)
    following = one_ahead(read_parts, device)  # read while the bin at hand is measured
    for low, high in bins:
        readings.update({split: next(following) for split in SPLITS})
        for site, measured in zip(saes, side_by_side(measure, saes, device), strict=True):
            for kind, figures in measured.items():
                rows[kind][site].append({"low": low, "high": high, **figures})
            for split in SPLITS:
                pooled[split][site].append(readings[split][site].pooled)
    found: dict[str, Any] = {"meaning": {}, "readout": {}}
    for site, total in zip(saes, side_by_side(measure_all, saes, device), strict=True):
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

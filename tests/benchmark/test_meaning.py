"""Meaning and read-out where the answer was planted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tide_lightning.benchmark.examples import Examples
from tide_lightning.benchmark.meaning import measure_meaning
from tide_lightning.benchmark.reading import Reading
from tide_lightning.benchmark.readout import ReadOut
from tide_lightning.diffusion import Conditioning
from tide_lightning.grounds import ABSENT, Split
from tide_lightning.grounds.toybox import FACTORS, Toybox
from tide_lightning.saes import SparseCode

NUM_TOKENS, NUM_LATENTS, WIDTH = 16, 200, 6
RED, LEFT, LIT = 3, 7, 19
"""Latents that stand for a red object, an object on the left, and light from the right."""

SCENE = 2
"""The unit that is the whole scene, after its two object slots."""


def normal(*size: int, seed: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def scenes(split: Split, count: int) -> Examples:
    """Labels as they are drawn; who covers which token is made up."""
    labels = Toybox().labelled(split, count, 1).labels
    weights = torch.rand(count, 3, NUM_TOKENS, generator=torch.Generator().manual_seed(count))
    weights[:, :SCENE] *= (labels["shape"][:, :SCENE] != ABSENT).unsqueeze(2)
    depth = normal(count, NUM_TOKENS, seed=1) + torch.arange(NUM_TOKENS) * 5
    return Examples(
        ground=Toybox(),
        split=split,
        latents=torch.zeros(count, 1),
        prompts=[""] * count,
        conditioning=Conditioning(torch.zeros(count, 1, 1)),
        weights=weights,
        labels=labels,
        maps={"depth": depth},
        masks={"mask": normal(count, NUM_TOKENS, seed=2) > 1},
    )


def pooled(drawn: Examples, repeats: int, shrinking: float = 1.0) -> dict[str, Tensor]:
    """Noise, but for the planted latents, a channel that is low for red, and a known part that sees the wall."""
    count, labels = len(drawn), drawn.labels
    parts = []
    for number in range(repeats):
        codes = normal(count, 3, NUM_LATENTS, seed=10 + number).relu()
        red = (labels["colour"][:, :SCENE] == FACTORS["colour"].index("red")).float()
        codes[:, :SCENE, RED] = red
        codes[:, SCENE, LEFT] = (labels["place"][:, SCENE] == FACTORS["place"].index("left")).float()
        codes[:, SCENE, LIT] = labels["light"][:, SCENE] + 0.1 * normal(count, seed=20 + number)
        dense = normal(count, 3, WIDTH, seed=30 + number)
        dense[:, :SCENE, 0] -= 20 * red
        known = torch.zeros(count, 3, WIDTH)
        known[:, SCENE, 0] = (labels["wall"][:, SCENE] == 0).float()
        unit = torch.full((count, 1, 1), shrinking**number)  # each bin's codes are of another size
        parts.append({"codes": codes * unit, "dense": dense, "known": known, "position": drawn.weights, "unit": unit})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@pytest.mark.parametrize("repeats", [1, 2])
def test_planted_latents_are_found_and_floors_know_nothing(repeats: int) -> None:
    train, test = ((drawn, pooled(drawn, repeats)) for drawn in (scenes("train", 300), scenes("test", 150)))
    found = measure_meaning(train, test, repeats, seed=0)
    for name, (low, high) in found["mean"]["f1_interval"].items():
        assert low <= found["mean"]["f1"][name] <= high
    for factor, value, latent in (("colour", "red", RED), ("place", "left", LEFT), ("light", "right", LIT)):
        question = found["values"][factor][value]
        assert question["latent"] == latent
        for name in ("best_latent", "latents_1", "latents_20"):
            assert question["auroc"][name] > 0.999
            assert question["f1"][name] > 0.95
        assert abs(question["auroc"]["random_1"] - 0.5) < 0.15
        assert abs(question["auroc"]["position"] - 0.5) < 0.15
    red, wall = found["values"]["colour"]["red"], found["values"]["wall"]["peach"]
    assert red["auroc"]["best_channel"] > 0.999  # of either sign
    assert red["auroc"]["dense"] > 0.999
    assert red["auroc"]["known"] == pytest.approx(0.5)
    assert wall["auroc"]["known"] > 0.999
    assert wall["auroc"]["best_latent"] < 0.7
    # A latent that falls silent does not stand for a value, but a probe may read it.
    other = found["values"]["light"]["left"]
    assert other["auroc"]["best_latent"] < 0.8
    assert other["auroc"]["latents_1"] > 0.999
    assert red["units"] == repeats * int((test[0].labels["colour"] != ABSENT).sum())
    assert found["mean"]["auroc"]["best_latent"] == pytest.approx(
        sum(found["factors"][factor]["auroc"]["best_latent"] for factor in FACTORS) / len(FACTORS)
    )


def test_amounts_need_one_threshold_where_codes_of_each_time_are_of_another_size() -> None:
    train, test = ((drawn, pooled(drawn, 2, 0.05)) for drawn in (scenes("train", 300), scenes("test", 150)))
    light = measure_meaning(train, test, 2, seed=0)["values"]["light"]["right"]
    assert light["f1"]["best_latent_amount"] > 0.98
    assert light["f1"]["best_latent"] < 0.95
    alike = measure_meaning((train[0], pooled(train[0], 2)), (test[0], pooled(test[0], 2)), 2, seed=0)
    for name in ("auroc", "f1"):
        assert alike["mean"][name]["best_latent_amount"] == alike["mean"][name]["best_latent"]
    share = light["positives"] / light["units"]
    assert light["auroc"]["always_yes"] == 0.5
    assert light["f1"]["always_yes"] == pytest.approx(2 * share / (1 + share))


def reading(drawn: Examples) -> Reading:
    """Latent 2 fires on the mask, latent 5 says how much deeper than usual; channels say nothing."""
    mask = drawn.masks["mask"].flatten()
    num_tokens = len(mask)
    beyond = drawn.maps["depth"].flatten() - torch.arange(NUM_TOKENS).repeat(len(drawn)) * 5
    values = torch.stack([mask.float(), beyond + 10, torch.ones(num_tokens)], 1)
    indices = torch.tensor([2, 5, 0]).expand(num_tokens, -1).clone()
    indices[:, 2] = torch.randint(6, NUM_LATENTS, (num_tokens,), generator=torch.Generator().manual_seed(0))
    x = normal(num_tokens, WIDTH, seed=3)
    half = slice(0, num_tokens // 2), slice(num_tokens // 2, None)
    codes = [SparseCode(values[part], indices[part], NUM_LATENTS) for part in half]
    return Reading({}, codes, x, torch.zeros_like(x))


def test_planted_depth_and_mask_are_read_from_codes_alone() -> None:
    train, test = scenes("train", 60), scenes("test", 30)
    readout = ReadOut(seed=0)
    found = readout.update((train, reading(train)), (test, reading(test)))
    assert found["mask_iou"]["codes"] == 1
    assert found["depth_r2_beyond_position"]["codes"] > 0.95  # usual depths are means of 60 scenes
    for name in ("dense", "known", "position"):
        assert abs(found["depth_r2_beyond_position"][name]) < 0.1
        assert found["mask_iou"][name] < 0.3
    assert found["depth_r2"]["position"] > 0.99
    readout.update((train, reading(train)), (test, reading(test)))  # sums of two equal bins
    for figure, by_reader in readout.compute().items():
        assert by_reader == pytest.approx(found[figure])

"""What is known of the toybox's scenes, and that nothing of the training scenes returns among the others."""

from __future__ import annotations

import pytest
import torch

from tests.untrained import SITE
from tide_lightning.benchmark.examples import Examples, groups, make_examples, questions
from tide_lightning.benchmark.prompts import parse_targets, steering_prompts
from tide_lightning.benchmark.reading import calls, read
from tide_lightning.datamodules.harvest import Harvester
from tide_lightning.diffusion import Denoiser
from tide_lightning.errors import UserError
from tide_lightning.grounds import ABSENT
from tide_lightning.grounds.toybox import FACTORS, Scenes, Toybox, parse
from tide_lightning.saes import TideSAE

SCENE = 2
"""The unit that is the whole scene, after its two object slots."""

FACTORS_OF = Toybox.factors


@pytest.fixture(scope="module")
def train(denoiser: Denoiser) -> Examples:
    return make_examples(Toybox(), denoiser, "train", 40, seed=1)


@pytest.fixture(scope="module")
def test(denoiser: Denoiser, train: Examples) -> Examples:
    return make_examples(Toybox(), denoiser, "test", 40, 1, frozenset(train.prompts))


def test_units_are_means_over_the_objects_tokens_or_all(train: Examples) -> None:
    labels = Scenes("train", 40, 1).labels(torch.arange(40))
    there = torch.stack([labels.num_objects > slot for slot in range(SCENE)], 1)
    assert torch.equal(train.weights[:, :SCENE].sum(2) > 0, there)
    torch.testing.assert_close(train.weights.sum(2)[:, SCENE], torch.ones(40))
    first, mask, depth = train.weights[:, 0] > 0, train.masks["mask"], train.maps["depth"]
    assert (first & mask).sum() > 0.9 * first.sum()
    # Objects stand in front of the room.
    assert depth[mask].mean() < depth[~mask].mean()


def test_every_unit_has_one_value_of_each_factor(train: Examples) -> None:
    labels = Scenes("train", 40, 1).labels(torch.arange(40))
    assert [list(group) for group in groups(FACTORS_OF)] == [
        ["shape", "colour"],
        ["size", "place", "distance"],
        ["wall", "light"],
    ]
    for group in groups(FACTORS_OF):
        units, has = train.units(group, repeats=2)
        asked = questions(group)
        assert has.shape == (len(units), len(asked))
        assert torch.equal(units[len(units) // 2 :], units[: len(units) // 2] + 3 * 40)
        units, has = units[: len(units) // 2], has[: len(has) // 2]
        for factor in group:
            columns = [number for number, (name, _) in enumerate(asked) if name == factor]
            drawn: torch.Tensor = getattr(labels, factor)
            slot = units % 3 if "shape" in group else torch.zeros_like(units)
            expected = drawn[units // 3] if drawn.ndim == 1 else drawn[units // 3, slot]
            assert torch.equal(has[:, columns].int().argmax(1), expected)
            assert has[:, columns].sum(1).eq(1).all()
        if "size" in group:
            assert labels.num_objects[units // 3].eq(1).all()


def test_scenes_prompts_and_noise_do_not_meet(denoiser: Denoiser, train: Examples, test: Examples) -> None:
    assert not set(train.prompts) & set(test.prompts) - {""}
    assert not (train.latents.flatten(1)[:, None] == test.latents.flatten(1)).all(2).any()
    noises = []
    for scenes in (train, test):
        for low in (0.0, 0.5):
            made = calls(denoiser, scenes, low, low + 0.5, 0, 16)
            again = calls(denoiser, scenes, low, low + 0.5, 0, 16)
            assert all(torch.equal(a.x_t, b.x_t) for a, b in zip(made, again, strict=True))
            t = torch.cat([call.t for call in made])
            assert low - 1e-2 < t.min() < t.max() < low + 0.51
            noises += [call.noise.flatten(1) for call in made if call.noise is not None]
    noise = torch.cat(noises)
    assert len(noise.unique(dim=0)) == len(noise)


def test_pooled_codes_are_means_of_the_units_tokens(denoiser: Denoiser, sae: TideSAE, test: Examples) -> None:
    harvester = Harvester(denoiser, denoiser.resolve_sites([SITE]), None)
    reading = read(harvester, {SITE: sae}, test, (0.2, 0.4), 0, batch_size=16)[SITE]
    codes = torch.cat([code.to_dense() for code in reading.codes]).unflatten(0, (40, -1))
    inside = test.weights[3, 0] > 0
    torch.testing.assert_close(reading.pooled["codes"][3, 0], codes[3, inside].mean(0))
    torch.testing.assert_close(reading.pooled["dense"][3, SCENE], reading.x.unflatten(0, (40, -1))[3].mean(0))
    assert torch.equal(reading.pooled["position"], test.weights)


@pytest.mark.parametrize("factor", ["colour", "wall"])
def test_prompts_leave_out_or_contradict_the_factor(denoiser: Denoiser, factor: str) -> None:
    boards = {split: steering_prompts(Toybox(), denoiser, factor, "silent", split, 6, 1) for split in ("train", "test")}
    assert not set(boards["train"].prompts) & set(boards["test"].prompts)
    assert not torch.equal(boards["train"].noise, boards["test"].noise)
    board = boards["test"]
    for number, prompt in enumerate(board.prompts):
        said = parse(prompt)
        assert said.num_factors == len(FACTORS) - 1
        assert factor not in said.objects[0] | said.scene
        for value, changed in zip(FACTORS[factor], board.changed, strict=True):
            now = parse(changed[number])
            assert (now.objects[0] | now.scene).items() - (said.objects[0] | said.scene).items() == {(factor, value)}
    assert board.own.tolist() == [ABSENT] * 6
    assert board.tokens.all() == (factor == "wall")
    assert board.tokens.any(1).all()
    contrary = steering_prompts(Toybox(), denoiser, factor, "contrary", "test", 6, 1)
    for own, prompt in zip(contrary.own.tolist(), contrary.prompts, strict=True):
        said = parse(prompt)
        assert (said.objects[0] | said.scene)[factor] == FACTORS[factor][own]


def test_targets_are_read_or_refused_by_name() -> None:
    assert parse_targets(FACTORS_OF, ["colour:red", "light", "colour:blue", "colour:red"]) == {
        "colour": [0, 4],
        "light": [0, 1],
    }
    with pytest.raises(UserError, match=r"no 'colour:pink'; choose of red"):
        parse_targets(FACTORS_OF, ["colour:pink"])
    with pytest.raises(UserError, match=r"no 'hue'; choose of shape"):
        parse_targets(FACTORS_OF, ["hue"])

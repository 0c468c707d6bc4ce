"""What trains denoiser and judges, on almost nothing: by the clock, so a few seconds are all that it takes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from tests.grounds.photos.conftest import COUNTS
from tide_lightning.errors import UserError
from tide_lightning.grounds.photos import PhotoDiT, read_photographs
from tide_lightning.grounds.photos.classifiers import (
    CLASSIFIERS,
    ClassifierName,
    build_classifier,
    load_classifier,
    save_classifier,
)
from tools.photos.batches import Batches
from tools.photos.measure import denoiser as measure_denoiser
from tools.photos.measure import judges as measure_judges
from tools.photos.pacing import Clock
from tools.photos.train_dit import train_dit
from tools.photos.train_judges import fit_whitening, optimiser, train_judge

SECONDS = 1 / 60  # in minutes


def test_an_epoch_shows_every_image_once_and_every_other_mirrors_it(mosaics: Path) -> None:
    photographs = read_photographs("train", str(mosaics), 60)
    batches = Batches(photographs, 20)
    assert batches.steps_an_epoch == 3
    epochs = [[batches(step) for step in range(3 * epoch, 3 * epoch + 3)] for epoch in range(2)]
    seen = [torch.cat([images for images, _ in epoch]) for epoch in epochs]
    known = photographs.images.float() / 127.5 - 1
    for images in seen:
        match = (images[:, None] == known).flatten(2).all(2)
        mirror = (images.flip(-1)[:, None] == known).flatten(2).all(2)
        assert ((match | mirror).sum(0) == 1).all()
    plain = [(images[:, None] == known).flatten(2).all(2).any(0) for images in seen]
    assert torch.equal(plain[0], ~plain[1])
    assert torch.equal(batches(4)[0], Batches(photographs, 20)(4)[0])


def test_shifted_images_keep_what_is_not_at_their_border(mosaics: Path) -> None:
    photographs = read_photographs("train", str(mosaics), 20)
    still, moved = (Batches(photographs, 20, shift=shift)(0)[0] for shift in (0, 2))
    for image, other in zip(still, moved, strict=True):
        middle = image[:, 4:28, 4:28]
        places = other.unfold(1, 24, 1).unfold(2, 24, 1).permute(1, 2, 0, 3, 4)
        assert (places == middle).flatten(2).all(2).sum() == 1


def test_a_square_of_each_image_is_hidden(mosaics: Path) -> None:
    photographs = read_photographs("train", str(mosaics), 20)
    whole, cut = (Batches(photographs, 20, cutout=cutout)(0)[0] for cutout in (0, 10))
    for image, other in zip(whole, cut, strict=True):
        hidden = (other == 0).all(0)  # no pixel of 8 bits is 0 in [-1, 1]
        assert torch.equal(image[:, ~hidden], other[:, ~hidden])
        rows, columns = hidden.any(1).sum().item(), hidden.any(0).sum().item()
        assert 5 <= rows <= 10
        assert 5 <= columns <= 10
        assert hidden.sum() == rows * columns


def test_a_clock_goes_on_where_it_stopped() -> None:
    clock = Clock(minutes=10, elapsed=450)
    assert 0.75 <= clock.share < 0.76
    assert not clock.every(1)
    assert Clock(minutes=10, elapsed=700).share == 1
    assert Clock(minutes=10, elapsed=700).every(100)  # at the end, always


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_judge_is_trained_and_goes_on(
    name: ClassifierName, mosaics: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(seconds: float) -> dict[str, float]:
        train_judge(name, seconds * SECONDS, str(mosaics), tmp_path, device="cpu", batch_size=8)
        facts: dict[str, float] = json.loads((tmp_path / f"{name}.json").read_text())
        return facts

    first = train(0.5)
    assert first["test_images"] == 10 * COUNTS["test"]
    assert load_classifier(name, tmp_path).body
    second = train(first["minutes"] * 60 + 0.5)
    assert second["steps"] > first["steps"] >= 1
    assert re.search(rf"going on from step {first['steps']},", capsys.readouterr().out)


def test_only_what_learns_is_trained_and_whitening_is_fitted(mosaics: Path) -> None:
    judge = build_classifier("whitened")
    fit_whitening(judge, read_photographs("train", str(mosaics)))
    slow, fast = optimiser(judge, 1e-3).param_groups
    trained = {id(parameter) for group in (slow, fast) for parameter in group["params"]}
    fixed = [name for name, parameter in judge.named_parameters() if id(parameter) not in trained]
    assert [name for name in fixed if name == "body.0.weight"]
    assert all(name.endswith(".weight") for name in fixed)  # of batch norms, besides
    assert {parameter.ndim for parameter in fast["params"]} == {1}
    assert fast["factor"] * fast["weight_decay"] == pytest.approx(slow["weight_decay"])


def test_the_denoiser_is_trained_and_goes_on(
    mosaics: Path, small_dit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(seconds: float) -> dict[str, float]:
        train_dit(
            seconds * SECONDS, str(mosaics), tmp_path, start=str(small_dit), device="cpu", batch_size=4, peak=1e-4
        )
        facts: dict[str, float] = json.loads((tmp_path / "training.json").read_text())
        return facts

    first = train(0.5)
    trained = PhotoDiT(str(tmp_path)).module.state_dict()
    before = PhotoDiT(str(small_dit)).module.state_dict()
    assert set(trained) == set(before)
    second = train(first["minutes"] * 60 + 0.5)
    assert second["steps"] > first["steps"] >= 1
    assert f"going on from step {first['steps']}," in capsys.readouterr().out


def test_denoiser_and_judges_are_measured(mosaics: Path, small_dit: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no samples there; `python -m tools.photos.measure denoiser` makes them"):
        measure_judges(str(mosaics), tmp_path, tmp_path)
    measure_denoiser(
        str(mosaics), str(small_dit), tmp_path, "cpu", num_images=20, samples_a_class=2, num_inference_steps=2
    )
    torch.manual_seed(0)
    for name in CLASSIFIERS:
        save_classifier(build_classifier(name), tmp_path / f"{name}.safetensors")
    measure_judges(str(mosaics), tmp_path, tmp_path, "cpu", num_images=30)

    found = json.loads((tmp_path / "photos-quality.json").read_text())
    assert 0.1 < found["denoiser"]["v_error"] < 10
    assert (found["judges"]["images"], found["samples"]["images"]) == (30, 20)
    for figures in (found["judges"], found["samples"]):
        both = figures["both_right"]
        assert both <= min(figures["whitened"], figures["residual"], figures["agree"])

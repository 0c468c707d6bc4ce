from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.grounds.photos.conftest import images_of
from tide_lightning.errors import UserError
from tide_lightning.grounds.photos import CLASSES, FACTORS, PhotoFeatures, Photographs, PhotoJudge, PhotoValueJudge
from tide_lightning.grounds.photos.classifiers import (
    CLASSIFIERS,
    ClassifierName,
    Whitening,
    accuracy,
    build_classifier,
    guesses,
    load_classifier,
    save_classifier,
)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.cat([images_of("test", number)[:3] for number in range(10)]).float() / 127.5 - 1


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_on_disk_says_the_same(name: ClassifierName, images: torch.Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = build_classifier(name).train()
    classifier(images)  # batch norms learn what is usual
    save_classifier(classifier.eval(), tmp_path / f"{name}.safetensors")
    said, again = (one.probabilities(images) for one in (classifier, load_classifier(name, tmp_path)))
    assert (said - again).abs().max() < 0.03
    assert torch.allclose(said.sum(1), torch.ones(len(images)))
    size = sum(value.numel() for value in classifier.state_dict().values())
    assert (tmp_path / f"{name}.safetensors").stat().st_size < 1.1 * size + 20_000  # a byte a weight


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_mirrored_images_show_the_same(name: ClassifierName, images: torch.Tensor) -> None:
    classifier = build_classifier(name).eval()
    assert torch.allclose(classifier.probabilities(images), classifier.probabilities(images.flip(-1)), atol=1e-5)


def test_whitening_leaves_components_uncorrelated_and_of_variance_one() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200, 3, 12, 12, generator=generator)
    images = torch.nn.functional.avg_pool2d(noise, 2, 1) + 0.3 * noise[:, :1, 1:, 1:]  # correlated in place and colour
    whitening = Whitening()
    whitening.fit(images, floor=0.0)
    found = whitening(images).movedim(1, 0).flatten(1).double()
    half = len(found) // 2
    assert torch.allclose(found[:half], -found[half:])
    assert torch.allclose(torch.cov(found[:half]), torch.eye(half, dtype=torch.float64), atol=1e-3)


def test_a_classifier_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"whitened.safetensors: no such classifier; .* come with the repository"):
        load_classifier("whitened", tmp_path)
    with pytest.raises(ValueError, match="there is no classifier 'best'"):
        build_classifier("best")  # type: ignore[arg-type]


def test_weights_of_another_architecture_are_told(tmp_path: Path) -> None:
    save_classifier(build_classifier("residual"), tmp_path / "whitened.safetensors")
    with pytest.raises(UserError, match=r"whitened.safetensors: not the weights of whitened as it is now: train"):
        load_classifier("whitened", tmp_path)


def test_the_repositorys_judges_know_photographs_and_agree(photographs: Photographs) -> None:
    try:
        both = [load_classifier(name) for name in CLASSIFIERS]
    except UserError as error:
        pytest.skip(str(error))
    whitened, residual = (guesses(one, photographs.images) for one in both)
    right = [said == photographs.classes for said in (whitened, residual)]
    # Of all 10,000 test images it is more: docs/tutorials/photographs.md. 500 have a standard error of .013.
    assert min(float(each.double().mean()) for each in right) > 0.86
    assert float((whitened == residual).double().mean()) > 0.84
    assert accuracy(both[0], photographs) == pytest.approx(float(right[0].double().mean()))


def test_a_judge_reads_every_factor(images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    save_classifier(build_classifier("whitened"), tmp_path / "whitened.safetensors")
    judge = PhotoJudge("whitened", folder=tmp_path)
    read = judge.read(images)
    assert {name: each.shape for name, each in read.items()} == {
        name: (len(images), len(values)) for name, values in FACTORS.items()
    }
    assert all(torch.allclose(each.sum(1), torch.ones(len(images))) for each in read.values())
    vehicles = read["class"][:, [CLASSES.index(name) for name in ("airplane", "automobile", "ship", "truck")]].sum(1)
    assert torch.allclose(read["kind"][:, 1], vehicles)
    assert torch.equal(judge.checks(images)["clear"], read["class"].amax(1) >= 0.5)

    with pytest.raises(UserError, match="photographs know no 'class:unicorn'; choose of class:airplane"):
        PhotoValueJudge("class:unicorn")


def test_features_and_single_values_come_from_the_same_network(images: torch.Tensor) -> None:
    try:
        features, value = PhotoFeatures("residual"), PhotoValueJudge("class:cat", "residual")
    except UserError as error:
        pytest.skip(str(error))
    assert features(images / 2 + 0.5).shape == (len(images), features.num_features)
    assert torch.equal(value(images), PhotoJudge("residual").read(images)["class"][:, CLASSES.index("cat")])

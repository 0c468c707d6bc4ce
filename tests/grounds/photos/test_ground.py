from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tide_lightning.diffusion import describe_denoiser
from tide_lightning.errors import UserError
from tide_lightning.grounds import ABSENT, Ground
from tide_lightning.grounds.photos import CLASSES, PhotoDiT, PhotoGround


@pytest.fixture(scope="module")
def ground(mosaics: Path, small_dit: Path) -> PhotoGround:
    return PhotoGround(str(mosaics), str(small_dit))


def test_it_is_a_ground(ground: PhotoGround) -> None:
    as_ground: Ground = ground
    assert as_ground.denoiser().image_shape == as_ground.image_shape
    assert {factor.read_from for factor in as_ground.factors.values()} == {
        "the whole image",
        "the border",
        "the middle",
    }


def test_labels_stand_at_the_part_that_shows_them(ground: PhotoGround) -> None:
    labelled = ground.labelled("test", 40, seed=1)
    assert labelled.images.shape == (40, 3, 32, 32)
    assert labelled.units is not None
    assert labelled.units.shape == (40, 3, 32, 32)
    whole, border, middle = labelled.units[0].flatten(1).sum(1).tolist()
    assert (whole, border, middle) == (1024, 1024 - 24**2, 16**2)
    assert [CLASSES[number] for number in labelled.labels["class"][:, 0]] == labelled.prompts
    for name, factor in ground.factors.items():
        told = labelled.labels[name] != ABSENT
        assert told.sum(1).eq(1).all(), name
        assert int(labelled.labels[name].max()) < len(factor.values)
    assert (labelled.labels["border_hue"][:, 1] != ABSENT).all()
    assert (labelled.labels["middle_hue"][:, 2] != ABSENT).all()


def test_seeds_and_splits_differ_and_fewer_are_the_first_of_more(ground: PhotoGround) -> None:
    few, more, other = (ground.labelled("test", count, seed).images for count, seed in ((10, 0), (30, 0), (10, 1)))
    assert torch.equal(few, more[:10])
    assert not torch.equal(few, other)
    assert not torch.equal(few, ground.labelled("train", 10, 0).images)
    with pytest.raises(UserError, match="the photographs have 100 images in test, not 101"):
        ground.labelled("test", 101, 0)


def test_cases_ask_for_classes_and_kinds_and_for_nothing_else(ground: PhotoGround) -> None:
    silent = ground.cases("class", "silent", "test", 12, 0)
    assert silent.prompts == [""] * 12
    assert silent.own.eq(ABSENT).all()
    assert silent.changed == [[name] * 12 for name in CLASSES]

    contrary = ground.cases("kind", "contrary", "test", 20, 0)
    assert sorted(contrary.prompts) == sorted([*CLASSES, *CLASSES])
    assert contrary.changed is not None
    vehicles = {"airplane", "automobile", "ship", "truck"}
    assert [prompt in vehicles for prompt in contrary.prompts] == contrary.own.bool().tolist()
    assert set(contrary.changed[1]) == vehicles
    assert not set(contrary.changed[0]) & vehicles
    assert ground.cases("kind", "contrary", "train", 20, 0).prompts != contrary.prompts

    hue = ground.cases("border_hue", "silent", "test", 5, 0)
    assert not hue.changed
    assert set(hue.prompts) <= set(CLASSES)
    assert hue.region is not None
    assert hue.region.flatten(1).sum(1).tolist() == [1024 - 24**2] * 5
    assert ground.cases("edges", "silent", "test", 5, 0).region is None
    with pytest.raises(UserError, match="no prompt mentions the border_hue of a photograph"):
        ground.cases("border_hue", "contrary", "test", 5, 0)
    with pytest.raises(UserError, match="have no factor 'shape'"):
        ground.cases("shape", "silent", "test", 5, 0)


def test_what_a_prompt_mentions(ground: PhotoGround) -> None:
    assert ground.mentioned("cat") == {"class", "kind"}
    assert ground.mentioned("") == frozenset()


def test_the_denoiser_knows_classes_by_name_and_its_own_norms(small_dit: Path) -> None:
    denoiser = PhotoDiT(str(small_dit))
    named = denoiser.encode_prompts(["cat", "3", "", "truck"])
    assert named.extra["class_labels"].tolist() == [3, 3, 10, 9]
    x, t = torch.randn(4, 3, 32, 32), torch.full((4,), 400.0)
    said = denoiser.predict(x, t, named)
    assert said.shape == x.shape
    assert torch.allclose(said[0], denoiser.predict(x[:1], t[:1], denoiser.encode_prompts(["cat"]))[0], atol=1e-5)
    adaln = denoiser.adaln("transformer_blocks.0")
    assert adaln is not None
    assert adaln[1].shape == (64, 32)
    described = describe_denoiser(str(small_dit), family="tide_lightning.grounds.photos.PhotoDiT")
    assert described.latent_shape == denoiser.latent_shape
    with pytest.raises(UserError, match="prompt 'unicorn' is no class"):
        denoiser.encode_prompts(["unicorn"])


def test_a_denoiser_that_is_not_there_or_not_whole(small_dit: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder; the shipped one is package:"):
        PhotoDiT(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"holds no config\.json"):
        PhotoDiT(str(tmp_path))
    (tmp_path / "config.json").write_bytes((small_dit / "config.json").read_bytes())
    with pytest.raises(UserError, match=r"holds no weights: .* come with the repository"):
        PhotoDiT(str(tmp_path))
    (weights,) = small_dit.glob("*.safetensors")
    (tmp_path / weights.name).write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged or incomplete"):
        PhotoDiT(str(tmp_path))


def test_the_repositorys_denoiser_predicts_v(denoiser: PhotoDiT) -> None:
    """What noise is added to a plain image is easily told, where signs and scales are what it learnt."""
    images = torch.full((3, 3, 32, 32), 0.2)
    raw_t = torch.tensor([50.0, 300.0, 600.0])
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    x_t = denoiser.schedule.add_noise(images, noise, raw_t)
    said = denoiser.predict(x_t, raw_t, denoiser.encode_prompts([""] * 3))
    signal = denoiser.scheduler.alphas_cumprod[raw_t.long()].sqrt().view(3, 1, 1, 1)
    target = signal * noise - (1 - signal**2).sqrt() * images
    assert ((said - target).square().mean((1, 2, 3)) < 0.04).all()

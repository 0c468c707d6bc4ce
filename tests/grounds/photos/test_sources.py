from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.grounds.photos.conftest import COUNTS, images_of
from tide_lightning.errors import UserError
from tide_lightning.grounds.photos import CLASSES, FACTORS, Photographs, Photos, find_source, read_photographs

FEW = 4


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A folder a class, of a few images each."""
    for split in COUNTS:
        for number, name in enumerate(CLASSES):
            (tmp_path / split / name).mkdir(parents=True)
            for place, image in enumerate(images_of(split, number)[:FEW]):
                Image.fromarray(np.asarray(image.permute(1, 2, 0))).save(tmp_path / split / name / f"{place}.png")
    return tmp_path


def by_class(photographs: Photographs) -> dict[int, set[bytes]]:
    found: dict[int, set[bytes]] = {}
    for image, number in zip(photographs.images, photographs.classes.tolist(), strict=True):
        found.setdefault(number, set()).add(image.numpy().tobytes())
    return found


def expected(split: str, count: int) -> dict[int, set[bytes]]:
    return {
        number: {image.numpy().tobytes() for image in images_of(split, number)[:count]}
        for number in range(len(CLASSES))
    }


def test_mosaics_hold_a_class_each(mosaics: Path) -> None:
    for split, count in COUNTS.items():
        read = read_photographs("train" if split == "train" else "test", str(mosaics))
        assert by_class(read) == expected(split, count)


def test_a_folder_a_class_and_a_dataset_hold_the_same(folders: Path) -> None:
    pytest.importorskip("datasets")
    in_folders, in_dataset = (read_photographs("test", source) for source in (str(folders), f"hf:{folders}"))
    assert by_class(in_folders) == by_class(in_dataset) == expected("test", FEW)


def test_a_dataset_is_read_no_further_than_asked(folders: Path) -> None:
    pytest.importorskip("datasets")
    assert len(read_photographs("train", f"hf:{folders}", 7).images) == 7


def test_the_first_images_are_of_all_classes_and_stay_the_first(mosaics: Path) -> None:
    few, more = (read_photographs("train", str(mosaics), count) for count in (60, 150))
    assert torch.equal(few.images, more.images[:60])
    assert set(few.classes.tolist()) == set(range(10))


def test_where_photographs_are_found(mosaics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("TIDE_PHOTOS", raising=False)
    with pytest.raises(UserError, match=r"no photographs in \.\./shared/cifar10: name a folder"):
        find_source()
    shutil.copytree(mosaics, tmp_path / "shared" / "cifar10")
    assert Path(find_source()).resolve() == tmp_path / "shared" / "cifar10"
    monkeypatch.setenv("TIDE_PHOTOS", str(mosaics))
    assert find_source() == str(mosaics)
    assert find_source("hf:uoft-cs/cifar10") == "hf:uoft-cs/cifar10"


def test_what_is_wrong_with_a_source_is_told(mosaics: Path, folders: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no photographs in .*train: there should be a mosaic or a folder"):
        read_photographs("train", str(tmp_path / "empty"))
    shutil.rmtree(folders / "test" / "cat")
    with pytest.raises(UserError, match=r"no photographs of cat in .*neither a mosaic cat.jpg nor a folder cat/"):
        read_photographs("test", str(folders))
    Image.new("RGB", (64, 40)).save(folders / "test" / "cat.png")
    with pytest.raises(UserError, match=r"cat.png is 64 x 40: its tiles are 32 x 32"):
        read_photographs("test", str(folders))
    cut = (mosaics / "test" / "cat.png").read_bytes()[:500]
    (folders / "test" / "cat.png").write_bytes(cut)
    with pytest.raises(UserError, match=r"cat.png does not decode"):
        read_photographs("test", str(folders))
    pytest.importorskip("datasets")
    with pytest.raises(UserError, match="has no column of images and one of classes: image"):
        read_photographs("test", f"hf:{folders}")  # an image beside the folders: they are no classes any more
    (folders / "test" / "cat.png").unlink()
    shutil.rmtree(folders / "train" / "cat")
    with pytest.raises(UserError, match=r"has other classes than CIFAR-10's: airplane, .*deer"):
        read_photographs("test", f"hf:{folders}")


def test_photographs_as_a_dataset(mosaics: Path) -> None:
    photos = Photos("test", str(mosaics), 60)
    item = photos[7]
    assert item["image"].shape == (3, 32, 32)
    assert -1 <= item["image"].min() < item["image"].max() <= 1
    assert item["prompt"] == photos.prompts([7])[0] in CLASSES
    assert len(photos) == 60
    shown = photos.factors([7, 8])
    assert all(set(values) == set(FACTORS) for values in shown)
    assert shown[0]["class"] == [item["prompt"]]
    assert {values["kind"][0] for values in photos.factors(range(60))} == {"animal", "vehicle"}
    with pytest.raises(ValueError, match="there is no split 'validation'"):
        Photos("validation", str(mosaics))  # type: ignore[arg-type]

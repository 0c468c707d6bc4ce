from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.datamodules.conftest import MakeData
from tide_lightning.datamodules import HubImages, ImageFolder, Shard
from tide_lightning.errors import UserError

COLOURS = {"a": (255, 0, 0), "b": (0, 255, 0), "sub/c": (0, 0, 255)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for name, colour in COLOURS.items():
        picture = Image.new("RGB", (32, 24), (255, 255, 255))
        picture.paste(colour, (4, 0, 28, 24))  # the central square
        picture.save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"picture {name}\n", encoding="utf-8")
    return tmp_path


def test_a_folder_gives_central_squares_with_their_captions(folder: Path) -> None:
    images = ImageFolder(str(folder), size=16)
    assert len(images) == 3
    for index, (name, colour) in enumerate(COLOURS.items()):
        item = images[index]
        assert item["prompt"] == f"picture {name}"
        expected = (torch.tensor(colour) / 127.5 - 1).view(3, 1, 1).expand(3, 16, 16)
        assert torch.equal(torch.as_tensor(item["image"]), expected)
    assert images.prompts([2, 0]) == ["picture sub/c", "picture a"]


def test_captions_from_a_metadata_file(folder: Path) -> None:
    (folder / "metadata.csv").write_text("file_name,text\na.png,red\nb.png,green\nsub/c.png,blue\n")
    assert ImageFolder(str(folder), 16).prompts([0, 1, 2]) == ["red", "green", "blue"]
    (folder / "metadata.csv").write_text("file_name,text\na.png,red\n")
    with pytest.raises(UserError, match=r"b\.png has no caption: give a row in metadata.csv"):
        ImageFolder(str(folder), 16)
    with pytest.raises(UserError, match=r"metadata.csv has no column 'caption'; it has file_name, text"):
        ImageFolder(str(folder), 16, caption="caption")


def test_captions_that_are_missing_or_not_wanted(folder: Path) -> None:
    (folder / "b.txt").unlink()
    with pytest.raises(UserError, match=r"b\.png has no caption: give b\.txt, or set caption: null"):
        ImageFolder(str(folder), 16)
    assert ImageFolder(str(folder), 16, caption=None).prompts([0, 1]) == ["", ""]
    (folder / "b.txt").write_bytes("Käfer".encode("latin-1"))
    with pytest.raises(UserError, match=r"b\.txt is not UTF-8 \(byte 1\)"):
        ImageFolder(str(folder), 16)


def test_an_image_that_does_not_decode(folder: Path) -> None:
    images = ImageFolder(str(folder), 16)
    whole = (folder / "a.png").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"not an image", b""):
        (folder / "a.png").write_bytes(damaged)
        with pytest.raises(UserError, match=r"a\.png does not decode: .*; remove it or mend it"):
            images[0]


def test_folders_without_images(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no image"):
        ImageFolder(str(tmp_path), 16)
    with pytest.raises(UserError, match="no such folder"):
        ImageFolder(str(tmp_path / "absent"), 16)


def test_activations_of_a_folder(make_data: MakeData, folder: Path) -> None:
    images = ImageFolder(str(folder), 16)
    data = make_data(images=images, prompts=None)
    assert len(next(iter(data.train_loader(Shard())))["transformer_blocks.0"]) == 8 * 4
    assert list(data.corpus.prompts("heldout")) == ["picture sub/c"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # files that datasets leaves open
@pytest.mark.usefixtures("collect_open_files")
def test_images_of_a_hub_dataset(folder: Path) -> None:
    pytest.importorskip("datasets")
    for sidecar in folder.rglob("*.txt"):  # a dataset of texts to datasets
        sidecar.unlink()
    (folder / "metadata.csv").write_text("file_name,text\na.png,red\nb.png,green\nsub/c.png,blue\n")
    images = HubImages(str(folder), 16, max_images=2)
    assert len(images) == 2
    by_caption = {str(images[index]["prompt"]): torch.as_tensor(images[index]["image"]) for index in range(2)}
    assert torch.equal(by_caption["red"], torch.as_tensor(ImageFolder(str(folder), 16)[0]["image"]))
    with pytest.raises(UserError, match="has no column 'caption'"):
        HubImages(str(folder), 16, caption="caption")

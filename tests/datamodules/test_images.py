from __future__ import annotations

from pathlib import Path

import numpy as np
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


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_sixteen_bits_of_grey_are_not_white(tmp_path: Path, kind: str) -> None:
    grey = np.linspace(0, 65535, 16 * 16).reshape(16, 16).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / f"deep.{kind}")
    found = torch.as_tensor(ImageFolder(str(tmp_path), 16, caption=None)[0]["image"])
    expected = torch.from_numpy(grey.astype(np.float32) / 32767.5 - 1)
    torch.testing.assert_close(found, expected.expand(3, 16, 16))
    scaled = torch.as_tensor(ImageFolder(str(tmp_path), 40, caption=None)[0]["image"])
    assert scaled.abs().max() <= 1  # a bicubic filter overshoots


def test_pixels_of_no_known_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 16), 0.5, dtype=np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(UserError, match="floating-point numbers of no known range"):
        ImageFolder(str(tmp_path), 16, caption=None)[0]
    (tmp_path / "float.tiff").unlink()
    Image.fromarray(np.full((16, 16), 10**6, dtype=np.int32)).save(tmp_path / "deep.tiff")
    with pytest.raises(UserError, match="more than 16 bits"):
        ImageFolder(str(tmp_path), 16, caption=None)[0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(tmp_path: Path, orientation: int) -> None:
    """As a camera stores them: turned, with an EXIF tag that says how."""
    upright = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "photo.png", exif=exif)
    found = torch.as_tensor(ImageFolder(str(tmp_path), 16, caption=None)[0]["image"])
    assert torch.equal(found, torch.from_numpy(upright.astype(np.float32) / 127.5 - 1).permute(2, 0, 1))


def test_links_lead_to_each_folder_once(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (folder / "a.png").rename(elsewhere / "a.png")
    (folder / "a.txt").rename(elsewhere / "a.txt")
    (folder / "0-linked").symlink_to(elsewhere)  # before all others in order
    (folder / "1-again").symlink_to(elsewhere)
    (folder / "0-twin").symlink_to(folder / "sub")
    (folder / "sub" / "loop").symlink_to(folder)
    (elsewhere / "back").symlink_to(folder)
    (folder / "self").symlink_to(folder / "self")
    images = ImageFolder(str(folder), 16)
    assert [path.relative_to(folder).as_posix() for path in images._paths] == ["0-linked/a.png", "b.png", "sub/c.png"]
    assert images.prompts([0, 1, 2]) == ["picture a", "picture b", "picture sub/c"]


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

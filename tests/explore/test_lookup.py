"""Lookups in an atlas: by captions, and by a real CLIP of random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizerFast,
)

from tests.explore.synthetic import write_atlas
from tide_lightning.cli import main
from tide_lightning.errors import UserError
from tide_lightning.explore import look_up, look_up_by_centroid
from tide_lightning.explore.atlas.pages import read_thumbnails
from tide_lightning.explore.embedding import ImageText

SIDE = 32


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latent 3 of 8 peaks in red images, latent 5 in red cubes, the others anywhere."""
    captions = [f"a {colour} {shape}" for colour in ("red", "blue") for shape in ("cube", "ball")] * 10
    peaks = torch.rand(8, len(captions), generator=torch.Generator().manual_seed(0))
    red = torch.tensor(["red" in caption for caption in captions])
    cube = torch.tensor(["cube" in caption for caption in captions])
    peaks[3], peaks[5] = red + 0.1 * peaks[3], (red & cube) + 0.1 * peaks[5]
    pictures = [Image.new("RGB", (SIDE, SIDE), (220, 30, 20) if is_red else (10, 20, 200)) for is_red in red.tolist()]
    return write_atlas(tmp_path_factory.mktemp("atlas"), captions, peaks, pictures).parent


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    text = {"vocab_size": 99, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "max_position_embeddings": 12, "bos_token_id": 0, "eos_token_id": 1}
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": SIDE, "patch_size": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    model.save_pretrained(folder)
    letters = [chr(code) for code in range(97, 123)]
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizerFast.from_pretrained(folder, model_max_length=12)
    size = {"height": SIDE, "width": SIDE}
    CLIPProcessor(CLIPImageProcessor(size=size, crop_size=size), tokenizer).save_pretrained(folder)
    return folder


def test_captions_find_the_latents_that_go_with_words(atlas: Path) -> None:
    found = look_up(atlas, "red")
    assert (found[0].latent, found[0].score, found[0].samples) == (3, 1, (20, 20))
    assert look_up(atlas, "red cube")[0].latent == 5
    assert look_up(atlas, "cube", "ball", top=1)[0].latent == 5
    # Among cubes, both tell the red ones.
    assert {one.latent for one in look_up(atlas, "red cube", "blue cube", top=2)} == {3, 5}


def test_a_lookup_says_what_is_missing(atlas: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="0 captions say 'purple'"):
        look_up(atlas, "purple")
    with pytest.raises(UserError, match="this atlas has block"):
        look_up(atlas, "red", sites=["elsewhere"])
    with pytest.raises(UserError, match="not a table of an atlas"):
        look_up(tmp_path, "red")


def test_centroids_follow_the_model(atlas: Path, clip: Path) -> None:
    """Asked for an image's own direction in place of a text, the latent of those images comes first."""
    model = ImageText(str(clip))
    pictures = read_thumbnails(atlas)
    images = model.images(pictures)
    torch.testing.assert_close(images.norm(dim=1), torch.ones(len(images)))
    assert model.texts(["red ball", "x" * 1000]).shape == (2, 8)
    found = look_up_by_centroid(atlas, "red", str(clip), top=8)
    text = model.texts(["red"])[0]
    beyond = images - images.mean(0)
    red = beyond[[number for number, one in enumerate(pictures) if one.getpixel((5, 5))[0] > 100]].mean(0)
    expected = torch.cosine_similarity(red, text, dim=0)
    scores = {one.latent: one.score for one in found}
    assert scores[3] == pytest.approx(float(expected), abs=1e-4)
    against = look_up_by_centroid(atlas, "red", str(clip), against="red", top=1)
    assert against[0].score == 0


def test_what_is_no_image_text_model_is_said(atlas: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no image-text model"):
        look_up_by_centroid(atlas, "red", str(tmp_path))


def test_the_command_looks_up(atlas: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["find", str(atlas), "red", "--top", "1"]) == 0
    assert "#block/3" in capsys.readouterr().out
    assert main(["find", str(atlas), "red", "--top", "1", "--clip", str(clip)]) == 0
    assert "cosine" in capsys.readouterr().out
    assert main(["find", str(atlas), "a", "--against", "b", "--by", "prompts"]) == 2
    assert "give a run folder" in capsys.readouterr().err

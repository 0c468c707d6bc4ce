"""Fréchet distances of sets whose distance is known, and CLIP scores by hand, with a CLIP in miniature."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tide_lightning.errors import UserError
from tide_lightning.evaluation import Inception
from tide_lightning.evaluation.image_quality import NO_CLIP, NO_FEATURES, ImageQuality, load_clip

CPU = torch.device("cpu")


class Corners(nn.Module):
    """The first numbers of an image, stretched so that features reach beyond [0, 1]."""

    num_features = 4

    def forward(self, images: Tensor) -> Tensor:
        return 100 * images.flatten(1)[:, :4]


def images(count: int, mean: float, scale: float, seed: int) -> Tensor:
    """Normal in the features of `Corners` (but for what images cannot show)."""
    values = torch.randn(count, 3, 2, 2, generator=torch.Generator().manual_seed(seed)) * scale + mean
    return (values / 100 + 0.5) * 2 - 1


def test_frechet_distances_of_normal_sets() -> None:
    quality = ImageQuality(["original", "same", "moved", "wider"], Corners(), None, CPU)
    number = 20_000
    quality.update_real(images(number, 0, 1, seed=0))
    quality.update("original", images(number, 0, 1, seed=1), [""] * number)
    quality.update("same", images(number, 0, 1, seed=1), [""] * number)
    quality.update("moved", images(number, 3, 1, seed=2), [""] * number)
    quality.update("wider", images(number, 0, 4, seed=3), [""] * number)
    found = quality.compute(number, number)
    assert found["original"] == {"frechet": pytest.approx(0, abs=0.01)}
    assert found["same"]["frechet_to_original"] == pytest.approx(0, abs=1e-6)
    assert found["moved"]["frechet"] == pytest.approx(4 * 3**2, rel=0.03)  # |difference of means|^2
    assert found["wider"]["frechet_to_original"] == pytest.approx(4 * (4 - 1) ** 2, rel=0.03)  # of deviations
    assert quality.absent() == {"clip_score": NO_CLIP}


def test_what_is_not_at_hand_is_absent_with_a_reason() -> None:
    quality = ImageQuality(["original", "all"], None, None, CPU)
    for case in ("original", "all"):
        quality.update(case, images(2, 0, 1, seed=0), ["", ""])
    assert quality.compute(2, 0) == {}
    assert quality.absent() == {"frechet": NO_FEATURES, "clip_score": NO_CLIP}
    alone = ImageQuality(["original", "all"], Corners(), None, CPU)
    for case in ("original", "all"):
        alone.update(case, images(1, 0, 1, seed=0), [""])
    assert alone.compute(1, 0) == {}  # a distance takes two images


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of random weights."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16).save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(words), "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1}
    config = CLIPConfig(text_config=text, vision_config={**sizes, "image_size": 16, "patch_size": 8}, projection_dim=8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def test_clip_scores_are_cosines_of_embeddings(clip: Path) -> None:
    pictures = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    prompts = ["a red ball", "blue", "a cone", "green cube"]
    quality = ImageQuality(["original", "all"], None, str(clip), CPU)
    for rows in (slice(0, 3), slice(3, 4)):
        quality.update("original", pictures[rows], prompts[rows])
        quality.update("all", pictures[rows].flip(0), prompts[rows])
    found = quality.compute(4, 0)
    model, processor = load_clip(str(clip))
    with torch.no_grad():
        bytes_ = [(picture * 127.5 + 127.5).round().byte() for picture in pictures]
        seen = model.get_image_features(processor(images=bytes_, return_tensors="pt")["pixel_values"])
        read = model.get_text_features(**processor(text=prompts, return_tensors="pt", padding=True))
    expected = 100 * torch.nn.functional.cosine_similarity(seen, read).mean()
    assert found["original"]["clip_score"] == pytest.approx(max(0.0, float(expected)), abs=1e-3)
    assert set(found["all"]) == {"clip_score"}
    assert quality.absent() == {"frechet": NO_FEATURES}


def test_what_cannot_be_loaded_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"evaluation\.clip .*nowhere: no CLIP can be loaded"):
        load_clip(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"evaluation\.features Inception: "):
        Inception(str(tmp_path / "nowhere.pth"))

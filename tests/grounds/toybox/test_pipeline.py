"""The shipped pipeline and oracles, as a user meets them."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from diffusers import PixArtAlphaPipeline
from torch import Tensor

from tide_lightning.grounds.toybox import FACTORS, load_oracle, parse, pipeline_path, prompts, render
from tide_lightning.grounds.toybox.oracle import OracleName
from tide_lightning.grounds.toybox.world import draw_scenes
from tools.toybox.evaluate import evaluate, marginals, pair_agreement, prompt_agreement, sample
from tools.toybox.oracle_training import by_place

MIB = 2**20

# diffusers' scheduler with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def pipeline() -> PixArtAlphaPipeline:
    pipe = PixArtAlphaPipeline.from_pretrained(pipeline_path())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_it_is_small_and_needs_no_code_of_ours() -> None:
    files = [path for path in pipeline_path().rglob("*") if path.is_file()]
    sizes = {str(path): path.stat().st_size for path in files}
    assert sum(sizes.values()) < 20 * MIB
    assert max(sizes.values()) < 16 * MIB
    assert not [name for name in sizes if name.endswith((".bin", ".pt", ".pth", ".py"))]
    index = json.loads((pipeline_path() / "model_index.json").read_text())
    assert index["_class_name"] == "PixArtAlphaPipeline"
    assert {part[0] for part in index.values() if isinstance(part, list)} == {"diffusers", "transformers"}


def test_it_is_pixart_in_miniature(pipeline: PixArtAlphaPipeline) -> None:
    config = pipeline.transformer.config
    assert config.num_attention_heads * config.attention_head_dim == 128
    assert config.num_layers == 8
    assert config.out_channels == 2 * config.in_channels
    assert (config.sample_size // config.patch_size) ** 2 == 64
    assert config.norm_type == "ada_norm_single"
    assert pipeline.scheduler.config.prediction_type == "epsilon"
    assert pipeline.transformer.dtype == pipeline.vae.dtype == pipeline.text_encoder.dtype == torch.float32
    assert pipeline.vae_scale_factor == 4


def test_the_autoencoder_keeps_renders(pipeline: PixArtAlphaPipeline) -> None:
    image = render(torch.arange(24), split="test").image
    with torch.no_grad():
        latents = pipeline.vae.encode(image).latent_dist.mode()
        again = pipeline.vae.decode(latents).sample
    assert latents.shape == (24, 4, 16, 16)
    assert float((latents * pipeline.vae.config.scaling_factor).std()) == pytest.approx(1, abs=0.1)
    assert float(-10 * torch.log10((again - image).square().mean() / 4)) > 32


def test_unknown_words_and_long_prompts_are_accepted(pipeline: PixArtAlphaPipeline) -> None:
    text = ["a frosty cube beside the lake", "a red cube " * 60, ""]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = sample_few(pipeline, text)
    assert image.shape == (3, 3, 64, 64)
    assert image.isfinite().all()


def sample_few(pipeline: PixArtAlphaPipeline, texts: list[str]) -> Tensor:
    images: Tensor = pipeline(
        prompt=texts,
        num_inference_steps=2,
        use_resolution_binning=False,
        clean_caption=False,
        output_type="pt",
    ).images
    return images


@pytest.mark.parametrize("name", ["a", "b"])
def test_oracles_read_unseen_renders(name: OracleName) -> None:
    oracle = load_oracle(name)
    index = torch.arange(300)
    labels, _ = draw_scenes("test", index)
    image = render(index, split="test").image
    single = labels.num_objects == 1
    read = oracle.read(image[single])
    assert list(read) == list(FACTORS)
    for factor, probability in read.items():
        assert probability.shape == (int(single.sum()), len(FACTORS[factor]))
        torch.testing.assert_close(probability.sum(1), torch.ones(len(probability)))
        truth = getattr(labels, factor)[single]
        truth = truth[:, 0] if truth.ndim == 2 else truth
        assert float((probability.argmax(1) == truth).float().mean()) > 0.95, factor
    assert float((oracle.count(image) == labels.num_objects).float().mean()) > 0.97
    places = by_place(labels)
    for objects, shapes in zip(oracle.objects(image)[:20], places.shape.tolist(), strict=False):
        assert [o["place"] for o in objects] == [
            place for place, shape in zip(FACTORS["place"], shapes, strict=True) if shape >= 0
        ]


def test_there_is_no_third_oracle() -> None:
    with pytest.raises(ValueError, match="take 'a'"):
        load_oracle("c")  # type: ignore[arg-type]


def test_samples_follow_their_prompts(pipeline: PixArtAlphaPipeline) -> None:
    """A handful at the default steps: the evaluation does this with 512."""
    texts = ["a large red ring in the centre, in front of a sky wall", "a large yellow cylinder on the left"] * 2
    image = sample(pipeline, texts)
    report = prompt_agreement(load_oracle("a").read(image), [parse(text) for text in texts])
    assert report["colour"] >= 0.75
    assert report["shape"] >= 0.75


def test_scores_of_perfect_and_wrong_readings() -> None:
    said = [parse("a red cube and a small blue ring on the left"), parse("a red cube and a blue ring")]
    right = [
        {"shape": "ring", "colour": "blue", "size": "small", "place": "left"},
        {"shape": "cube", "colour": "red", "size": "large", "place": "right"},
    ]
    assert pair_agreement([right, right], said)["everything_right"] == 1
    half = pair_agreement([right, right[:1]], said)
    assert half["everything_right"] == half["shows_two_objects"] == 0.5
    assert half["mentioned_object_factors"] == 0.8
    assert pair_agreement([[], []], said)["mentioned_object_factors"] == 0


def test_marginals_are_relative_to_uniform() -> None:
    image = render(torch.arange(60), split="test").image
    report = marginals(load_oracle("a"), image)
    assert sum(report["shape"].values()) == pytest.approx(len(FACTORS["shape"]), abs=0.02)
    assert report["objects_per_image"] > 1


def test_the_evaluation_writes_its_report(tmp_path: Path) -> None:
    evaluate(out=tmp_path, num_scenes=20, num_prompts=4, num_pairs=2, num_unprompted=2, threads=torch.get_num_threads())
    report = json.loads((tmp_path / "evaluation.json").read_text())
    assert report["oracle_a_on_renders"]["two_object_scenes"] > 0
    assert {"prompts_by_oracle_b", "unprompted_by_oracle_a", "sampling_16_images"} <= report.keys()
    assert (tmp_path / "samples.png").stat().st_size > 1000
    assert len((tmp_path / "samples.txt").read_text().splitlines()) == 4
    assert prompts(1) == prompts(2)[:1]

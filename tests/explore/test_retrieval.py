from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.explore.conftest import D_SAE, SITES
from tide_lightning.cli import main
from tide_lightning.errors import UserError
from tide_lightning.explore import Run, find_by_prompts, find_by_text
from tide_lightning.explore.contrast import Case, differences, effects, moments_of
from tide_lightning.explore.phrases import alternatives, as_text, replaced, says, words
from tide_lightning.explore.retrieval import find_by_images, pose
from tide_lightning.grounds.toybox import prompts
from tide_lightning.intervene.splicing import site_context
from tide_lightning.saes import TideSAE

CAPTIONS = [words(prompt) for prompt in prompts(400)]


def test_captions_alone_tell_what_stands_in_a_words_place() -> None:
    colours = {("yellow",), ("green",), ("cyan",), ("blue",), ("purple",), ("white",), ("black",)}
    assert set(alternatives(words("red"), CAPTIONS, most=7)) == colours
    assert alternatives(words("small"), CAPTIONS) == [("large",)]
    places = {("on", "the", "right"), ("in", "the", "centre")}
    assert set(alternatives(words("on the left"), CAPTIONS)) == places
    assert alternatives(words("nowhere"), CAPTIONS) == []


def test_phrases_are_whole_words() -> None:
    caption = words("A red, redder cube")
    assert says(caption, words("red"))
    assert not says(caption, words("red redder"))
    assert replaced(caption, words("red"), words("dark blue")) == "a dark blue, redder cube"
    assert as_text(words("a cube, in front of a wall")) == "a cube, in front of a wall"
    assert len(words("x" * 10_000)) == 1


def test_a_question_changes_nothing_but_the_words_asked_for() -> None:
    question = pose("red", None, CAPTIONS, 6)
    assert len(question.prompts) == 6
    for instead, rivals in zip(question.instead, question.rivals, strict=True):
        for prompt, rival in zip(question.prompts, rivals, strict=True):
            assert prompt.replace("red", instead, 1) == rival


def test_a_question_may_name_its_rival_and_ask_for_what_no_caption_says() -> None:
    assert pose("red cube", "cube", CAPTIONS, 3).rivals[0][0].count("red") == 0
    painted = pose("watercolour painting", None, CAPTIONS, 3)
    assert [prompt.removesuffix(", watercolour painting") for prompt in painted.prompts] == painted.rivals[0]
    with pytest.raises(UserError, match="holds no word"):
        pose("  ", None, CAPTIONS, 3)


def test_latents_are_found_by_text_and_by_prompts(run: Run) -> None:
    found = find_by_text(run, "red", num_prompts=2, num_inference_steps=3, num_candidates=2)
    assert 0 < len(found) <= 4
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    for one in found:
        assert one.site in SITES
        assert 0 <= one.latent < D_SAE
        assert one.contrast > 0
        assert one.effect is not None
        assert -1 <= one.effect <= 1
        assert one.level > 0
        assert len(one.places) == 64
        assert max(one.places) == 1
    here = find_by_prompts(
        run, "a red cube", "a blue cube", sites=SITES[:1], num_samples=2, num_inference_steps=3, top=1
    )
    assert [one.site for one in here] == SITES[:1]
    with pytest.raises(UserError, match="none of 3 steps"):
        find_by_text(run, "red", window=(0.0, 0.01), num_inference_steps=3, num_prompts=2)


def test_a_latent_that_makes_the_difference_is_found_and_has_its_effect(run: Run) -> None:
    """Decoder rows are moved onto the very difference that the words make: that latent must win."""
    sae = run.sae(SITES[0])
    moments = moments_of(run.denoiser, ["a red cube"] * 2, (0.3, 1.0), 3, 4.5, 0)
    case, rival = Case(["a red cube"] * 2, moments), Case(["a blue cube"] * 2, moments)
    values = []
    for prompts_here in (case.prompts, rival.prompts):
        with run.denoiser.record(run.denoiser.resolve_sites(SITES[:1]), stop_early=True) as read, torch.no_grad():
            run.denoiser.predict(*moments[0].asked(run.denoiser.encode_prompts(prompts_here)))
        values.append(read[SITES[0]].float().flatten(0, 1))
    direction = torch.nn.functional.normalize((values[0] - values[1]).mean(0), dim=0)
    kept = sae.W_dec[5].clone(), sae.W_enc[5].clone(), sae.b_enc[5].clone()
    try:
        sae.W_dec[5], sae.W_enc[5] = direction, 50 * direction
        sae.b_enc[5] = -50 * (values[1] @ direction).mean()
        found = differences(run.denoiser, {SITES[0]: sae}, case, [rival])[SITES[0]]
        strongest = found.contrast.topk(3).indices.tolist()
        assert strongest[0] == 5
        measured = effects(run.denoiser, {SITES[0]: sae}, {SITES[0]: strongest}, case, rival)
        assert measured[SITES[0], 5] == max(measured.values()) > 0.2
    finally:
        sae.W_dec[5], sae.W_enc[5], sae.b_enc[5] = kept


@torch.no_grad()
def test_a_level_is_in_the_unit_of_amounts(run: Run) -> None:
    sae = TideSAE(run.sae(SITES[0]).shape, expansion_factor=2, k=8, scale_by_timestep=True).eval()
    sae.known.scale.copy_(torch.linspace(5.0, 1.0, sae.num_bins))
    moments = moments_of(run.denoiser, ["a red cube"] * 2, (0.3, 1.0), 3, 4.5, 0)
    case = Case(["a red cube"] * 2, moments)
    found = differences(run.denoiser, {SITES[0]: sae}, case, [case])[SITES[0]]
    conditioning = run.denoiser.encode_prompts(case.prompts)
    codes = []
    for moment in moments:
        with run.denoiser.record(run.denoiser.resolve_sites(SITES[:1])) as read:
            run.denoiser.predict(*moment.asked(conditioning))
        tokens = site_context(run.denoiser, sae.shape, *moment.asked(conditioning))
        code = sae.encode(read[SITES[0]].float().flatten(0, 1), tokens.context)
        codes.append(code.to_dense() / sae.unit_at(tokens.t))
    values = torch.cat(codes)
    torch.testing.assert_close(found.level, values.sum(0) / (values > 0).sum(0).clamp(min=1))


def test_two_images_are_told_apart_by_latents_of_what_differs(run: Run) -> None:
    """The same image differs from itself in nothing; the code of one alone decides who wins."""
    black, white = torch.full((3, 64, 64), -1.0), torch.full((3, 64, 64), 1.0)
    assert find_by_images(run, black, black, times=[0.2]) == []
    found = find_by_images(run, white, black, times=[0.2], sites=SITES[:1], top=3)
    back = find_by_images(run, black, white, times=[0.2], sites=SITES[:1], top=D_SAE)
    assert len(found) == 3
    assert found[0].contrast >= found[1].contrast > 0
    assert found[0].effect is None
    assert not {one.latent for one in found} & {one.latent for one in back}


def test_the_command_lists_what_it_finds(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = [str(run_folder), "--device", "cpu", "--sites", f'["{SITES[0]}"]', "--top", "2"]
    for name, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
        Image.new("RGB", (80, 70), colour).save(tmp_path / f"{name}.png")
    images = [str(tmp_path / "red.png"), "--against", str(tmp_path / "blue.png"), "--by", "images"]
    assert main(["find", where[0], *images, *where[1:]]) == 0
    assert SITES[0] in capsys.readouterr().out
    for args, complaint in (
        (["a red cube", "--by", "prompts"], "give --against"),
        (["red", "--clip", "some/clip"], "give an atlas's folder"),
        ([images[0], "--by", "images", "--against", str(run_folder / "config.yaml")], "not an image"),
    ):
        assert main(["find", where[0], *args, *where[1:]]) == 2
        assert complaint in capsys.readouterr().err

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.explore.conftest import D_SAE, SITES
from tide_lightning.cli import main
from tide_lightning.diffusion import Conditioning, Denoiser, Site, sample
from tide_lightning.diffusion.counters import normals
from tide_lightning.errors import UserError
from tide_lightning.explore import Run, find_by_images, find_by_lists, find_by_prompts, find_by_words
from tide_lightning.explore.find_command import steering
from tide_lightning.explore.finder import PUSH, rank
from tide_lightning.explore.phrases import alternatives, as_text, replaced, says, words
from tide_lightning.explore.question import pose, telling, unsaid
from tide_lightning.grounds.toybox import prompts
from tide_lightning.intervene import Region, steer
from tide_lightning.intervene.recording import Forward, Seen, recorded

PROMPTS = prompts(400)
CAPTIONS = [words(prompt) for prompt in PROMPTS]


def test_examples_say_much_and_differ() -> None:
    captions = ["a cube", "a red cube", "", "a red cube on the left", "a blue ring on the right", "a blue cube"]
    assert telling(captions, ["red", "left", "blue"], 2) == ["a blue cube", "a red cube on the left"]
    assert telling(captions, [], 1) == ["a red cube on the left"]
    assert telling([""], ["red"], 3) == telling([], [], 3) == []


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
    question = pose("red", None, PROMPTS, 6)
    assert len(question.prompts) == 6
    assert len(question.instead) == 3
    for number, (prompt, other) in enumerate(zip(question.prompts, question.others, strict=True)):
        assert prompt.replace("red", question.instead[number % 3], 1) == other


def test_a_question_may_name_its_rival_and_ask_for_what_no_caption_says() -> None:
    assert pose("red cube", "cube", PROMPTS, 3).others[0].count("red") == 0
    painted = pose("watercolour painting", None, PROMPTS, 3)
    assert [prompt.removesuffix(", watercolour painting") for prompt in painted.prompts] == painted.others
    with pytest.raises(UserError, match="holds no word"):
        pose("  ", None, PROMPTS, 3)


def seen(*peaks: list[float]) -> Seen:
    """Of one step; a latent's mean is half its peak."""
    peak = torch.tensor(peaks).unsqueeze(1)
    return Seen(torch.zeros(0), torch.ones(1), {SITES[0]: peak / 2}, {SITES[0]: peak})


def test_the_rank_is_of_latents_that_tell_surely_and_rise_far(run: Run) -> None:
    """Latents: always and far, always and little, seldom and far, never more, more without."""
    sae = run.sae(SITES[0])
    blank = [0.0] * (sae.d_sae - 5)
    wanted = seen([9, 1, 9, 4, 0, *blank], [8, 1, 0, 4, 0, *blank], [9, 2, 0, 4, 1, *blank], [8, 2, 0, 4, 0, *blank])
    unwanted = seen([0, 0, 0, 4, 5, *blank], [1, 0, 0, 4, 5, *blank], [0, 0, 0, 4, 5, *blank], [0, 0, 1, 4, 5, *blank])
    found = rank({SITES[0]: sae}, wanted, unwanted, top=5)
    assert [one.latent for one in found] == [0, 1, 2]
    assert [one.tells for one in found] == pytest.approx([1, 1, 17 / 32])
    assert found[0].rise == pytest.approx(8.5 - 0.25)
    assert found[0].level == pytest.approx(8.5)
    assert found[0].share == pytest.approx(8.5 / 8.75)
    edit = found[0].edit()
    assert (edit.site, edit.latent, edit.operation, edit.half, edit.region) == (SITES[0], 0, "add", "conditional", None)
    assert edit.amount == found[0].amount > 0


def test_latents_are_found_by_words_and_by_prompts(run: Run) -> None:
    found = find_by_words(run, "red", num_prompts=2, num_inference_steps=2, top=4)
    assert len(found) == 4
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    for one in found:
        assert one.site in SITES
        assert 0 <= one.latent < D_SAE
        assert 0.5 < one.tells <= 1
        assert 0 < one.rise <= one.level
        assert one.home is None or one.home.shape == (run.denoiser.num_tokens,)
    here = find_by_prompts(
        run, "a red cube", "a blue cube", sites=SITES[:1], num_samples=2, num_inference_steps=2, top=1
    )
    assert [one.site for one in here] == SITES[:1]


def acting_by(denoiser: Denoiser, prompt: str, vector_TD: Tensor) -> Denoiser:
    """The denoiser, but that a prompt adds a vector to each of the first site's tokens."""
    said = denoiser.encode_prompts([prompt]).tokens

    def around(x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> AbstractContextManager[None]:
        says = (conditioning.tokens == said).flatten(1).all(1)[:, None, None]
        return denoiser.splice({Site.parse(SITES[0]): lambda x_NTD: x_NTD + says * vector_TD})

    return denoiser.within(around)


def test_a_planted_latent_wins_and_steers_as_the_words_do(run: Run) -> None:
    """One prompt acts by a vector in the left half, along which tokens hardly vary; one latent reads and writes it."""
    sae = copy.deepcopy(run.sae(SITES[0]))
    noise = normals(3, "planted", numbers=range(4), shape=run.denoiser.latent_shape)
    forwards: list[Forward] = []
    settings: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 4.5}
    sample(recorded(run.denoiser, run.saes, forwards.append), ["a cube"] * 4, initial_noise=noise, **settings)
    x = torch.cat([one.tokens[SITES[0]].x for one in forwards])
    vector = torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[-1]
    sae.known.scale.fill_(1 / (PUSH * sae.d_in**0.5))  # so that the vector is as long as a found latent's push
    sae.W_dec[5], sae.W_enc[5] = vector, 10 * vector
    sae.b_enc[5] = -10 * (x.mean(0) @ vector) / sae.known.scale[0]
    left = Region(0, 0, 0.5, 1).tokens(run.denoiser.grid)
    denoiser = acting_by(run.denoiser, "a red cube", left[:, None] * vector)
    prompts = ["a red cube"] * 4, ["a cube"] * 4
    found = find_by_lists(denoiser, {SITES[0]: sae}, *prompts, noise, top=3, **settings)[0]
    assert (found.latent, found.tells) == (5, 1.0)
    assert found.home is not None
    assert not found.home[~left].any()
    assert found.home[left].float().mean() > 0.7
    with steer(denoiser, {SITES[0]: sae}, [found.edit()]) as steered:
        made = sample(steered, prompts[1], initial_noise=noise, **settings)
    plain, wanted = (sample(denoiser, some, initial_noise=noise, **settings) for some in prompts[::-1])
    assert (made - wanted).square().sum() < 0.9 * (plain - wanted).square().sum()


def test_two_images_are_told_apart_by_latents_of_what_differs(run: Run) -> None:
    """The same image differs from itself in nothing; what fires more for one does not for the other."""
    settings: dict[str, Any] = {"num_samples": 2, "num_inference_steps": 2}
    black, white = torch.full((3, 64, 64), -1.0), torch.full((3, 64, 64), 1.0)
    assert find_by_images(run, black, black, **settings) == []
    found = find_by_images(run, white, black, sites=SITES[:1], top=3, **settings)
    back = find_by_images(run, black, white, sites=SITES[:1], top=D_SAE, **settings)
    assert len(found) == 3
    assert found[0].score >= found[1].score > 0
    assert not {one.latent for one in found} & {one.latent for one in back}


def test_a_query_that_no_caption_says_may_be_misspelt() -> None:
    captions = ["a purple cube on the left", "a red ring"]
    assert unsaid("a red ring", captions) == unsaid("Purple cube", captions) == ""
    assert unsaid("purpel", captions) == "no caption of this run says 'purpel'; did you mean purple?"
    assert unsaid("red cube", captions) == "no caption of this run says 'red cube'."


def test_the_next_command_asks_the_same() -> None:
    assert steering("runs/a b", "a ring", "red", None) == "tide steer 'runs/a b' --prompt 'a ring' --find red"
    assert steering("mine", "a", "red cube", "cube").endswith(" --find 'red cube' --against cube")


def test_the_command_lists_what_it_finds(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = [str(run_folder), "--device", "cpu", "--sites", SITES[0], "--top", "2"]
    for name, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
        Image.new("RGB", (80, 70), colour).save(tmp_path / f"{name}.png")
    images = [str(tmp_path / "red.png"), "--against", str(tmp_path / "blue.png"), "--by", "images"]
    assert main(["find", where[0], *images, *where[1:]]) == 0
    assert SITES[0] in capsys.readouterr().out
    for args, complaint in (
        (["a red cube", "--by", "prompts"], "give --against"),
        ([" "], "the query is empty"),
        (["red", "--clip", "some/clip"], "give an atlas's folder"),
        ([images[0], "--by", "images", "--against", str(run_folder / "config.yaml")], "cannot be read as a picture"),
        (["no.png", "--by", "images", "--against", images[0]], "error: no.png: No such file"),
    ):
        assert main(["find", where[0], *args, *where[1:]]) == 2
        assert complaint in capsys.readouterr().err

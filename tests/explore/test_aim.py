"""Where a latent is steered, and in what measure."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.explore.conftest import D_SAE, SITES
from tide_lightning.diffusion.counters import normals
from tide_lightning.explore import Run
from tide_lightning.explore.aim import aim_at
from tide_lightning.explore.finder import PUSH, Found, rise_by_word
from tide_lightning.explore.unit import unit_of
from tide_lightning.intervene.amounts import full_amounts
from tide_lightning.intervene.recording import Seen, walk_prompts, watch

SITE = SITES[1]
PROMPT = "a large cube in the centre"


@pytest.fixture(scope="module")
def settings(run: Run) -> dict[str, Any]:
    noise = normals(0, "sample", numbers=[0], shape=run.denoiser.latent_shape)
    return {"initial_noise": noise, "num_inference_steps": 2, "guidance_scale": 4.5}


@pytest.fixture(scope="module")
def seen(run: Run, settings: dict[str, Any]) -> Seen:
    return watch(run.denoiser, {SITE: run.sae(SITE)}, walk_prompts([PROMPT], **settings))


def test_without_a_word_1x_is_what_the_latent_does_in_the_image(run: Run, settings: dict[str, Any], seen: Seen) -> None:
    heights = seen.peak[SITE][0].mean(0)
    push = PUSH * full_amounts(run.sae(SITE)).cpu()
    highest, silent = int((heights / push).argmax()), int((heights / push).argmin())
    fires = aim_at(run, (SITE, highest), PROMPT, "", seen, settings)
    assert (fires.word, fires.means) == ("", "as high as it fires by itself")
    assert fires.unit == fires.level == pytest.approx(float(heights[highest]))
    hardly = aim_at(run, (SITE, silent), PROMPT, "", seen, settings)
    assert hardly.unit == pytest.approx(float(push[silent]))
    assert "hardly fires" in hardly.means


def test_1x_is_what_the_word_does_in_captions_whatever_the_image(
    run: Run, settings: dict[str, Any], seen: Seen
) -> None:
    rises = torch.tensor([rise_by_word(run, (SITE, latent), "red") for latent in range(D_SAE)])
    push = PUSH * full_amounts(run.sae(SITE)).cpu()
    most, least = int((rises / push).argmax()), int((rises / push).argmin())
    aim = aim_at(run, (SITE, most), PROMPT, "red", seen, settings)
    assert (aim.word, aim.means) == ("red", "as far as the word “red” moves it")
    assert aim.unit == float(rises[most])
    hardly = unit_of(run, (SITE, least), "red")
    assert hardly.amount == pytest.approx(float(push[least]))
    assert hardly.means == "a push that can be seen, for the word “red” hardly moves it"


def test_what_was_found_at_a_place_is_steered_there(run: Run, settings: dict[str, Any], seen: Seen) -> None:
    home = torch.zeros(run.denoiser.num_tokens, dtype=torch.bool)
    found = Found(SITE, 3, score=1.0, tells=1.0, rise=3.45, level=4.0, share=1.0, amount=2.0, home=home)
    assert aim_at(run, (SITE, 3), PROMPT, "red", seen, settings, found).region is home

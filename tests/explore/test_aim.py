"""Where a latent is steered, and in what measure."""

from __future__ import annotations

from typing import Any

import pytest

from tests.explore.conftest import SITES
from tide_lightning.diffusion.counters import normals
from tide_lightning.explore import Run
from tide_lightning.explore.aim import Aim, aim_at
from tide_lightning.explore.finder import PUSH, Found
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


def test_what_1x_is_depends_on_what_the_latent_does(run: Run, settings: dict[str, Any], seen: Seen) -> None:
    heights = seen.peak[SITE][0].mean(0)
    push = PUSH * full_amounts(run.sae(SITE)).cpu()
    highest, silent = int((heights / push).argmax()), int((heights / push).argmin())
    fires = aim_at(run, (SITE, highest), PROMPT, "", seen, settings)
    assert (fires.measure, fires.means) == ("height", "as high as it fires by itself")
    assert fires.unit == fires.level == pytest.approx(float(heights[highest]))
    hardly = aim_at(run, (SITE, silent), PROMPT, "", seen, settings)
    assert hardly.measure == "push"
    assert hardly.unit == pytest.approx(float(push[silent]))
    assert "hardly fires" in hardly.means


def test_1x_is_what_the_word_does_where_that_moves_the_latent(run: Run, settings: dict[str, Any], seen: Seen) -> None:
    said = watch(run.denoiser, {SITE: run.sae(SITE)}, walk_prompts([f"{PROMPT}, red"], **settings))
    rise = (said.peak[SITE] - seen.peak[SITE])[0].mean(0)
    latent = int((rise / full_amounts(run.sae(SITE)).cpu()).argmax())
    aim = aim_at(run, (SITE, latent), PROMPT, "red", seen, settings)
    assert (aim.word, aim.measure) == ("red", "word")
    assert aim.means == "as far as the word “red” moves it"


def test_what_was_found_keeps_the_finders_measure() -> None:
    found = Found(SITE, 3, score=1.0, tells=1.0, rise=3.45, level=4.0, share=1.0, amount=2.0)
    aim = Aim("", None, 0.987, "height", 0.987).at(found)
    assert (aim.unit, aim.level) == (3.45, 0.987)
    assert aim.means == "as far as the words moved it in the prompts that it was found by"

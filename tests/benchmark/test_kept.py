"""Factors kept, where SAEs that change nothing are spliced, and where they change everything."""

from __future__ import annotations

from typing import Any

import pytest

from tests.untrained import DEEP, SHALLOW, untrained
from tide_lightning.benchmark.kept import factors_kept, num_images
from tide_lightning.diffusion import Denoiser
from tide_lightning.grounds.toybox import FACTORS, Toybox
from tide_lightning.saes import TideSAE

PROMPTS = ["a red cube", "a small sphere on the left, in front of a sky wall", ""]
SETTINGS: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 2.0, "seed": 0}


class Faithful(TideSAE):
    """Gives back what it is given."""

    def forward(self, batch: Any, *arguments: Any, **named: Any) -> Any:
        output = super().forward(batch, *arguments, **named)
        return output._replace(x_hat=batch.x)


def faithful(sae: TideSAE) -> Faithful:
    settings: Any = sae.config
    made = Faithful(sae.shape, **settings)
    made.load_state_dict(sae.state_dict())
    return made.eval()


def test_a_faithful_sae_keeps_every_factor_and_a_coarse_one_does_not(denoiser: Denoiser) -> None:
    made = untrained(denoiser, [SHALLOW, DEEP])
    done: list[int] = []
    saes = {SHALLOW: faithful(made[SHALLOW]), DEEP: made[DEEP]}
    kept = factors_kept(Toybox(), denoiser, saes, PROMPTS, **SETTINGS, progress=done.append)
    assert sum(done) == num_images(saes, len(PROMPTS)) == 4 * 3
    same = kept["sites"][SHALLOW]
    assert (same["mentioned"], same["open"]) == (1, 1)
    assert same["mentioned_interval"] == same["open_interval"] == [1, 1]
    assert set(same["factors"].values()) == {1}
    assert same["latents"]["mse"] == 0
    assert same["latents"]["cosine_centred"] == pytest.approx(1)
    assert kept["all"]["latents"]["cosine_centred"] < 1
    low, high = kept["all"]["latents"]["mse_interval"]
    assert 0 < low <= kept["all"]["latents"]["mse"] <= high
    assert kept["unrelated"]["latents"]["mse"] > 0
    assert kept["all"]["open"] < 1
    assert list(kept["all"]["factors"]) == list(FACTORS)


def test_two_saes_of_a_site_are_not_spliced_at_once(denoiser: Denoiser) -> None:
    sae = untrained(denoiser, [DEEP])[DEEP]
    saes = {f"{DEEP}@one": sae, f"{DEEP}@two": sae}
    kept = factors_kept(Toybox(), denoiser, saes, PROMPTS[:1], **SETTINGS)
    assert "all" not in kept
    assert kept["sites"][f"{DEEP}@one"] == kept["sites"][f"{DEEP}@two"]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_what_is_mentioned_and_what_is_open_is_everything(denoiser: Denoiser, prompt: str) -> None:
    sae = untrained(denoiser, [DEEP])[DEEP]
    found = factors_kept(Toybox(), denoiser, {DEEP: sae}, [prompt], **SETTINGS)["sites"][DEEP]
    number = len(Toybox().mentioned(prompt))
    total = number * found.get("mentioned", 0.0) + (len(FACTORS) - number) * found["open"]
    assert total == pytest.approx(sum(found["factors"].values()))
    assert ("mentioned" in found) == bool(number)

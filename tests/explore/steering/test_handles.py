"""Handles: slopes against finite differences; trials against what they compare."""

from __future__ import annotations

import torch

from tests.untrained import DEEP, SHALLOW
from tide_lightning.diffusion import Denoiser
from tide_lightning.diffusion.counters import normal, stream
from tide_lightning.explore.steering.handles import _slopes, find_handles
from tide_lightning.explore.steering.trying import Trial
from tide_lightning.intervene import Edit
from tide_lightning.intervene.steering import steer
from tide_lightning.saes import SAE

WANTED, UNWANTED = ["a red cube", "a red ring"], ["a blue cube", "a green ring"]


def noise(denoiser: Denoiser, count: int = 2) -> torch.Tensor:
    return torch.stack([normal(stream(3, i), denoiser.latent_shape) for i in range(count)])


def test_slopes_are_what_a_small_push_does(denoiser: Denoiser, saes: dict[str, SAE]) -> None:
    moment = noise(denoiser), torch.full((2,), 500.0)
    slopes = _slopes(denoiser, saes, WANTED, UNWANTED, [moment])
    to, of = denoiser.encode_prompts(WANTED), denoiser.encode_prompts(UNWANTED)
    with torch.no_grad():
        plain = denoiser.predict(*moment, of).double()
        towards = (denoiser.predict(*moment, to).double() - plain).flatten(1)
        towards = torch.nn.functional.normalize(towards, dim=1)
        for site, latent, place in ((SHALLOW, 3, 5), (DEEP, 7, 20), (DEEP, 7, 40)):
            region = torch.zeros(denoiser.num_tokens, dtype=torch.bool)
            region[place] = True
            moved = []
            for amount in (0.5, -0.5):
                with steer(denoiser, saes, [Edit(site, latent, "add", amount, region=region)]) as steered:
                    moved.append(steered.predict(*moment, of).double())
            measured = (((moved[0] - moved[1]).flatten(1)) * towards).sum(1).mean()
            torch.testing.assert_close(slopes[site][place, latent].double(), measured, rtol=0.05, atol=2e-5)


def test_handles_are_sorted_and_know_and_make(denoiser: Denoiser, saes: dict[str, SAE]) -> None:
    handles = find_handles(denoiser, saes, WANTED, UNWANTED, noise(denoiser), num_inference_steps=3, count=5)
    assert [one.score for one in handles] == sorted((one.score for one in handles), reverse=True)
    assert len(handles) == 5
    best = handles[0]
    assert best.knows > 0
    assert best.makes > 0
    assert best.home.shape == (denoiser.num_tokens,)
    assert best.home.any()


def test_a_trial_is_won_by_what_draws_the_wanted(denoiser: Denoiser, saes: dict[str, SAE]) -> None:
    trial = Trial(denoiser, UNWANTED, WANTED, noise(denoiser), num_inference_steps=2)
    assert trial.closeness(denoiser) == 0
    assert Trial(denoiser, WANTED, WANTED, noise(denoiser), num_inference_steps=2).closeness(denoiser) == 1
    nothing, wild = Edit(DEEP, 3, "add", 0.0), Edit(DEEP, 3, "add", 500.0)
    edit, closeness = trial.best(saes, [wild, nothing])
    assert edit is nothing
    assert closeness == 0

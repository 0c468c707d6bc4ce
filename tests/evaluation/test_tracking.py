"""Tokens followed along real trajectories."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.fitting import SITES, make_data, make_module
from tide_lightning.datamodules import ActivationDataModule
from tide_lightning.diffusion import Site
from tide_lightning.diffusion.counters import normal, stream
from tide_lightning.evaluation import Trajectories
from tide_lightning.evaluation.tracking import MAX_TIMES, Tracker
from tide_lightning.intervene.splicing import unread_tokens
from tide_lightning.saes import TideSAE
from tide_lightning.tokens import SiteShape
from tide_lightning.training import TideModule

PROMPTS = ["red ball", "blue cube", "green cone"]


@pytest.fixture(scope="module")
def data(pretrained: Path) -> ActivationDataModule:
    return make_data(pretrained)


@pytest.fixture(scope="module")
def module(data: ActivationDataModule) -> TideModule:
    made = make_module(data).eval()
    made.calibrate(data)
    return made


def trajectories(data: ActivationDataModule, module: TideModule, num_steps: int) -> Trajectories:
    saes = {SITES[0]: module.sae(SITES[0])}
    return Trajectories(data.denoiser, saes, num_inference_steps=num_steps, guidance_scale=3.0, seed=0)


def test_watching_changes_nothing_and_sees_what_the_denoiser_did(
    data: ActivationDataModule, module: TideModule
) -> None:
    sae, denoiser = module.sae(SITES[0]), data.denoiser
    tracker = Tracker({SITES[0]: sae}, num_steps=3)
    sampled = trajectories(data, module, 3)
    watched = sampled.run(PROMPTS, chunk_size=2, watch=tracker.follow)
    assert torch.equal(watched.images, sampled.run(PROMPTS, chunk_size=2).images)
    found = tracker.compute()["over_time"][SITES[0]]
    assert found["tokens"] == 3 * 16
    assert len(found["times"]) == 3
    assert found["times"] == sorted(found["times"], reverse=True)
    # At the first step by hand: the conditional half alone, prompt by prompt.
    expected = set()
    t = denoiser.new_scheduler(3).timesteps[0]
    for number, prompt in enumerate(PROMPTS):
        x_t = normal(stream(0, "sample", number), denoiser.latent_shape)[None]
        conditioning, raw_t = denoiser.encode_prompts([prompt]), denoiser.raw_t(t).expand(1)
        with torch.no_grad(), denoiser.record(denoiser.resolve_sites([SITES[0]])) as values:
            denoiser.predict(x_t, raw_t, conditioning)
        (context,) = unread_tokens(denoiser, [Site.parse(SITES[0])], x_t, raw_t, conditioning).values()
        tokens = replace(context, x=values[SITES[0]].flatten(0, 1))
        with torch.no_grad():
            code = sae.encode(tokens.x, tokens.context)
        fires = code.values.flatten() > 0
        place = number * 16 + code.tokens()[fires]
        expected |= set((place * sae.d_sae + code.indices.flatten()[fires]).tolist())
    seen = torch.cat(tracker._keys[SITES[0]][found["times"][0]])
    assert len(expected ^ set(seen.tolist())) <= 0.02 * len(expected)  # batches of other sizes round differently


def test_long_trajectories_are_looked_at_now_and_then(data: ActivationDataModule, module: TideModule) -> None:
    tracker = Tracker({SITES[0]: module.sae(SITES[0])}, num_steps=25)
    trajectories(data, module, 25).run(PROMPTS[:1], watch=tracker.follow)
    times = tracker.compute()["over_time"][SITES[0]]["times"]
    assert len(times) == MAX_TIMES
    steps = [float(data.denoiser.schedule.t(data.denoiser.raw_t(t))) for t in data.denoiser.new_scheduler(25).timesteps]
    assert times[0] == pytest.approx(max(steps))
    assert times[-1] == pytest.approx(min(steps))


def test_saes_of_one_label_are_compared_and_leaking_ones_left_out(
    data: ActivationDataModule, module: TideModule
) -> None:
    shape = SiteShape.of(data.site_shapes[SITES[0]])
    leaking = TideSAE(shape, 2, 2, known_part="noise_token")
    saes = {f"{site}@{label}": module.sae(site) for site in SITES for label in ("a", "b")} | {f"{SITES[0]}@c": leaking}
    tracker = Tracker(saes, num_steps=2)
    trajectories(data, module, 2).run(PROMPTS[:2], watch=tracker.follow)
    found = tracker.compute()
    assert set(found["over_time"]) == set(saes) - {f"{SITES[0]}@c"}
    pairs = [(pair["from"], pair["to"]) for pair in found["over_blocks"]]
    assert pairs == [(f"{SITES[0]}@{label}", f"{SITES[1]}@{label}") for label in ("a", "b")]

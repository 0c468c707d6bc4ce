"""Recording: what is read is what the denoiser held, of the right half, and changes no bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.untrained import DEEP, PROMPTS, SHALLOW
from tide_lightning.diffusion import Conditioning, Denoiser, around_calls, sample
from tide_lightning.diffusion.counters import normal, stream
from tide_lightning.intervene import Edit, steer
from tide_lightning.intervene.recording import Forward, record, recorded, walk_prompts, watch
from tide_lightning.intervene.splicing import unread_tokens
from tide_lightning.saes import SAE
from tide_lightning.tokens import Half

STEPS = 2
Saes = dict[str, SAE]


def noise_of(denoiser: Denoiser, *numbers: int) -> Tensor:
    return torch.stack([normal(stream(0, i), denoiser.latent_shape) for i in numbers])


def test_what_is_watched_is_what_is_steered(denoiser: Denoiser, saes: Saes) -> None:
    noise = noise_of(denoiser, 0, 1)
    settings: dict[str, Any] = {"initial_noise": noise, "num_inference_steps": STEPS, "guidance_scale": 3.0}
    with steer(denoiser, saes, [Edit(SHALLOW, 3, "add", 9.0)]) as steered:
        seen = watch(steered, saes, walk_prompts(PROMPTS, **settings))
        assert torch.equal(seen.latents, sample(steered, PROMPTS, **settings))
    plain = watch(denoiser, saes, walk_prompts(PROMPTS, **settings))
    assert torch.equal(plain.latents, sample(denoiser, PROMPTS, **settings))
    assert not torch.equal(plain.mean[DEEP], seen.mean[DEEP])  # what lies behind the edit has changed
    assert plain.mean[DEEP].shape == plain.peak[DEEP].shape == (2, STEPS, saes[DEEP].d_sae)
    assert (plain.t.diff() < 0).all()
    assert (plain.mean[DEEP] <= plain.peak[DEEP]).all()
    torch.testing.assert_close(plain.mean[DEEP].sum(), _mean_sum(denoiser, saes[DEEP], noise, settings))


def _mean_sum(denoiser: Denoiser, sae: SAE, noise: Tensor, settings: dict[str, Any]) -> Tensor:
    """All of a site's codes summed, in the unit of amounts, from its tokens as hooks read them."""
    sites = denoiser.resolve_sites([DEEP])
    total: list[Tensor] = []

    @contextmanager
    def around(x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> Iterator[None]:
        with denoiser.record(sites) as found:
            yield
        (tokens,) = unread_tokens(denoiser, sites, x_t, raw_t, conditioning).values()
        here = replace(tokens, x=found[DEEP].flatten(0, 1))
        here = here.select(slice(len(here) // 2, None))
        code = sae.encode(here.x, here.context).to_dense() / sae.unit_at(here.t)
        total.append(code.sum() / denoiser.num_tokens)

    sample(denoiser.within(around), PROMPTS, **settings)
    return torch.stack(total).sum()


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_two_unguided_images_from_one_noise_are_no_guided_pair(denoiser: Denoiser, saes: Saes, scale: float) -> None:
    """Both are recorded and steered as the prompt's; with guidance each of them, and its other half is not."""
    settings: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": scale}
    noise = noise_of(denoiser, 0, 0)
    forwards: list[Forward] = []
    sample(recorded(denoiser, saes, forwards.append), PROMPTS, initial_noise=noise, **settings)
    assert [len(one.x_t) for one in forwards] == [2] * STEPS
    for one in forwards:
        assert one.tokens[DEEP].half.eq(int(Half.CONDITIONAL)).all()
        torch.testing.assert_close(one.conditioning.tokens, denoiser.encode_prompts(PROMPTS).tokens)
    assert not torch.equal(*forwards[0].tokens[DEEP].x.chunk(2))
    edit = Edit(SHALLOW, 3, "add", 9.0, half="conditional")
    with steer(denoiser, saes, [edit]) as steered:
        together = sample(steered, PROMPTS, initial_noise=noise, **settings)
        alone = [sample(steered, [prompt], initial_noise=noise[:1], **settings) for prompt in PROMPTS]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-3, atol=1e-3)


def test_a_pipelines_call_is_guided_where_it_says_so(denoiser: Denoiser) -> None:
    """Its halves are told by the same input twice; a pipeline that says that it does not guide is believed."""
    seen: list[Tensor | None] = []

    @contextmanager
    def around(x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> Iterator[None]:
        seen.append(conditioning.unconditional)
        yield

    def call(x_t: Tensor) -> None:
        conditioning = denoiser.encode_prompts([""] * len(x_t))
        arguments = denoiser.arguments(x_t, torch.full((len(x_t),), 500.0), conditioning)
        with around_calls(denoiser, around), torch.no_grad():
            denoiser.module(**arguments)

    call(noise_of(denoiser, 0, 1, 0, 1))
    call(noise_of(denoiser, 0, 1, 2, 3))
    call(noise_of(denoiser, 0))
    assert seen[0] is not None
    assert seen[0].tolist() == [True, True, False, False]
    assert seen[1:] == [None, None]
    try:
        denoiser.pipeline.do_classifier_free_guidance = False
        call(noise_of(denoiser, 0, 0))
    finally:
        del denoiser.pipeline.do_classifier_free_guidance
    assert seen[3] is None


@torch.no_grad()
def test_one_forward_alone_is_as_on_its_way(denoiser: Denoiser, saes: Saes) -> None:
    """Also with several SAEs of a site, whose keys bear labels."""
    labelled = {f"{DEEP}@a": saes[DEEP], f"{DEEP}@b": saes[DEEP], SHALLOW: saes[SHALLOW]}
    forwards: list[Forward] = []
    noise = noise_of(denoiser, 0, 1)
    sample(recorded(denoiser, labelled, forwards.append), PROMPTS, initial_noise=noise, num_inference_steps=STEPS)
    way = forwards[1]
    assert set(way.tokens) == {DEEP, SHALLOW}
    again = record(denoiser, labelled, way.x_t, way.raw_t, way.conditioning)
    for key, sae in labelled.items():
        ours, theirs = way.code(key, sae), again.code(key, sae)
        torch.testing.assert_close(ours.to_dense(), theirs.to_dense(), rtol=1e-3, atol=1e-3)
    assert way.tokens[DEEP].context.trajectory_noise is not None
    walk = walk_prompts(PROMPTS, noise, num_inference_steps=STEPS, guidance_scale=4.5)
    seen = watch(denoiser, labelled, walk)
    assert torch.equal(seen.mean[f"{DEEP}@a"], seen.mean[f"{DEEP}@b"])

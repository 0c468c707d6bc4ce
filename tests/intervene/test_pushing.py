"""Steering: what a push adds, and that without one no bit changes."""

from __future__ import annotations

import torch

from tests.untrained import SITE
from tide_lightning.diffusion import Denoiser
from tide_lightning.diffusion.counters import normal, stream
from tide_lightning.intervene import effect
from tide_lightning.intervene.pushing import Push, effect_norms, pushed_by, pushed_images
from tide_lightning.intervene.splicing import site_context
from tide_lightning.saes import TideSAE
from tide_lightning.tokens import TokenBatch

PROMPTS = ["a red cube", "a sphere on the left", ""]
ALWAYS = (0.0, 1.0)


def noise(denoiser: Denoiser) -> torch.Tensor:
    return torch.stack([normal(stream(0, i), denoiser.latent_shape) for i in range(len(PROMPTS))])


def no_push(denoiser: Denoiser, sae: TideSAE) -> Push:
    count = len(PROMPTS)
    tokens = torch.ones(count, denoiser.num_tokens, dtype=torch.bool)
    return Push(torch.tensor([1, 2, 3]), torch.zeros(count), torch.zeros(count, sae.d_in), tokens)


def context(denoiser: Denoiser, sae: TideSAE, rows: int) -> TokenBatch:
    x_t = torch.cat([noise(denoiser)] * 2)[:rows]
    tokens = site_context(denoiser, sae.shape, x_t, torch.full((rows,), 400.0), denoiser.encode_prompts([""] * rows))
    x = torch.randn(len(tokens), sae.d_in, generator=torch.Generator().manual_seed(0))
    return TokenBatch(**{**tokens.tensors(), "x": x})


def images(denoiser: Denoiser, sae: TideSAE, push: Push | None, window: tuple[float, float] = ALWAYS) -> torch.Tensor:
    return pushed_images(
        denoiser,
        SITE,
        sae,
        push,
        PROMPTS,
        noise(denoiser),
        window=window,
        num_inference_steps=2,
        guidance_scale=3.0,
        batch_size=2,
    )


def test_raising_a_latent_is_the_same_whatever_else_is_active(denoiser: Denoiser, sae: TideSAE) -> None:
    tokens = context(denoiser, sae, 3)
    with torch.no_grad():
        code = sae.encode(tokens.x, **tokens.context())
        latent = code.indices[:, 0]
        raised = code.values.clone()
        raised[:, 0] += 2.5
        expected = sae.decode(code.with_values(raised), **tokens.context()) - sae.decode(code, **tokens.context())
        found = effect(sae, latent.unsqueeze(1), torch.full((len(tokens), 1), 2.5), tokens)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    norms = effect_norms(sae, torch.tensor([5, 5, 6]), tokens)
    assert norms[0] == norms[1] != norms[2]
    unit = sae.unit_at(tokens.t)
    expected_norm = effect(sae, torch.full((len(tokens), 1), 5), unit, tokens).norm(dim=1).mean()
    torch.testing.assert_close(norms[0], expected_norm)


@torch.no_grad()
def test_a_push_moves_tokens_as_far_at_every_time(denoiser: Denoiser, sae: TideSAE) -> None:
    plain = TideSAE(sae.shape, expansion_factor=2, k=8, scale_by_timestep=True).eval()  # its decoder knows no time
    plain.known.scale.copy_(sae.known.scale)
    push = no_push(denoiser, plain)
    push.amount[:] = 4.0
    moved = []
    for t in (0.9, 0.2):
        tokens = context(denoiser, plain, 3)
        tokens = TokenBatch(**{**tokens.tensors(), "t": torch.full_like(tokens.t, t)})
        moved.append((pushed_by(plain, push, ALWAYS)(tokens) - tokens.x).norm(dim=1))
    torch.testing.assert_close(*moved, rtol=1e-4, atol=0)
    assert moved[0].min() > 0


def test_a_push_acts_on_its_own_images_and_tokens_in_both_halves(denoiser: Denoiser, sae: TideSAE) -> None:
    tokens = context(denoiser, sae, 6)  # three images, unconditional and conditional
    push = no_push(denoiser, sae)
    push.amount[1] = 4.0
    push.tokens[1, 10:] = False
    push.vector[2] = 1.0
    with torch.no_grad():
        moved = pushed_by(sae, push, ALWAYS)(tokens) - tokens.x
        late = pushed_by(sae, push, (0.0, 0.39))(tokens)
    by_image = moved.unflatten(0, (2, 3, -1))
    assert by_image[:, 0].eq(0).all()
    assert by_image[:, 1, :10].ne(0).any(2).all()
    assert by_image[:, 1, 10:].eq(0).all()
    torch.testing.assert_close(by_image[:, 2], torch.ones_like(by_image[:, 2]))
    assert torch.equal(late, tokens.x)


def test_no_strength_changes_no_bit_and_a_strength_does(denoiser: Denoiser, sae: TideSAE) -> None:
    plain = images(denoiser, sae, None)
    push = no_push(denoiser, sae)
    assert torch.equal(images(denoiser, sae, push), plain)
    push.amount[1] = 20.0
    pushed = images(denoiser, sae, push)
    assert torch.equal(pushed[[0, 2]], plain[[0, 2]])
    assert not torch.equal(pushed[1], plain[1])
    assert torch.equal(images(denoiser, sae, push), pushed)
    assert torch.equal(images(denoiser, sae, push, (0.6, 0.9)), plain)  # no step falls into this window

"""Steering: what an edit does to tokens, where and when; and that without one no bit changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.untrained import DEEP, PROMPTS, SHALLOW
from tide_lightning.diffusion import Conditioning, Denoiser, Site, sample
from tide_lightning.diffusion.counters import normal, stream
from tide_lightning.errors import UserError
from tide_lightning.intervene import Edit, Mode, Region, Shift, effect, steer
from tide_lightning.intervene.splicing import unread_tokens
from tide_lightning.intervene.steering import edited_by
from tide_lightning.saes import SAE, TideSAE
from tide_lightning.tokens import TokenBatch

STEPS = 2
Saes = dict[str, SAE]


def halves(denoiser: Denoiser, count: int) -> Conditioning:
    """Of a guided forward on images without a prompt."""
    blank = denoiser.encode_prompts([""] * count)
    return Conditioning.concatenate([blank.as_half(unconditional=True), blank.as_half(unconditional=False)])


def tokens_of(denoiser: Denoiser, sae: SAE, rows: int = 4) -> TokenBatch:
    """Two images under guidance, at two timesteps."""
    noise = torch.stack([normal(stream(0, i), denoiser.latent_shape) for i in range(rows // 2)])
    raw_t = torch.tensor([800.0, 200.0]).repeat(2)
    x_t = torch.cat([noise, noise])
    (found,) = unread_tokens(denoiser, [Site.parse(DEEP)], x_t, raw_t, halves(denoiser, rows // 2)).values()
    x = torch.randn(len(found), sae.d_in, generator=torch.Generator().manual_seed(0))
    return replace(found, x=x)


@torch.no_grad()
def test_raising_a_latent_adds_the_same_whatever_else_is_active(denoiser: Denoiser, saes: Saes) -> None:
    sae, tokens = saes[DEEP], tokens_of(denoiser, saes[DEEP])
    code = sae.encode(tokens.x, tokens.context)
    raised = code.values.clone()
    raised[:, 0] += 2.5
    expected = sae.decode(code.with_values(raised), tokens.context) - sae.decode(code, tokens.context)
    found = effect(sae, code.indices[:, :1], torch.full((len(tokens), 1), 2.5), tokens)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_each_image_may_have_a_latent_and_a_vector_of_its_own(denoiser: Denoiser, saes: Saes) -> None:
    sae, tokens = saes[DEEP], tokens_of(denoiser, saes[DEEP])
    places = torch.ones(2, denoiser.num_tokens, dtype=torch.bool)
    places[0, 10:] = False
    vector = torch.stack([torch.zeros(sae.d_in), torch.ones(sae.d_in)])
    each = Edit(DEEP, torch.tensor([3, 5]), "add", torch.tensor([2.0, 0.0]), region=places)
    moved = edited_by(sae, [each, Shift(DEEP, vector)])(tokens) - tokens.x
    alone = edited_by(sae, [Edit(DEEP, 3, "add", 2.0)])(tokens) - tokens.x
    moved, alone = (one.unflatten(0, (2, 2, -1)) for one in (moved, alone))  # half, image, token
    torch.testing.assert_close(moved[:, 0, :10], alone[:, 0, :10])
    assert moved[:, 0, 10:].eq(0).all()
    torch.testing.assert_close(moved[:, 1], torch.ones_like(moved[:, 1]))
    late = edited_by(sae, [Shift(DEEP, torch.ones(sae.d_in), window=(0.0, 0.5), half="conditional")])(tokens) - tokens.x
    assert late.unflatten(0, (4, -1)).ne(0).flatten(1).any(1).tolist() == [False, False, False, True]
    with pytest.raises(ValueError, match="can only be added to"):
        Edit(DEEP, torch.tensor([3, 5]), "scale", 2.0)


def latents(denoiser: Denoiser, saes: Saes, edits: list[Edit], mode: Mode = "delta", scale: float = 3.0) -> Tensor:
    with steer(denoiser, saes, edits, mode=mode) as steered:
        return sample(steered, PROMPTS, num_inference_steps=STEPS, guidance_scale=scale)


@pytest.mark.parametrize(
    ("operation", "amount", "expected"),
    [
        ("add", 2.5, lambda z, unit: z + 2.5 * unit),
        ("scale", -3.0, lambda z, unit: -3 * z),
        ("clamp", 4.0, lambda z, unit: 4.0 * unit),
        ("ablate", 0.0, lambda z, unit: 0 * z),
        ("invert", 0.0, lambda z, unit: -z),
    ],
)
@torch.no_grad()
def test_operations_on_a_code(denoiser: Denoiser, saes: Saes, operation, amount, expected) -> None:  # type: ignore[no-untyped-def]
    sae = saes[DEEP]
    tokens = tokens_of(denoiser, sae)
    code = sae.encode(tokens.x, tokens.context)
    latent = int(code.indices.flatten()[0])
    z = code.to_dense()
    changed = z.clone()
    changed[:, latent] = expected(z[:, latent], sae.unit_at(tokens.t).squeeze(1))
    steps = torch.eye(sae.d_sae)[latent].expand(len(tokens), -1)  # decode(z') - decode(z) without a sparse code
    direction = _decode_dense(sae, steps, tokens) - _decode_dense(sae, 0 * steps, tokens)
    reference = tokens.x.double() + (changed - z)[:, latent, None].double() * direction
    found = edited_by(sae, [Edit(DEEP, latent, operation, amount)])(tokens)
    torch.testing.assert_close(found.double(), reference, rtol=1e-5, atol=1e-4)
    same = (changed == z).all(1)
    assert torch.equal(found[same], tokens.x[same])
    replaced = edited_by(sae, [Edit(DEEP, latent, operation, amount)], "replace")(tokens)
    torch.testing.assert_close(replaced.double(), _decode_dense(sae, changed, tokens), rtol=1e-4, atol=1e-3)


def _decode_dense(sae: SAE, code: Tensor, tokens: TokenBatch) -> Tensor:
    """Equation by equation, in float64."""
    frame = sae.frame(tokens.context)
    u_hat = code.double() @ sae.W_dec.double() + sae.b_dec.double()
    u_hat = frame.unmodulated(u_hat) if sae.unmodulate else u_hat
    decoded: Tensor = frame.known + frame.s * u_hat
    return decoded.double()


@torch.no_grad()
def test_edits_reach_their_half_window_region_and_image_only(denoiser: Denoiser, saes: Saes) -> None:
    sae = saes[DEEP]
    tokens = tokens_of(denoiser, sae)

    def moved(**where: object) -> Tensor:
        new = edited_by(sae, [Edit(DEEP, 3, "add", 2.0, **where)])(tokens)  # type: ignore[arg-type]
        by_token: Tensor = (new != tokens.x).any(1)
        return by_token.reshape(2, 2, -1)  # half, image, token

    everywhere = moved()
    assert everywhere.all()
    assert torch.equal(moved(half="conditional").any(2), torch.tensor([[False, False], [True, True]]))
    assert torch.equal(moved(half="unconditional").any(2), torch.tensor([[True, True], [False, False]]))
    assert torch.equal(moved(window=(0.7, 1.0)).any(2), torch.tensor([[True, False], [True, False]]))
    rows, cols = denoiser.grid
    left = moved(region=Region(0, 0, 0.5, 1)).unflatten(2, (rows, cols))
    assert left[..., : cols // 2].all()
    assert not left[..., cols // 2 :].any()
    mask = torch.zeros(2, denoiser.num_tokens, dtype=torch.bool)
    mask[1, 5] = True
    assert moved(region=mask).nonzero().tolist() == [[0, 1, 5], [1, 1, 5]]
    own = edited_by(sae, [Edit(DEEP, 3, "add", torch.tensor([0.0, 2.0]))])(tokens)
    assert torch.equal((own != tokens.x).any(1).unflatten(0, (4, -1)).any(1), torch.tensor([False, True] * 2))


@torch.no_grad()
def test_an_amount_moves_tokens_as_far_at_every_time(denoiser: Denoiser, saes: Saes) -> None:
    sae = TideSAE(saes[DEEP].shape, expansion_factor=2, k=8, scale_by_timestep=True, modulation="none").eval()
    scale = sae.known.scale.copy_(torch.linspace(5.0, 1.0, sae.num_bins))
    tokens = tokens_of(denoiser, sae)
    added = edited_by(sae, [Edit(DEEP, 3, "add", 2.0)])(tokens) - tokens.x
    expected = 2 * scale.square().mean().sqrt() * sae.W_dec[3]
    torch.testing.assert_close(added, expected.expand_as(added), rtol=1e-4, atol=1e-5)
    # What a latent holds by itself is taken away as it is.
    latent = int(sae.encode(tokens.x, tokens.context).indices[0, 0])
    held = sae.encode(tokens.x, tokens.context).to_dense()[:, latent, None] * sae.known.scale_at(tokens.t)
    taken = tokens.x - edited_by(sae, [Edit(DEEP, latent, "ablate")])(tokens)
    torch.testing.assert_close(taken, held * sae.W_dec[latent], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_edits_of_one_latent_follow_one_another_and_norms_are_kept(denoiser: Denoiser, saes: Saes) -> None:
    sae = saes[DEEP]
    tokens = tokens_of(denoiser, sae)
    twice = edited_by(sae, [Edit(DEEP, 3, "clamp", 2.0), Edit(DEEP, 3, "scale", 3.0), Edit(DEEP, 4, "add", 1.0)])
    once = edited_by(sae, [Edit(DEEP, 3, "clamp", 6.0), Edit(DEEP, 4, "add", 1.0)])
    torch.testing.assert_close(twice(tokens), once(tokens))
    kept = edited_by(sae, [Edit(DEEP, 3, "add", 6.0)], preserve_norm=True)(tokens)
    torch.testing.assert_close(kept.norm(dim=1), tokens.x.norm(dim=1))
    assert not torch.equal(kept, tokens.x)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_untouched_codes_leave_every_bit(denoiser: Denoiser, saes: Saes, scale: float) -> None:
    plain = sample(denoiser, PROMPTS, num_inference_steps=STEPS, guidance_scale=scale)
    idle = [Edit(DEEP, 3, "add", 0.0), Edit(SHALLOW, 4, "scale", 1.0), Edit(SHALLOW, 5, "add", 9.0, window=(0.2, 0.3))]
    assert torch.equal(latents(denoiser, saes, idle, scale=scale), plain)
    acting = [Edit(DEEP, 3, "add", 9.0), Edit(SHALLOW, 4, "add", 9.0)]
    both, one, other = (latents(denoiser, saes, edits, scale=scale) for edits in (acting, acting[:1], acting[1:]))
    for first, second in ((both, plain), (both, one), (both, other), (one, plain), (other, plain)):
        assert not torch.equal(first, second)
    assert not torch.equal(latents(denoiser, saes, idle[:1], "replace", scale), plain)
    assert torch.equal(sample(denoiser, PROMPTS, num_inference_steps=STEPS, guidance_scale=scale), plain)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (("transformer_blocks.9", 1), f"has no SAE here; there are {SHALLOW}, {DEEP}"),
        ((DEEP, 99999), "has latents 0 to"),
        ((DEEP, -1), "has latents 0 to"),
    ],
)
def test_what_does_not_exist_is_told(denoiser: Denoiser, saes: Saes, edit: tuple[str, int], said: str) -> None:
    with pytest.raises(UserError, match=said), steer(denoiser, saes, [Edit(*edit)]):
        pass


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"operation": "multiply"}, "choose one of add, scale"),
        ({"half": "left"}, "choose one of both"),
        ({"window": (0.6, 0.4)}, "low <= high"),
        ({"window": (0.0, 1.5)}, "low <= high"),
    ],
)
def test_edits_that_mean_nothing_are_told(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Edit(DEEP, 1, **arguments)  # type: ignore[arg-type]


def test_regions_are_read_and_refused() -> None:
    assert Region.parse("0,0.25,.5,1") == Region(0, 0.25, 0.5, 1)
    for text in ("0,0,1", "a,b,c,d", "0,0,0,1", "0.5,0,0.2,1", "0,0,2,1"):
        with pytest.raises(UserError, match="left"):
            Region.parse(text)
    with pytest.raises(UserError, match="holds no patch"):
        Region(0, 0, 0.01, 0.01).tokens((8, 8))

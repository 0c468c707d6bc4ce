"""The context in which a denoiser, or a diffusers pipeline, is steered.

    with steer(pipeline, saes, [Edit("transformer_blocks.3", 17, "add", 8.0)]):
        image = pipeline("a cube").images[0]

    with steer(denoiser, saes, edits) as steered:
        latents = sample(steered, ["a cube"])

Shapes: N images, T tokens, D channels, B = N T (or 2 N T under guidance) tokens of a forward, L edited latents.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar, get_args

import torch
from torch import Tensor

from tide_lightning.diffusion import Conditioning, Denoiser, Site, around_calls, denoiser_of
from tide_lightning.errors import UserError
from tide_lightning.intervene.edits import Edit, Mode, Shift, check_edits
from tide_lightning.intervene.region import Region
from tide_lightning.intervene.splicing import Predictor, splicing
from tide_lightning.saes import SAE, SparseCode
from tide_lightning.tokens import Half, TokenBatch

Target = TypeVar("Target")

_HALVES = {"conditional": Half.CONDITIONAL, "unconditional": Half.UNCONDITIONAL}


@contextmanager
def steer(
    target: Target,
    saes: Mapping[str, SAE],
    edits: Sequence[Edit | Shift],
    *,
    mode: Mode = "delta",
    preserve_norm: bool = False,
) -> Iterator[Target]:
    """Steer what is sampled inside.

    Args:
        target: a diffusers pipeline, whose own calls are steered then (its transformer is frozen for it); or a
            denoiser, of which a steered twin is given.
        saes: by site.
        edits: in order; several of one latent act one after another. Vectors are added when all latents are edited.
        mode: whether what the SAE does not explain is kept (delta) or given up where edits reach (replace).
        preserve_norm: give every changed token its old length.
    """
    if mode not in get_args(Mode):
        raise UserError(f"mode: there is no {mode!r}; choose one of {', '.join(get_args(Mode))}")
    denoiser = target if isinstance(target, Denoiser) else denoiser_of(target, _latent_size(target, saes))
    check_edits(denoiser, saes, edits)
    by_site = {site: [edit for edit in edits if edit.site == site] for site in dict.fromkeys(e.site for e in edits)}
    predictors = {site: edited_by(saes[site], some, mode, preserve_norm) for site, some in by_site.items()}
    inner = splicing(denoiser, predictors)

    def around(x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> AbstractContextManager[None]:
        if tuple(x_t.shape[1:]) != denoiser.latent_shape:
            raise UserError(
                f"the SAEs were trained on latents of {list(denoiser.latent_shape)}, and this image's are"
                f" {list(x_t.shape[1:])}: ask the pipeline for the size that they were trained on"
            )
        return inner(x_t, raw_t, conditioning)

    if isinstance(target, Denoiser):
        yield target.within(around)
    else:
        with around_calls(denoiser, around):
            yield target


def edited_by(sae: SAE, edits: Sequence[Edit | Shift], mode: Mode = "delta", preserve_norm: bool = False) -> Predictor:
    """A site's tokens with its edits; a token whose code no edit changes keeps every bit (in `delta` mode)."""
    of_latents = [edit for edit in edits if isinstance(edit, Edit)]
    shifts = [edit for edit in edits if isinstance(edit, Shift)]

    def predict(tokens: TokenBatch) -> Tensor:
        x = _with_latents_edited(sae, of_latents, mode, preserve_norm, tokens) if of_latents else tokens.x
        for shift in shifts:
            vector = shift.vector.to(x)
            added = vector if vector.ndim == 1 else vector[tokens.sample % len(vector)]
            x = torch.where(_reached(shift, tokens, sae).unsqueeze(1), x + added, x)
        return x

    return predict


def _with_latents_edited(
    sae: SAE, edits: Sequence[Edit], mode: Mode, preserve_norm: bool, tokens: TokenBatch
) -> Tensor:
    reached = torch.stack([_reached(edit, tokens, sae) for edit in edits])
    rows = reached.any(0).nonzero().squeeze(1)
    if not len(rows):
        return tokens.x
    some = tokens.select(rows)
    code = sae.encode(some.x, some.context) if mode == "replace" or any(e.reads for e in edits) else None
    latents, difference = _difference(sae, edits, reached[:, rows], some, code)
    moved = effect(sae, latents, difference, some)
    new = some.x + moved if mode == "delta" or code is None else sae.decode(code, some.context) + moved
    if preserve_norm:
        new = new * (some.x.norm(dim=1, keepdim=True) / new.norm(dim=1, keepdim=True).clamp_min(1e-12))
    if mode == "delta":
        new = torch.where((difference != 0).any(1, keepdim=True), new, some.x)
    return tokens.x.index_copy(0, rows, new.to(tokens.x.dtype))


def effect(sae: SAE, latents_BL: Tensor, values_BL: Tensor, tokens: TokenBatch) -> Tensor:
    """What raising each token's latents by some values adds to its activation [B, D]."""
    code = SparseCode(values_BL.to(sae.W_dec.dtype).contiguous(), latents_BL.contiguous(), sae.d_sae)
    return sae.added(code, tokens.context)


def values_of(code: SparseCode, latent: int) -> Tensor:
    """One latent's value for every token [B]."""
    entries = torch.where(code.indices == latent, code.values, 0).flatten()
    return entries.new_zeros(code.num_tokens).index_add_(0, code.tokens(), entries)


def _difference(
    sae: SAE, edits: Sequence[Edit], reached: Tensor, tokens: TokenBatch, code: SparseCode | None
) -> tuple[Tensor, Tensor]:
    """The latents that are edited, and how far each token's values of them are moved; both [B, L]."""
    unit = sae.unit_at(tokens.t).squeeze(1).to(tokens.x.dtype)
    moved: dict[int, tuple[Tensor, Tensor]] = {}  # a latent's values before and after
    latents, differences = [], []
    for edit, here in zip(edits, reached, strict=True):
        amount = edit.amount
        if isinstance(amount, Tensor):
            amount = amount.to(tokens.x)[tokens.sample % len(amount)]
        if isinstance(edit.latent, Tensor):  # one for each image, added to: what it holds does not matter
            latents.append(edit.latent.to(tokens.sample)[tokens.sample % len(edit.latent)])
            differences.append(torch.where(here, amount * unit, 0))
            continue
        if edit.latent not in moved:
            held = torch.zeros_like(unit) if code is None else values_of(code, edit.latent).to(unit.dtype)
            moved[edit.latent] = held, held
        before, now = moved[edit.latent]
        moved[edit.latent] = before, torch.where(here, edit.changed(now, amount, unit), now)
    for latent, (before, after) in moved.items():
        latents.append(torch.full_like(tokens.sample, latent))
        differences.append(after - before)
    return torch.stack(latents, 1), torch.stack(differences, 1)


def _reached(edit: Edit | Shift, tokens: TokenBatch, sae: SAE) -> Tensor:
    """Which tokens of a forward an edit reaches [B]."""
    low, high = edit.window
    reached = (tokens.t >= low) & (tokens.t <= high)
    if edit.half != "both":
        reached &= tokens.half == int(_HALVES[edit.half])
    if edit.region is not None:
        region = edit.region.tokens(tuple(sae.shape.grid)) if isinstance(edit.region, Region) else edit.region
        inside = region.to(reached.device).flatten()
        reached &= inside.repeat(len(reached) // len(inside))
    return reached


def _latent_size(pipeline: object, saes: Mapping[str, SAE]) -> list[int] | None:
    """Rows and columns (a video's frames before them) of the latents that the SAEs were trained on."""
    num_channels = denoiser_of(pipeline).num_channels
    for site, sae in saes.items():
        if Site.parse(site).stream == "image":
            *frames, rows, cols = sae.shape.grid
            side = math.isqrt(sae.shape.d_input // num_channels)
            return [*frames, rows * side, cols * side]
    return None

"""`tide steer`: one prompt, with and without edits, from the same noise, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from tide_lightning.diffusion import sample
from tide_lightning.diffusion.counters import normals
from tide_lightning.errors import UserError
from tide_lightning.explore.change import change, difference
from tide_lightning.explore.find_command import searching
from tide_lightning.explore.finder import Found, find_by_words
from tide_lightning.explore.pictures import heat, picture_format, save_picture, sheet
from tide_lightning.explore.requests import check_windows, parse_latents, parse_numbers, parse_window
from tide_lightning.explore.run import Run, open_run
from tide_lightning.intervene.edits import Edit, Halves, Mode, Operation, check_edits
from tide_lightning.intervene.recording import Seen, walk_prompts, watch
from tide_lightning.intervene.region import Region
from tide_lightning.intervene.steering import steer
from tide_lightning.waiting import waiting


def steer_run(
    run: str,
    prompt: str = "",
    latent: str = "",
    find: str = "",
    against: str | None = None,
    out: str = "steered.png",
    operation: Operation = "add",
    amount: str = "",
    window: str = "0,1",
    region: str | None = None,
    half: Halves | None = None,
    mode: Mode = "delta",
    preserve_norm: bool = False,
    seed: int = 0,
    steps: int = 20,
    guidance_scale: float | None = None,
    device: str = "auto",
    trust: bool = False,
) -> None:
    """Steer latents of a run's SAEs, and show what changes beside the same seed without.

    Args:
        run: a run folder, or a run's name below runs/.
        prompt: what to draw; unless given, whatever the noise brings.
        latent: whom to steer, SITE/NUMBER, as in transformer_blocks.3/17; several separated by commas, each with an
            operation and amount of its own if need be, as in transformer_blocks.3/17:scale:2.
        find: or words by which to find it: the first answer of `tide find`.
        against: what the words are told from; see `tide find`.
        out: the picture: the original, each amount, and where pixels changed.
        operation: add the amount to a latent's value, scale it by it, clamp it to it, ablate it (0) or invert it.
        amount: how much; several separated by commas make a strip. 2,4,8 unless given, or what `tide find` found.
        window: low,high; the times t within which to steer, 1 being pure noise.
        region: left,top,right,bottom of the part to steer, as shares of the image; all of it unless given.
        half: which half of a guided forward: both, or conditional, which acts guidance_scale times as strongly. Unless
            given both, with --find conditional.
        mode: keep what the SAE does not explain (delta) or give it up (replace).
        preserve_norm: give every steered token its old length.
        seed: of the noise.
        steps: of the trajectory.
        guidance_scale: as in the run's data unless given.
        device: where to compute; auto takes a GPU where there is one.
        trust: let the run's config import classes that are not this package's, and read prompts from elsewhere.
    """
    if steps < 1:
        raise UserError(f"--steps {steps}: at least 1")
    picture_format(out)
    where = None if region is None else Region.parse(region)
    if bool(find) == bool(latent):
        raise UserError("latent: name at least one, as in transformer_blocks.3/17, or give words to --find it by")
    when = parse_window(window)

    def edits_by(
        latent: str, amount: str, region: Region | Tensor | None, half: Halves
    ) -> tuple[list[float], list[list[Edit]]]:
        amounts = parse_numbers("--amount", amount) if operation in ("add", "scale", "clamp") else [0.0]
        return amounts, [parse_latents(latent, operation, one, when, region, half) for one in amounts]

    # What is miswritten is told before all else.
    amounts, variants = edits_by(latent or "found/0", amount or "2,4,8", where, half or "both")
    opened = open_run(run, device, trust=trust)
    denoiser, saes = opened.denoiser, opened.saes
    if find:
        with searching():
            one = first_found(opened, find, against, seed)
        name, region_found = f"{one.site}/{one.latent}", one.home if where is None else where
        amounts, variants = edits_by(name, amount or str(one.amount), region_found, half or "conditional")
    check_edits(denoiser, saes, variants[0])
    check_windows(denoiser, variants[0], steps)
    scale = opened.guidance_scale if guidance_scale is None else guidance_scale
    settings: dict[str, Any] = {
        "initial_noise": normals(seed, "sample", numbers=[0], shape=denoiser.latent_shape),
        "num_inference_steps": steps,
        "guidance_scale": scale,
    }
    used = {edit.site: saes[edit.site] for edit in variants[0]}
    with waiting("Drawing the original"):
        seen = watch(denoiser, used, walk_prompts([prompt], **settings))
        before = denoiser.decode_latents(seen.latents)[0]
    for edit in variants[0]:
        print(_firing(edit, seen))
    afters = []
    for edits, value in zip(variants, amounts, strict=True):
        title = _title(edits, operation, value)
        with (
            waiting(f"Drawing {title}"),
            steer(denoiser, saes, edits, mode=mode, preserve_norm=preserve_norm) as steered,
        ):
            after = denoiser.decode_latents(sample(steered, [prompt], **settings))[0]
        afters.append((title, after))
        print(f"{title}: {_changed(before, after, where)}")
    path = save_picture(_picture(before, afters), out)
    print(f"{path}: the original, {len(afters)} steered, and below each where it differs")


def first_found(run: Run, query: str, against: str | None = None, seed: int = 0) -> Found:
    """The latent that words steer by: the first answer of `tide find`."""
    found = find_by_words(run, query, against, seed=seed)
    if not found:
        raise UserError(f"find {query!r}: no latent of this run fires more with it than with what stands in its place")
    return found[0]


def _title(edits: Sequence[Edit], operation: str, amount: float) -> str:
    own = {edit.operation for edit in edits}
    if own != {operation}:
        return f"{len(edits)} edits, amount {amount:.3g}"
    return f"{operation} {amount:.3g}" if operation in ("add", "scale", "clamp") else operation


def _firing(edit: Edit, seen: Seen) -> str:
    """How the latent fares without steering: what amounts are small and large."""
    inside = (seen.t >= edit.window[0]) & (seen.t <= edit.window[1])
    peak = float(seen.peak[edit.site][0, inside, edit.latent].max())
    if peak == 0:
        return f"{edit.site}/{edit.latent} does not fire in this image by itself"
    mean = float(seen.mean[edit.site][0, inside, edit.latent].mean())
    return f"{edit.site}/{edit.latent} fires by itself: {mean:.3g} on average over tokens and steps, at most {peak:.3g}"


def _changed(before: Tensor, after: Tensor, region: Region | None) -> str:
    if torch.equal(before, after):
        return "not a bit differs"
    moved = change(before, after, region)
    inside = f"pixels moved by {moved.inside:.1%} of the range"
    return inside if moved.outside is None else f"{inside} inside the region and {moved.outside:.1%} outside"


def _picture(before: Tensor, afters: Sequence[tuple[str, Tensor]]) -> Image:
    moved = [difference(before, after) for _, after in afters]
    most = max(max(float(one.max()) for one in moved), 1e-6)
    below = [("where it differs", torch.ones_like(before)), *(("", heat(one / most)) for one in moved)]
    return sheet([[("original", before), *afters], below])

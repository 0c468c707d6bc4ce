"""`tide steer`: one prompt, with and without edits, from the same noise, side by side."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple
from urllib.parse import urlencode

import torch
from PIL.Image import Image
from torch import Tensor

from tide_lightning.diffusion import sample_images
from tide_lightning.errors import UserError
from tide_lightning.explore.aim import Aim, aim_at
from tide_lightning.explore.consequences import Witness, difference
from tide_lightning.explore.find_command import searching, warn_unsaid
from tide_lightning.explore.finder import Callback, Found, find_by_words
from tide_lightning.explore.names import Key
from tide_lightning.explore.pictures import check_picture, heat, save_picture, sheet
from tide_lightning.explore.places import meant
from tide_lightning.explore.requests import Amount, check_windows, parse_amounts, parse_latents, parse_window
from tide_lightning.explore.run import Run, open_run
from tide_lightning.explore.unit import unit_of
from tide_lightning.intervene.edits import Edit, Halves, Mode, Operation, check_edits
from tide_lightning.intervene.recording import walk_prompts, watch
from tide_lightning.intervene.region import Region
from tide_lightning.intervene.steering import steer
from tide_lightning.waiting import stepping, waiting

_WITH_AMOUNT = ("add", "scale", "clamp")
_FIRING, _EVERYWHERE = "firing", "all"


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
    region: str = _FIRING,
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
        out: the picture: the original, each amount, where pixels changed, and what else did.
        operation: add the amount to a latent's value, scale it by it, clamp it to it, ablate it (0) or invert it.
        amount: how much; several separated by commas make a strip. 1x is as far as the latent's word (of --find, or its
            name) moves it; a number alone is in the SAE's own unit. Unless given, what `tide find` found; with
            --latent 0.5x,1x,2x.
        window: low,high; the times t within which to steer, 1 being pure noise.
        region: the part of the image to steer. firing: where the latent fires, in this image or (with --find) when the
            prompt says the word; all; or left,top,right,bottom as shares of the image.
        half: of a guided forward: conditional, the prompt's, as words act, guidance_scale times as strongly as in both;
            unless given, conditional where there is guidance.
        mode: keep what the SAE does not explain (delta) or give it up (replace).
        preserve_norm: give every steered token its old length.
        seed: of the noise.
        steps: of the trajectory.
        guidance_scale: as in the run's data unless given.
        device: where to compute; auto takes a GPU where there is one.
        trust: let the run's config import classes that are not this package's, and read prompts from elsewhere.
    """
    # What is miswritten is told before all else.
    if steps < 1:
        raise UserError(f"--steps {steps}: at least 1")
    check_picture(out)
    box = None if region in (_FIRING, _EVERYWHERE) else Region.parse(region)
    if find and latent:
        raise UserError("give --find or --latent, not both: the one looks for what the other names")
    if not find and not latent:
        raise UserError("latent: name at least one, as in transformer_blocks.3/17, or give words to --find it by")
    when = parse_window(window)
    amounts = parse_amounts("--amount", amount or "0.5x,1x,2x") if operation in _WITH_AMOUNT else [Amount(0, False)]
    edits, own_amount = parse_latents(latent or "found/0", operation, when, box, half or "both")
    if not any(_needs_amount(edit, brings) for edit, brings in zip(edits, own_amount, strict=True)):
        amounts = [Amount(0, False)]  # each is told already: one image

    opened = open_run(run, device, trust=trust)
    denoiser, saes = opened.denoiser, opened.saes
    check_windows(denoiser, edits, steps)
    reach = half or ("conditional" if denoiser.guidance == "classifier_free" else "both")
    found = None
    if find:
        warn_unsaid(opened, find)
        with searching() as step:
            found = first_found(opened, find, against, seed, step)
        edits = [replace(edits[0], site=found.site, latent=found.latent)]
        if not amount and operation in _WITH_AMOUNT:
            unit = unit_of(opened, (found.site, found.latent), find, against)
            amounts = [Amount(found.amount / unit.amount, True)]
    edits = [replace(edit, half=reach) for edit in edits]
    check_edits(denoiser, saes, edits)
    noise = denoiser.noise(seed, "sample", numbers=[0])
    settings = {"initial_noise": noise, **opened.trajectory(steps, guidance_scale)}
    used = {edit.site: saes[edit.site] for edit in edits}
    with stepping("Drawing the original", steps) as step:
        seen = watch(denoiser, used, walk_prompts([prompt], **settings, callback=step))
        before = denoiser.decode_latents(seen.latents)[0]
    aims = {}
    for edit in edits:
        with waiting("Drawing it with the latent's word, to see where the latent fires"):
            aims[_key(edit)] = aim_at(opened, _key(edit), prompt, find, seen, settings, found, against)
    if region == _FIRING:
        edits = [replace(edit, region=aims[_key(edit)].region) for edit in edits]
    for edit in edits:
        print(_told(opened, edit, aims[_key(edit)], region))

    witness, reached = Witness(opened), meant(edits, saes, before)
    afters: list[Steered] = []
    for much in amounts:
        variant = [
            edit if brings else replace(edit, amount=much.of(aims[_key(edit)].unit))
            for edit, brings in zip(edits, own_amount, strict=True)
        ]
        title = _title(variant, own_amount, much, find)
        with (
            stepping(f"Drawing {title}", steps) as step,
            steer(denoiser, saes, variant, mode=mode, preserve_norm=preserve_norm) as steered,
        ):
            after = sample_images(steered, [prompt], **settings, callback=step)[0]
        lines = ["not a bit differs"] if torch.equal(before, after) else witness.compare(before, after, reached).lines()
        afters.append(Steered(title, after, lines))
        print(f"{title}: {'; '.join(lines)}")
    path = save_picture(_picture(before, reached, afters), out)
    print(f"{path}: the original, {len(afters)} steered; below, where it was steered and where each differs")
    print(f"next  {_play(run, prompt, seed, variant)}")


class Steered(NamedTuple):
    """One image of the strip [3, H, W]: what was done, and what changed."""

    title: str
    image: Tensor
    lines: list[str]


def first_found(
    run: Run, query: str, against: str | None = None, seed: int = 0, callback: Callback | None = None
) -> Found:
    """The latent that words steer by: the first answer of `tide find`."""
    found = find_by_words(run, query, against, seed=seed, callback=callback)
    if not found:
        raise UserError(f"find {query!r}: no latent of this run fires more with it than with what stands in its place")
    return found[0]


def _key(edit: Edit) -> Key:
    assert isinstance(edit.latent, int)  # one for all images
    return edit.site, edit.latent


def _needs_amount(edit: Edit, brings: bool) -> bool:
    return edit.operation in _WITH_AMOUNT and not brings


def _title(edits: Sequence[Edit], own_amount: Sequence[bool], amount: Amount, find: str) -> str:
    """What is done: alike to all by one amount, or to each by its own."""
    first, needs = edits[0], [_needs_amount(*pair) for pair in zip(edits, own_amount, strict=True)]
    are_alike = len({edit.operation for edit in edits}) == 1 and (all(needs) or first.operation not in _WITH_AMOUNT)
    if len(edits) > 1 and not are_alike:
        return f"{len(edits)} edits, amount {amount}" if any(needs) else f"{len(edits)} edits"
    size = f" {amount}" if needs[0] else f" {first.amount:.3g}" if first.operation in _WITH_AMOUNT else ""
    done = f"{first.operation}{size}"
    return f"{find}: {done}" if find else done


def _told(run: Run, edit: Edit, aim: Aim, region: str) -> str:
    """How the latent fares without steering, what amounts mean, and where it is steered."""
    name = f"{edit.site}/{edit.latent}" + (f" “{run.names[_key(edit)]}”" if _key(edit) in run.names else "")
    fires = f"fires at {aim.level / aim.unit:.2f}x by itself" if aim.level else "does not fire in this image"
    where = ""
    if region == _FIRING:
        said = f" when the prompt says “{aim.word}”" if aim.word else ""
        where = (
            "; steered everywhere, for it fires nowhere" if edit.region is None else f"; steered where it fires{said}"
        )
    return f"{name} {fires}; 1x is {aim.means}, {aim.unit:.3g} in the SAE's unit{where}"


def _play(run: str, prompt: str, seed: int, edits: Sequence[Edit]) -> str:
    told = [("prompt", prompt), ("seed", str(seed))]
    told += [("latent", f"{e.site}/{e.latent}:{e.amount:.2f}") for e in edits if e.operation == "add"]
    return f"tide play {shlex.quote(run)}, and open http://127.0.0.1:7861/#{urlencode(told)}"


def _picture(before: Tensor, meant_HW: Tensor, afters: Sequence[Steered]) -> Image:
    moved = [difference(before, one.image) for one in afters]
    most = max(max(float(one.max()) for one in moved), 1e-6)
    steered = before.where(meant_HW.to(before.device), 0.3 * before - 0.7)  # darker where it was not
    title = "steered everywhere" if bool(meant_HW.all()) else "steered where bright"
    below = [(title, steered), *(("where it differs", heat(one / most)) for one in moved)]
    notes = [f"{one.title}: {line}" for one in afters for line in one.lines]
    return sheet([[("original", before), *((one.title, one.image) for one in afters)], below], notes)

"""Where a latent is to be steered in an image, and what 1x is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tide_lightning.errors import UserError
from tide_lightning.explore.finder import Callback, Found
from tide_lightning.explore.names import Key
from tide_lightning.explore.places import Activity, where_it_fires
from tide_lightning.explore.question import said_in
from tide_lightning.explore.run import Run
from tide_lightning.explore.unit import unit_of, word_of
from tide_lightning.intervene.recording import Seen, recorded, walk_prompts


class Aim(NamedTuple):
    """How a latent is steered in an image unless something else is asked for.

    Fields:
        word: what the prompt was made to say to see where the latent fires, or "".
        region: the tokens where it fires [T]; None where it fires nowhere.
        unit: an amount: 1x.
        means: what that is, in words.
        level: how high it fires in the image by itself: its highest value, in the mean over steps.
    """

    word: str
    region: Tensor | None
    unit: float
    means: str
    level: float


@torch.no_grad()
def aim_at(
    run: Run,
    key: Key,
    prompt: str,
    word: str,
    before: Seen,
    settings: Mapping[str, Any],
    found: Found | None = None,
    against: str | None = None,
    measuring: Callback | None = None,
) -> Aim:
    """Draw the image with the word in its prompt, and see where the latent fires.

    Args:
        run: an open run.
        key: the latent.
        prompt: of the image.
        word: what the latent was found by; its name unless given.
        before: what latents do in the image as it is.
        settings: of the image: noise, steps, guidance.
        found: the finder's answer, if the latent was found by that word; it is steered at its home if it has one.
        against: what the word was told from.
        measuring: called after each step where it has to be measured how far the word moves it.
    """
    site, latent = key
    sae = run.sae(site)
    own = float(before.peak[site][0, :, latent].mean())
    unit = unit_of(run, key, word, against, own, measuring)
    word = word or word_of(run, key)
    said = _said(run, prompt, word)
    activity = Activity({site: sae}, [key])
    watched = recorded(run.denoiser, activity.saes, activity.take)
    try:
        walk_prompts([said], **settings)(watched)
    except UserError:  # a denoiser of classes can be told no word besides
        if said == prompt:
            raise
        said = prompt
        walk_prompts([said], **settings)(watched)
    region = where_it_fires(activity.maps()[key][0], sae.shape.grid)
    if found is not None and found.home is not None:
        region = found.home
    return Aim(word if said != prompt else "", region, unit.amount, unit.means, own)


def _said(run: Run, prompt: str, word: str) -> str:
    try:
        return said_in(prompt, word, run.captions) if word else prompt
    except UserError:  # the run's prompts are no longer where they were
        return prompt

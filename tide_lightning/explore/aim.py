"""Where a latent is to be steered in an image, and how far: where it fires, as far as its word itself moves it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from tide_lightning.errors import UserError
from tide_lightning.explore.finder import PUSH, Found
from tide_lightning.explore.names import Key
from tide_lightning.explore.places import Activity, where_it_fires
from tide_lightning.explore.question import said_in
from tide_lightning.explore.run import Run
from tide_lightning.intervene.amounts import full_amounts
from tide_lightning.intervene.recording import Seen, recorded, walk_prompts, watch

_LEAST = 0.1  # of a push that can be seen, which a word has to move a latent by to be its measure


class Aim(NamedTuple):
    """How a latent is steered in an image unless something else is asked for.

    Fields:
        word: what it is called, if that moves it when the prompt of the image says so too; or "".
        region: the tokens where it fires [T]; None where it fires nowhere.
        unit: an amount: 1x.
        measure: what that is: how much higher it fires with the word, in this image ("word", in the mean over steps) or
            in the prompts that it was found by ("query"); how high it fires ("height"); or, where it hardly does, a
            push that can be seen ("push").
        level: how high it fires in the image by itself: its highest value, in the mean over steps.
    """

    word: str
    region: Tensor | None
    unit: float
    measure: Literal["word", "query", "height", "push"]
    level: float

    @property
    def means(self) -> str:
        """What 1x is, in words."""
        return {
            "word": f"as far as the word “{self.word}” moves it",
            "query": "as far as the words moved it in the prompts that it was found by",
            "height": "as high as it fires by itself",
            "push": "a push that can be seen, for it hardly fires in this image",
        }[self.measure]

    def at(self, found: Found) -> Aim:
        """The same for a latent that was found by words: in the finder's measure, and at its home if it has one."""
        return self._replace(unit=found.rise, measure="query", region=self.region if found.home is None else found.home)


@torch.no_grad()
def aim_at(
    run: Run,
    key: Key,
    prompt: str,
    word: str,
    before: Seen,
    settings: Mapping[str, Any],
    found: Found | None = None,
) -> Aim:
    """Draw the image with the word in its prompt, and see where the latent fires.

    Args:
        run: an open run.
        key: the latent.
        prompt: of the image.
        word: what the latent stands for; the name that the atlas gave it, unless given.
        before: what latents do in the image as it is.
        settings: of the image: noise, steps, guidance.
        found: the finder's answer, if the latent was found by that word.
    """
    site, latent = key
    if not word and key in run.names:
        word = run.names[key].word
    sae = run.sae(site)
    said = _said(run, prompt, word)
    activity = Activity({site: sae}, [key])
    denoiser = recorded(run.denoiser, activity.saes, activity.take)
    seen = watch(denoiser, activity.saes, walk_prompts([said], **settings))
    own, after = (float(one.peak[site][0, :, latent].mean()) for one in (before, seen))
    least = _LEAST * PUSH * float(full_amounts(sae)[latent])
    region = where_it_fires(activity.maps()[key][0], sae.shape.grid)
    if said != prompt and after - own >= least:
        aim = Aim(word, region, after - own, "word", own)
    elif own >= least:
        aim = Aim("", region, own, "height", own)
    else:
        aim = Aim("", region, least / _LEAST, "push", own)
    return aim if found is None else aim.at(found)


def _said(run: Run, prompt: str, word: str) -> str:
    try:
        return said_in(prompt, word, run.captions) if word else prompt
    except UserError:  # the run's prompts are no longer where they were
        return prompt

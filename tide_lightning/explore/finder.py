"""The finder: which latents fire for one thing and not for another.

The denoiser draws prompts that say the thing, and the same prompts with something else in its place, from the same
noises, and every latent is watched. First stand latents whose peak tells an image of the one from an image of the
other, whichever two are drawn, and that do much more with the thing, measured by how far that moves tokens. No label,
no classifier and no mask is asked. Whether a latent also makes the thing, raising it tells (`tide steer --find`).

Shapes: N samples, S forwards, T tokens, F latents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tide_lightning.diffusion import Denoiser
from tide_lightning.evaluation.scores import auroc
from tide_lightning.explore.names import Key
from tide_lightning.explore.places import Activity
from tide_lightning.explore.question import pose
from tide_lightning.explore.run import Run
from tide_lightning.explore.style import extent_of
from tide_lightning.intervene import Edit
from tide_lightning.intervene.amounts import full_amounts
from tide_lightning.intervene.recording import Seen, Walk, recorded, walk_image, walk_prompts, watch
from tide_lightning.saes import SAE

PUSH = 0.6
"""How far a found latent is to move tokens, as a share of what they hold besides the known part (`full_amounts`)."""

_PAIRS = 16  # of images that a latent should tell right, all of them

_USUAL = (12, 10, 0)
"""Captions, steps and seed by which a word is asked for, and by which it is measured how far that moves a latent."""

Callback = Callable[[int, Tensor, Tensor], None]
"""Called with step, raw timestep and latents after each step of each trajectory."""

STEPS_TO_MEASURE, STEPS_TO_FIND = 2 * _USUAL[1], 3 * _USUAL[1]
"""After how many a word's push is measured, or its latents are found: with it, without, and to see where they fire."""

_AT_ONE_PLACE = 0.75  # as widely spread in the mean over samples as in each one, from which on a latent has a home


class Found(NamedTuple):
    """A latent that was found.

    Fields:
        site: key of its SAE.
        latent: its number.
        score: what the list is sorted by: `rise`, as a share of the amount of a full push, times the chance that it
            tells 16 pairs right, `tells` to the 16th power.
        tells: the chance that its peak is higher in a sample with the thing than in one without (AUROC): .5 is luck.
        rise: by how much higher its peaks over places are with the thing, in the mean over samples and times (in the
            unit of amounts).
        level: its peaks with the thing, likewise.
        share: of its activity with and without the thing (in the mean over places), how much falls to with.
        amount: to raise it by.
        home: where it fires [T], if that is at the same places whatever the sample (as of a latent for "on the left");
            None for latents that go with things, wherever they stand.
    """

    site: str
    latent: int
    score: float
    tells: float
    rise: float
    level: float
    share: float
    amount: float
    home: Tensor | None = None

    def edit(self) -> Edit:
        """What steers by it: the latent raised in the prompt's half of each forward, at its home if it has one."""
        return Edit(self.site, self.latent, "add", self.amount, region=self.home, half="conditional")


@torch.no_grad()
def find_by_words(
    run: Run,
    query: str,
    against: str | None = None,
    *,
    sites: Sequence[str] | None = None,
    top: int = 10,
    num_prompts: int = _USUAL[0],
    num_inference_steps: int = _USUAL[1],
    seed: int = _USUAL[2],
    callback: Callback | None = None,
) -> list[Found]:
    """The latents that fire for what a text says, the best first.

    Args:
        run: an open run, whose captions tell how the words are used.
        query: a word or a few.
        against: what stands in its place otherwise; unless given, the phrases that captions have there
            (for `red` other colours).
        sites: keys of SAEs; all unless given.
        top: at most so many.
        num_prompts: captions that are asked for.
        num_inference_steps: of the trajectories.
        seed: of the noise.
        callback: called after each of `STEPS_TO_FIND` steps.
    """
    saes, asked = run.chosen(sites), (num_prompts, num_inference_steps, seed)
    walks = _walks_by_words(run, query, against, *asked, callback)
    seen = [watch(run.denoiser, saes, walk) for walk in walks]
    if asked == _USUAL:
        run.rises.setdefault((query, against), {}).update(_rises(*seen))
    return _with_homes(run.denoiser, saes, rank(saes, *seen, top=top), walks[0])


@torch.no_grad()
def rise_by_word(run: Run, key: Key, word: str, against: str | None = None, callback: Callback | None = None) -> float:
    """How far a word moves a latent: `Found.rise` of `find_by_words`, measured once for each word and site of a run."""
    site, latent = key
    known = run.rises.setdefault((word, against), {})
    if site not in known:
        walks = _walks_by_words(run, word, against, *_USUAL, callback)
        known |= _rises(*(watch(run.denoiser, {site: run.sae(site)}, walk) for walk in walks))
    return float(known[site][latent])


def _walks_by_words(
    run: Run,
    query: str,
    against: str | None,
    num_prompts: int,
    num_inference_steps: int,
    seed: int,
    callback: Callback | None,
) -> list[Walk]:
    """Through captions that say it, and the same with something else in its place."""
    question = pose(query, against, run.captions, num_prompts)
    noise = run.denoiser.noise(seed, "find", numbers=range(len(question.prompts)))
    settings = {**run.trajectory(num_inference_steps), "callback": callback}
    return [walk_prompts(prompts, noise, **settings) for prompts in (question.prompts, question.others)]


def find_by_prompts(
    run: Run,
    prompt: str,
    against: str,
    *,
    sites: Sequence[str] | None = None,
    top: int = 10,
    num_samples: int = 8,
    num_inference_steps: int = 10,
    seed: int = 0,
    callback: Callback | None = None,
) -> list[Found]:
    """The latents that fire for one prompt and not for another, the best first; `callback` as in `find_by_words`."""
    noise = run.denoiser.noise(seed, "find", numbers=range(num_samples))
    lists, settings = ([prompt] * num_samples, [against] * num_samples), run.trajectory(num_inference_steps)
    return find_by_lists(run.denoiser, run.chosen(sites), *lists, noise, top=top, callback=callback, **settings)


def find_by_images(
    run: Run,
    image: Tensor,
    against: Tensor,
    *,
    sites: Sequence[str] | None = None,
    top: int = 10,
    num_samples: int = 8,
    num_inference_steps: int = 10,
    seed: int = 0,
) -> list[Found]:
    """The latents that fire for one image and not for another, both [3, H, W] in [-1, 1], under the same noises."""
    denoiser, saes = run.denoiser, run.chosen(sites)
    noise = denoiser.noise(seed, "find", numbers=range(num_samples))
    walks = [walk_image(one, noise, num_inference_steps=num_inference_steps) for one in (image, against)]
    return rank(saes, *(watch(denoiser, saes, walk) for walk in walks), top=top)


@torch.no_grad()
def find_by_lists(
    denoiser: Denoiser,
    saes: Mapping[str, SAE],
    wanted: Sequence[str],
    unwanted: Sequence[str],
    initial_noise: Tensor,
    *,
    num_inference_steps: int = 10,
    guidance_scale: float = 4.5,
    top: int = 10,
    callback: Callback | None = None,
) -> list[Found]:
    """The latents that fire for what one list of prompts says and the other does not, the best first.

    Args:
        denoiser: the frozen denoiser.
        saes: by site.
        wanted: prompts that say it.
        unwanted: the counterpart of each, best with few words changed.
        initial_noise: of each pair [N, *latent_shape].
        num_inference_steps: of the trajectories.
        guidance_scale: of the trajectories.
        top: at most so many.
        callback: called after each step of the three walks.
    """
    settings: dict[str, Any] = {
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "callback": callback,
    }
    walks = [walk_prompts(prompts, initial_noise, **settings) for prompts in (wanted, unwanted)]
    found = rank(saes, *(watch(denoiser, saes, walk) for walk in walks), top=top)
    return _with_homes(denoiser, saes, found, walks[0])


def _rises(wanted: Seen, unwanted: Seen) -> dict[str, Tensor]:
    """By how much higher each latent's peaks are on one walk than on the other, by site [F]."""
    return {site: (peak.mean((0, 1)) - unwanted.peak[site].mean((0, 1))) for site, peak in wanted.peak.items()}


def rank(saes: Mapping[str, SAE], wanted: Seen, unwanted: Seen, *, top: int) -> list[Found]:
    """Latents of all sites by what they did on two walks, the best first; those that rise only."""
    found, rises = [], _rises(wanted, unwanted)
    for key, sae in saes.items():
        own, other = (seen.mean[key].mean((0, 1)) for seen in (wanted, unwanted))
        level, rise = wanted.peak[key].mean((0, 1)), rises[key]
        full, share = full_amounts(sae).cpu(), own / (own + other).clamp_min(1e-20)
        peaks = [seen.peak[key].amax(1) for seen in (wanted, unwanted)]
        tells = auroc(torch.cat(peaks), torch.arange(sum(map(len, peaks)))[:, None] < len(peaks[0]))[0].float()
        score = tells**_PAIRS * rise / full
        for value, latent in zip(*(part.tolist() for part in score.topk(min(top, len(score)))), strict=True):
            if value > 0:
                of_latent = torch.stack([tells, rise, level, share, PUSH * full], 1)[latent].tolist()
                found.append(Found(key, latent, value, *of_latent))
    return sorted(found, key=lambda one: -one.score)[:top]


def _with_homes(denoiser: Denoiser, saes: Mapping[str, SAE], found: Sequence[Found], walk: Walk) -> list[Found]:
    """The same, with the home of each that has one."""
    activity = Activity(saes, [(one.site, one.latent) for one in found])
    walk(recorded(denoiser, activity.saes, activity.take))
    homes: dict[tuple[str, int], Tensor] = {}
    for key, map_NT in activity.maps().items():
        mean_T = map_NT.mean(0)
        if extent_of(map_NT.T).mean() >= _AT_ONE_PLACE * extent_of(mean_T[:, None]):
            homes[key] = mean_T >= mean_T.amax() / 2
    return [one._replace(home=homes.get((one.site, one.latent))) for one in found]

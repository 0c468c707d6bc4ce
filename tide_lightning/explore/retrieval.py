"""Latents found by words, by words against words, or by example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from tide_lightning.errors import UserError
from tide_lightning.explore.contrast import Case, Difference, differences, effects, moments_of, noised_moments
from tide_lightning.explore.phrases import Phrase, alternatives, as_text, replaced, says, words
from tide_lightning.explore.run import Run
from tide_lightning.saes import SAE

_MAX_CAPTIONS = 4096  # read to learn how phrases are used
_MAX_RIVALS = 3


class Found(NamedTuple):
    """A latent that was found.

    Fields:
        site: key of its SAE.
        latent: number in its dictionary.
        score: what the list is sorted by: contrast times effect squared (with its sign), or contrast alone.
        contrast: by how much more it fires for what was asked than for the nearest rival (mean value a token).
        effect: cosine of what it does to the denoiser's prediction and what the words do, from -1 to 1; None where
            images were compared, which the denoiser did not make.
        level: its mean value where it fires for what was asked, in the unit of edits' amounts.
        places: how much more it fires at each place of the site's grid, the largest being 1.
    """

    site: str
    latent: int
    score: float
    contrast: float
    effect: float | None
    level: float
    places: tuple[float, ...]


class Question(NamedTuple):
    """What is compared: prompts that say something, and the same with something else in its place.

    Fields:
        prompts: with it.
        rivals: for each thing that stands in its place, the same prompts with that.
        instead: these things.
    """

    prompts: list[str]
    rivals: list[list[str]]
    instead: list[str]


def find_by_text(
    run: Run,
    query: str,
    against: str | None = None,
    *,
    sites: Sequence[str] | None = None,
    top: int = 10,
    window: tuple[float, float] = (0.3, 1.0),
    num_prompts: int = 12,
    num_candidates: int = 4,
    num_inference_steps: int = 10,
    seed: int = 0,
) -> list[Found]:
    """The latents by which a denoiser makes what a text says, the best first; chosen by words alone.

    Captions of the run's data that say the query are asked for as they are, and with something else in its place, from
    the same noise. See `contrast` for how a latent's part in the difference is measured.

    Args:
        run: an open run.
        query: a word or a few.
        against: what stands in its place otherwise; unless given, the phrases that captions have there
            (for `red` other colours).
        sites: keys of SAEs; all unless given.
        top: at most so many.
        window: low and high t of the steps that count: what an image becomes is decided early, near t = 1.
        num_prompts: captions that are asked for.
        num_candidates: latents of each site that are tried in the denoiser.
        num_inference_steps: of the trajectories.
        seed: of the noise.
    """
    captions = run.data.corpus.prompts("train")[:_MAX_CAPTIONS]
    question = pose(query, against, [words(caption) for caption in captions], num_prompts)
    moments = moments_of(
        run.denoiser, question.prompts, window, num_inference_steps, run.data.trajectories.guidance_scale, seed
    )
    if not moments:
        raise UserError(f"window {window}: none of {num_inference_steps} steps lies in it")
    case = Case(question.prompts, moments)
    return _rank(run, _chosen(run, sites), case, [Case(other, moments) for other in question.rivals], num_candidates)[
        :top
    ]


def find_by_prompts(
    run: Run,
    prompt: str,
    against: str,
    *,
    sites: Sequence[str] | None = None,
    top: int = 10,
    window: tuple[float, float] = (0.3, 1.0),
    num_samples: int = 8,
    num_candidates: int = 4,
    num_inference_steps: int = 10,
    seed: int = 0,
) -> list[Found]:
    """The latents by which a denoiser makes one prompt's image and not another's, from the same noise."""
    prompts = [prompt] * num_samples
    moments = moments_of(run.denoiser, prompts, window, num_inference_steps, run.data.trajectories.guidance_scale, seed)
    if not moments:
        raise UserError(f"window {window}: none of {num_inference_steps} steps lies in it")
    rivals = [Case([against] * num_samples, moments)]
    return _rank(run, _chosen(run, sites), Case(prompts, moments), rivals, num_candidates)[:top]


def find_by_images(
    run: Run,
    image: Tensor,
    against: Tensor,
    *,
    prompt: str = "",
    sites: Sequence[str] | None = None,
    top: int = 10,
    times: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
    seed: int = 0,
) -> list[Found]:
    """The latents that fire more for one image than for another, noised by the same noise at the same times.

    Args:
        run: an open run.
        image: [3, H, W] in [-1, 1], of the denoiser's size.
        against: likewise.
        prompt: that both are read with.
        sites: keys of SAEs; all unless given.
        top: at most so many.
        times: normalised.
        seed: of the noise.
    """
    case, rival = (
        Case([prompt], noised_moments(run.denoiser, run.denoiser.encode_images(one[None]), times, seed))
        for one in (image, against)
    )
    found = []
    for key, differ in differences(run.denoiser, _chosen(run, sites), case, [rival], by_place=False).items():
        values, latents = differ.contrast.topk(min(top, len(differ.contrast)))
        found += [_found(key, latent, differ, None) for latent in latents[values > 0].tolist()]
    return sorted(found, key=lambda one: -one.score)[:top]


def pose(query: str, against: str | None, captions: Sequence[Phrase], num_prompts: int) -> Question:
    """Turn a query into prompts, by the captions at hand.

    Args:
        query: what shall be said.
        against: what shall stand in its place; None lets the captions tell.
        captions: as words.
        num_prompts: how many.
    """
    phrase = words(query)
    if not phrase:
        raise UserError(f"query {query!r} holds no word")
    others = alternatives(phrase, captions) if against is None else [words(against)]
    saying = dict.fromkeys(caption for caption in captions if says(caption, phrase))
    # A caption that says an alternative as well ("a red cube and a blue ball") would stay half as it is.
    rest = [other for other in others if not says(phrase, other)]
    clear = [caption for caption in saying if not any(says(caption, other) for other in rest)]
    chosen = _spread(clear or list(saying), num_prompts)
    if not chosen:
        return _appended(as_text(phrase), against, captions, num_prompts)
    others = others[:_MAX_RIVALS] or [()]
    rivals = [[replaced(caption, phrase, other) for caption in chosen] for other in others]
    return Question([as_text(caption) for caption in chosen], rivals, [as_text(other) for other in others])


def _appended(query: str, against: str | None, captions: Sequence[Phrase], num_prompts: int) -> Question:
    """No caption says it: it is added to captions, and `against` or nothing to the same."""
    plain = [as_text(caption) for caption in _spread(list(dict.fromkeys(captions)), num_prompts)]
    rivals = [f"{caption}, {against}" if against else caption for caption in plain]
    return Question([f"{caption}, {query}" for caption in plain], [rivals], [against or ""])


def _rank(run: Run, saes: Mapping[str, SAE], case: Case, rivals: Sequence[Case], num_candidates: int) -> list[Found]:
    differ = differences(run.denoiser, saes, case, rivals)
    candidates = {
        key: one.contrast.topk(min(num_candidates, len(one.contrast))).indices.tolist() for key, one in differ.items()
    }
    effect = effects(run.denoiser, saes, candidates, case, _in_turn(rivals))
    found = [_found(key, latent, differ[key], effect[key, latent]) for key in saes for latent in candidates[key]]
    return sorted((one for one in found if one.contrast > 0), key=lambda one: -one.score)


def _in_turn(rivals: Sequence[Case]) -> Case:
    """Each prompt with one of the rivals, in turn."""
    prompts = [rivals[number % len(rivals)].prompts[number] for number in range(len(rivals[0].prompts))]
    return Case(prompts, rivals[0].moments)


def _found(key: str, latent: int, difference: Difference, effect: float | None) -> Found:
    places, contrast = difference.places[latent], float(difference.contrast[latent])
    return Found(
        key,
        latent,
        contrast if effect is None else contrast * effect * abs(effect),
        contrast,
        effect,
        float(difference.level[latent]),
        tuple((places / places.max().clamp(min=1e-20)).tolist()),
    )


def _chosen(run: Run, sites: Sequence[str] | None) -> dict[str, SAE]:
    return run.saes if sites is None else {site: run.sae(site) for site in sites}


def _spread(items: Sequence[Phrase], count: int) -> list[Phrase]:
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]

"""What a latent stands for, in words of captions and values of factors.

A latent is measured by how it ranks images, by its peak in each. What stands for it is chosen on every other image and
measured on those between, so that the best of many words gets no credit for having been chosen.

Shapes: F latents, S samples, V traits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from tide_lightning.evaluation.scores import auroc
from tide_lightning.explore.atlas.reading import Labels
from tide_lightning.explore.names import in_words
from tide_lightning.explore.phrases import Phrase, is_mark, ngrams, words

MIN_SAMPLES = 6
"""Samples with, and samples without a trait that it takes to say anything about it."""

_LEAST_STRENGTH = 3.5  # standard deviations above chance: of a few hundred traits hardly one gets there by luck
_MAX_WORDS = 3  # of a phrase
_MAX_TRAITS = 4000
_PAIRED = range(4, 17)  # values of a factor of which two together may be what a latent stands for
_OF_A_PAIR = 0.9  # that its strength counts for: one value is told where it does nearly as well
_BLOCK = 512  # latents at a time


class Traits(NamedTuple):
    """What can be true of a sample.

    Fields:
        names: (kind, text): kind is "" for words of a caption, else the factor whose value the text is, or two of
            them, as in "red or yellow".
        has: [S, V], bool.
        weight: that a trait's strength counts for [V].
    """

    names: list[tuple[str, str]]
    has: Tensor
    weight: Tensor

    def label(self, number: int) -> str:
        """A trait in words."""
        return in_words(*self.names[number])


class Meaning(NamedTuple):
    """How traits and latents go together; for each latent the traits that tell most about it.

    Fields:
        traits: numbers of traits, the strongest first [F, num]; -1 where there is none.
        auroc: the chance that a sample with the trait has the higher peak [F, num].
        lift: share of the trait among the latent's images over its share among all [F, num].
        hits: of its images, how many have the trait [F, num].
        images: how many images it has: those in which it peaks highest, a twentieth of all at most [F].
        tells: the AUROC of the one trait chosen on the other half of the samples, .5 at least [F].
    """

    traits: Tensor
    auroc: Tensor
    lift: Tensor
    hits: Tensor
    images: Tensor
    tells: Tensor


def gather_traits(captions: Sequence[str], labels: Sequence[Labels], device: torch.device) -> Traits:
    """Every phrase of captions, value of factors and two values of one that enough samples have and enough have not."""
    texts = [words(caption) for caption in captions]
    held = [{("", " ".join(phrase)) for phrase in _phrases(text)} for text in texts]
    for found, known in zip(held, labels, strict=True):
        found |= {(factor, value) for factor, values in known.items() for value in values}
    pairs = list(_pairs(_enough(held)))
    for found in held:
        found |= {
            (factor, f"{one} or {other}")
            for factor, one, other in pairs
            if (factor, one) in found or (factor, other) in found
        }
    enough = _enough(held)
    names = sorted(enough, key=lambda name: (name[0] == "", -enough[name], name))[:_MAX_TRAITS]
    column = {name: number for number, name in enumerate(names)}
    has = torch.zeros(len(held), len(names), dtype=torch.bool)
    for row, found in enumerate(held):
        has[row, [column[name] for name in found if name in column]] = True
    united = {(factor, f"{one} or {other}") for factor, one, other in pairs}
    weight = torch.tensor([_OF_A_PAIR if name in united else 1.0 for name in names])
    return Traits(names, has.to(device), weight.to(device))


def _enough(held: Sequence[Collection[tuple[str, str]]]) -> dict[tuple[str, str], int]:
    """How many samples have a trait, of those that it takes to say anything about it."""
    counts = Counter(name for found in held for name in found)
    return {name: count for name, count in counts.items() if MIN_SAMPLES <= count <= len(held) - MIN_SAMPLES}


def _pairs(names: Collection[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    """Two values of a factor that has several: (factor, one, other)."""
    for factor in sorted({factor for factor, _ in names if factor}):
        values = sorted(value for kind, value in names if kind == factor)
        if len(values) in _PAIRED:
            yield from ((factor, one, other) for one, other in combinations(values, 2))


@torch.no_grad()
def rank_traits(peaks_FS: Tensor, traits: Traits, num: int) -> Meaning:
    """The `num` traits that tell most about each latent."""
    parts = [_measure(block, traits, num) for block in peaks_FS.split(_BLOCK)]
    return Meaning(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _measure(peaks_FS: Tensor, traits: Traits, num: int) -> Meaning:
    has, (num_latents, num_samples) = traits.has, peaks_FS.shape
    highest, order = peaks_FS.topk(max(MIN_SAMPLES, num_samples // 20) if num_samples > MIN_SAMPLES else num_samples)
    fires = highest > 0
    images = fires.sum(1)
    if not traits.names:
        none = torch.zeros(num_latents, 0, device=peaks_FS.device)
        return Meaning(none.long(), none, none, none.long(), images, none.new_full((num_latents,), 0.5))
    hits_FV = (has[order] & fires[:, :, None]).sum(1)
    lift_FV = (hits_FV / images.clamp(min=1)[:, None]) / has.float().mean(0)
    auroc_FV = auroc(peaks_FS.T, has).T.float()
    strength_FV = _strength(auroc_FV, has, traits.weight)
    traits_FV = _chosen(strength_FV.where(lift_FV > 1, -1), traits, num)
    place = traits_FV.clamp(min=0)
    picked = [one.gather(1, place) for one in (auroc_FV, lift_FV, hits_FV)]
    return Meaning(traits_FV, picked[0], picked[1], picked[2], images, _tells(peaks_FS, traits))


def _tells(peaks_FS: Tensor, traits: Traits) -> Tensor:
    has_SV = traits.has
    even, odd = slice(0, None, 2), slice(1, None, 2)
    counts = torch.stack([has_SV[part].sum(0) for part in (even, odd)])
    sizes = torch.tensor([len(has_SV[part]) for part in (even, odd)], device=has_SV.device)[:, None]
    least = MIN_SAMPLES // 2
    usable = ((counts >= least) & (sizes - counts >= least)).all(0).nonzero().squeeze(1)
    if not len(usable):
        return peaks_FS.new_full((len(peaks_FS),), 0.5)
    chosen_on, measured_on = has_SV[even][:, usable], has_SV[odd][:, usable]
    chosen = auroc(peaks_FS[:, even].T, chosen_on).T.float()
    best = _strength(chosen, chosen_on, traits.weight[usable]).argmax(1, keepdim=True)
    found = auroc(peaks_FS[:, odd].T, measured_on).T.float().gather(1, best).squeeze(1)
    return found.clamp(min=0.5)


def _strength(auroc_FV: Tensor, has_SV: Tensor, weight_V: Tensor) -> Tensor:
    """How far an AUROC is above chance, in standard deviations, times the trait's weight."""
    positives = has_SV.sum(0).float()
    negatives = len(has_SV) - positives
    by_chance = ((len(has_SV) + 1) / (12 * positives * negatives)).sqrt()
    return weight_V * (auroc_FV - 0.5) / by_chance


def _chosen(strength_FV: Tensor, traits: Traits, num: int) -> Tensor:
    """The strongest traits, without phrases that hold a stronger one, and pairs with a value that one has."""
    count = min(4 * num, strength_FV.shape[1])
    values, order = strength_FV.topk(count, dim=1)
    rows = []
    for strengths, candidates in zip(values.tolist(), order.tolist(), strict=True):
        kept: list[int] = []
        for strength, candidate in zip(strengths, candidates, strict=True):
            if (
                strength > _LEAST_STRENGTH
                and len(kept) < num
                and not any(_overlap(traits, candidate, other) for other in kept)
            ):
                kept.append(candidate)
        rows.append(kept + [-1] * (num - len(kept)))
    return torch.tensor(rows, dtype=torch.int64, device=strength_FV.device).view(-1, num)


def _overlap(traits: Traits, one: int, other: int) -> bool:
    (kind, text), (other_kind, other_text) = traits.names[one], traits.names[other]
    if kind == other_kind == "":
        return f" {text} " in f" {other_text} " or f" {other_text} " in f" {text} "
    is_pair = bool(traits.weight[one] < 1)
    return is_pair and kind == other_kind and bool({*text.split(" or ")} & {*other_text.split(" or ")})


def _phrases(caption: Phrase) -> set[Phrase]:
    found = (phrase for length in range(1, _MAX_WORDS + 1) for _, phrase in ngrams(caption, length))
    return {phrase for phrase in found if not any(map(is_mark, phrase)) and len(" ".join(phrase)) <= 60}

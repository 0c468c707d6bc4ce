"""A word turned into prompts: captions that say it, and the same with something else in its place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import pairwise
from statistics import median_low
from typing import NamedTuple

from tide_lightning.errors import UserError
from tide_lightning.explore.phrases import Phrase, alternatives, as_text, neighbours, replaced, says, words
from tide_lightning.near import did_you_mean

_MAX_ALTERNATIVES = 3
_MAX_WORDS = 24  # of a caption that is shown as an example
_WORDS_FOR_ONE = 4  # by which it may be longer for one thing more that it says


class Question(NamedTuple):
    """Prompts that say it, the counterpart of each with something else in its place, and what stands there in turn."""

    prompts: list[str]
    others: list[str]
    instead: list[str]


def pose(query: str, against: str | None, captions: Sequence[str], num_prompts: int) -> Question:
    """Turn a query into so many prompts, by captions, which tell how people say it.

    They also tell what shall stand in its place (for `red` other colours), unless that is given.
    """
    phrase, texts = words(query), [words(caption) for caption in captions]
    if not phrase:
        raise UserError(f"query {query!r} holds no word")
    known = alternatives(phrase, texts) if against is None else [words(against)]
    saying = dict.fromkeys(text for text in texts if says(text, phrase))
    # A caption that says an alternative as well ("a red cube and a blue ball") would stay half as it is.
    rest = [other for other in known if not says(phrase, other)]
    clear = [text for text in saying if not any(says(text, other) for other in rest)]
    chosen = _spread_out(clear or list(saying), num_prompts)
    if not chosen:
        return _appended(as_text(phrase), against, texts, num_prompts)
    instead = known[:_MAX_ALTERNATIVES] or [()]
    others = [replaced(text, phrase, instead[number % len(instead)]) for number, text in enumerate(chosen)]
    return Question([as_text(text) for text in chosen], others, [as_text(other) for other in instead])


def _appended(query: str, against: str | None, texts: Sequence[Phrase], num_prompts: int) -> Question:
    """No caption says it: it is added to captions, and `against` or nothing to the same."""
    plain = [as_text(text) for text in _spread_out(list(dict.fromkeys(texts)), num_prompts)]
    others = [f"{caption}, {against}" if against else caption for caption in plain]
    return Question([f"{caption}, {query}" for caption in plain], others, [against or ""])


def unsaid(query: str, captions: Sequence[str]) -> str:
    """What to tell where no caption says a query, and which of their words may be meant; else nothing."""
    phrase, texts = words(query), [words(caption) for caption in captions]
    if not phrase or any(says(text, phrase) for text in texts):
        return ""
    known = {word for text in texts for word in text}
    strays = [word for word in phrase if word not in known]
    return f"no caption of this run says {query!r}" + (did_you_mean(strays[0], known) if strays else ".")


def _spread_out(texts: Sequence[Phrase], count: int) -> list[Phrase]:
    """So many, or all, evenly from first to last."""
    count = min(count, len(texts))
    return [texts[number * len(texts) // count] for number in range(count)]


def said_in(prompt: str, query: str, captions: Sequence[str]) -> str:
    """A prompt that says the query as well: where captions have it, in place of what stands there, or at the end."""
    phrase, text, texts = words(query), words(prompt), [words(caption) for caption in captions]
    if not phrase or says(text, phrase):
        return prompt
    for other in alternatives(phrase, texts, most=12):
        if says(text, other) and not says(phrase, other):
            return replaced(text, other, phrase)
    around = Counter(pair for caption in texts for pair in neighbours(caption, phrase))
    padded = ("", *text, "")
    counts = [around[pair] for pair in pairwise(padded)]
    if not max(counts):
        return f"{prompt}, {as_text(phrase)}" if prompt else as_text(phrase)
    place = counts.index(max(counts))
    return as_text((*text[:place], *phrase, *text[place:]))


def telling(captions: Sequence[str], said: Collection[str], count: int) -> list[str]:
    """So many captions of the longer half, each the one that in few words says most that is new; the shortest first.

    What counts is `said`, as names of latents; the captions' own words where it is empty.
    """
    texts = {as_text(text): text for text in map(words, captions) if 0 < len(text) <= _MAX_WORDS}
    usual = median_low(map(len, texts.values())) if texts else 0
    texts = {caption: text for caption, text in texts.items() if len(text) >= usual}
    asked = [words(one) for one in dict.fromkeys(said)]
    left = {
        caption: {one for one in asked if says(text, one)} if asked else set(text) for caption, text in texts.items()
    }
    chosen: list[str] = []
    while left and len(chosen) < count:
        best = max(left, key=lambda caption: len(left[caption]) - len(texts[caption]) / _WORDS_FOR_ONE)
        news = left.pop(best)
        chosen.append(best)
        left = {caption: rest - news for caption, rest in left.items()}
    return sorted(chosen, key=len) or list(dict.fromkeys(filter(None, captions)))[:count]


def open_about(query: str, captions: Sequence[str]) -> str:
    """A caption of some six words that says neither the query nor what could stand in its place, if there is one."""
    phrase, texts = words(query), [words(caption) for caption in captions]
    others = [phrase, *alternatives(phrase, texts, most=12)]
    free = [text for text in texts if text and not any(says(text, other) for other in others)]
    return as_text(min(free or texts or [()], key=lambda text: abs(len(text) - 6)))

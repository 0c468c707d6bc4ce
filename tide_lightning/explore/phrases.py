"""Words in captions: which captions say a phrase, what else they could have said in its place.

A phrase is a tuple of words in lower case. Commas and other marks are words of their own, so that no phrase reaches
over them unnoticed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

Phrase = tuple[str, ...]

_WORD = re.compile(r"\w[\w'\-]*|[^\w\s]")
_MAX_LETTERS = 2000  # of a caption, beyond which words are not looked for


def words(text: str) -> Phrase:
    """The words and marks of a text, in lower case."""
    return tuple(_WORD.findall(text[:_MAX_LETTERS].lower()))


def is_mark(word: str) -> bool:
    """Whether a word is a punctuation mark."""
    return not (word[0].isalnum() or word[0] == "_")


def says(caption: Phrase, phrase: Phrase) -> bool:
    """Whether a caption's words hold the phrase."""
    return next(_places(caption, phrase), None) is not None


def replaced(caption: Phrase, phrase: Phrase, other: Phrase) -> str:
    """The caption with the first occurrence of a phrase replaced; "" words leave nothing behind."""
    start = next(_places(caption, phrase))
    return as_text((*caption[:start], *other, *caption[start + len(phrase) :]))


def as_text(caption: Phrase) -> str:
    """Words as a text, marks joined to the word before them."""
    return re.sub(r" ([,.;:!?)])", r"\1", " ".join(caption))


def alternatives(phrase: Phrase, captions: Sequence[Phrase], most: int = 4, least_overlap: float = 0.5) -> list[Phrase]:
    """Phrases of the same length that stand between the same words as this one, the most alike first.

    What stands on either side of a phrase makes a distribution; two phrases are alike by how far theirs overlap. So
    `red` is told to be one of several colours by nothing but captions.
    """
    around: dict[Phrase, Counter[tuple[str, str]]] = {}
    for caption in captions:
        for start, found in ngrams(caption, len(phrase)):
            around.setdefault(found, Counter())[_context(caption, start, len(phrase))] += 1
    own = around.pop(phrase, None)
    if own is None:
        return []
    alike = {other: _overlap(own, contexts) for other, contexts in around.items() if not set(other) & {",", "."}}
    ranked = sorted((other for other, share in alike.items() if share >= least_overlap), key=lambda o: -alike[o])
    return ranked[:most]


def neighbours(caption: Phrase, phrase: Phrase) -> Iterator[tuple[str, str]]:
    """What stands before and behind each occurrence of a phrase; "" at the ends."""
    return (_context(caption, start, len(phrase)) for start in _places(caption, phrase))


def ngrams(caption: Phrase, length: int) -> Iterator[tuple[int, Phrase]]:
    """All runs of so many words, with where each starts."""
    for start in range(len(caption) - length + 1):
        yield start, caption[start : start + length]


def _places(caption: Phrase, phrase: Phrase) -> Iterator[int]:
    return (start for start, found in ngrams(caption, len(phrase)) if found == phrase)


def _context(caption: Phrase, start: int, length: int) -> tuple[str, str]:
    end = start + length
    return (caption[start - 1] if start else "", caption[end] if end < len(caption) else "")


def _overlap(one: Counter[tuple[str, str]], other: Counter[tuple[str, str]]) -> float:
    first, second = one.total(), other.total()
    shared: Iterable[tuple[str, str]] = one.keys() & other.keys()
    return sum(min(one[key] / first, other[key] / second) for key in shared)

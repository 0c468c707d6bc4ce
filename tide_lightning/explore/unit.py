"""What 1x of a latent is, wherever it is found or steered: as far as its word moves it."""

from __future__ import annotations

from typing import NamedTuple

from tide_lightning.errors import UserError
from tide_lightning.explore.finder import PUSH, Callback, rise_by_word
from tide_lightning.explore.names import Key
from tide_lightning.explore.run import Run
from tide_lightning.intervene.amounts import full_amounts

_LEAST = 0.1  # of a push that can be seen, which is taken for a movement


class Unit(NamedTuple):
    """The amount that 1x is, in words what that is, and whether it is what the word does."""

    amount: float
    means: str
    is_by_word: bool = False


def unit_of(
    run: Run,
    key: Key,
    word: str = "",
    against: str | None = None,
    height: float = 0.0,
    callback: Callback | None = None,
) -> Unit:
    """1x of a latent.

    Args:
        run: an open run.
        key: the latent.
        word: what it was found by; its name unless given.
        against: what the word was told from.
        height: how high it fires by itself, which is 1x where there is no word.
        callback: called after each step where it has to be measured how far the word moves it.
    """
    site, latent = key
    seen = PUSH * float(full_amounts(run.sae(site))[latent])
    word = word or word_of(run, key)
    moved = _moved(run, key, word, against, callback) if word else None
    if moved is not None and moved >= _LEAST * seen:
        return Unit(moved, f"as far as the word “{word}” moves it", True)
    if moved is not None:
        return Unit(seen, f"a push that can be seen, for the word “{word}” hardly moves it")
    if height >= _LEAST * seen:
        return Unit(height, "as high as it fires by itself")
    return Unit(seen, "a push that can be seen, for it hardly fires in this image")


def word_of(run: Run, key: Key) -> str:
    """What a prompt says to ask for a latent by its name; "" where it has none."""
    return run.names[key].word if key in run.names else ""


def _moved(run: Run, key: Key, word: str, against: str | None, callback: Callback | None) -> float | None:
    try:
        return rise_by_word(run, key, word, against, callback)
    except UserError:  # the run's prompts are no longer where they were
        return None

"""Names that a user may have meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def near(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """The known names most like this one, whatever its capitals, the likest first; none where none is like it."""
    spelt = {one.lower(): one for one in known}
    return [spelt[one] for one in get_close_matches(name.lower(), spelt, most, 0.6)]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a complaint about a name: a question about those like it, or a full stop where none is."""
    found = near(name, known)
    return f"; did you mean {' or '.join(found)}?" if found else "."

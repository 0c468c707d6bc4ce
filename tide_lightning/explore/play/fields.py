"""A request's fields, whatever was sent: of the right kind and size, or a line that says what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tide_lightning.errors import UserError

_MAX_TEXT = 20_000


class Fields:
    """Reads the decoded JSON that the page sent; nothing in it is taken for granted."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self._request = request

    def __contains__(self, name: str) -> bool:
        return name in self._request

    def text(self, name: str, most: int = _MAX_TEXT, default: str = "") -> str:
        """A text of at most so many characters."""
        value = self._request.get(name, default)
        if not isinstance(value, str) or len(value) > most:
            raise UserError(f"{name}: give a text of at most {most} characters")
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise UserError(f"{name}: half a character (a lone surrogate) is no text")
        return value

    def number(self, name: str, low: float, high: float, default: float) -> float:
        """A finite number within bounds."""
        value = self._request.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{name}: give a number")
        if not low <= value <= high:  # whole numbers may have any number of digits, and NaN is nowhere
            raise UserError(f"{name}: give a number from {low:g} to {high:g}")
        return float(value)

    def whole(self, name: str, low: int, high: int, default: int = 0) -> int:
        """A whole number within bounds."""
        value = self.number(name, low, high, default)
        if value != int(value):
            raise UserError(f"{name} {value:g}: give a whole number")
        return int(value)

    def several(self, name: str, most: int) -> list[Fields]:
        """A list of objects."""
        value = self._request.get(name, [])
        if not isinstance(value, list) or len(value) > most or not all(isinstance(one, dict) for one in value):
            raise UserError(f"{name}: give a list of at most {most}")
        return [Fields(one) for one in value]

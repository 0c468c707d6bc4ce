"""What the parsers of all commands share: a complaint is one line, in our words, about what the user wrote."""

from __future__ import annotations

import re
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from tide_lightning.commands.mistakes import find_mistake
from tide_lightning.errors import UserError


class OneLineErrors(ArgumentParser):
    """A parser that says what is wrong in one line; one for the options of a nested class raises as it would."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Look at what the user wrote; where that finds nothing, shorten what the parser says."""
        if not self.exit_on_error:
            super().error(message, ex)
        cause: BaseException | None = ex
        while cause is not None:
            if isinstance(cause, UserError):
                raise cause
            cause = cause.__cause__
        args: list[Any] = list(getattr(self, "args", None) or [])
        raise UserError(find_mistake(self, args) or self._stray(message) or shortened(message)) from ex

    def _stray(self, message: str) -> str | None:
        """Where the complaint is of a word too many."""
        stray = re.match("unrecognized arguments: (.+)", message)
        belongs = f"options have names, and what has several words stands in quotes; see `{self.prog} --help`"
        return f"{stray[1]!r} stands alone: {belongs}" if stray else None


def shortened(message: str) -> str:
    """A parser's complaint without its Python, in one line."""
    text = re.sub(r'Parser key "([^"]+)":', r"\1:", message)
    text = re.sub(r"Does not validate against any of the Union subtypes\s+Subtypes:.*?\n", "", text)
    text = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", text).replace("typing.", "").replace("NoneType", "null")
    optional = re.search(r"^(\S+:\s+)?Errors:\s+- (.*?)\s+- Expected a null\s", text.strip(), re.DOTALL)
    return " ".join(((optional[1] or "") + optional[2] if optional else text).split())

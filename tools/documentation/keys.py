"""The options of a parser and the arguments of a class as a table: key, type, default, meaning."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from tide_lightning.commands.parameters import Parameter

LONGEST_MEANING = 400
"""Letters of a meaning; Lightning's own go on with cases."""


def table(parameters: Iterable[Parameter], without: str = "") -> str:
    """A Markdown table; `without` is cut from the beginning of keys."""
    rows = [
        f"| `{one.key.removeprefix(without)}` | `{_type(one.hint)}` | `{_default(one.default)}` | {_plain(one.help)} |"
        for one in parameters
    ]
    return "\n".join(["| key | type | default | meaning |", "| --- | --- | --- | --- |", *rows]) + "\n"


def _type(hint: Any) -> str:
    if isinstance(hint, type):
        return hint.__name__
    text = re.sub(r"\b(?:[a-z_][\w]*\.)+", "", str(hint))
    text = re.sub(r"Optional\[([^\[\]]*)\]", r"\1 | None", text)
    return re.sub(r"Union\[([^\[\]]*)\]", lambda found: found[1].replace(", ", " | "), text).replace("NoneType", "None")


def _default(default: Any) -> str:
    """As YAML has it."""
    if default is None or isinstance(default, bool):
        return {None: "null", True: "true", False: "false"}[default]
    return f"{default.__module__}.{default.__qualname__}" if isinstance(default, type) else str(default)


def _plain(meaning: str) -> str:
    """Markdown of a docstring: roles and double backticks become code, what is no code is shown as it is."""
    if len(meaning) > LONGEST_MEANING:
        meaning = meaning[: meaning.rfind(". ", 0, LONGEST_MEANING) + 1 or LONGEST_MEANING] + " …"
    meaning = re.sub(r":\w+:`~?([^`<]*?)(?: <[^`]*>)?`", r"`\1`", meaning).replace("``", "`")
    parts = meaning.split("`")
    prose = [re.sub(r"([*_<\[|])", r"\\\1", part) for part in parts[::2]]
    code = [f"`{part}`" for part in parts[1::2]] + [""]
    return "".join(part for pair in zip(prose, code, strict=False) for part in pair)

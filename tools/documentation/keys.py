"""Every option of a parser and every argument of a class as a table: name, type, default, meaning."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from jsonargparse.typehints import ActionTypeHint
from jsonargparse.util import get_import_path  # type: ignore[attr-defined]
from lightning.pytorch.cli import LightningArgumentParser


class Key(NamedTuple):
    """An option, as it is written in YAML or behind two dashes."""

    name: str
    type: str
    default: str
    meaning: str


def keys_of(parser: LightningArgumentParser) -> Iterator[Key]:
    """The options of a parser, in its order; those that only load files or show help are left out."""
    for action in parser._actions:
        if not isinstance(action, ActionTypeHint):
            continue
        hint = action._typehint
        yield Key(action.dest, _type(hint), _default(action), " ".join(str(action.help or "").split()))


def keys_of_class(one: type) -> list[Key]:
    """The arguments of a class, as they stand below its `init_args`."""
    parser = LightningArgumentParser()
    parser.add_class_arguments(one, fail_untyped=False, sub_configs=False)
    return list(keys_of(parser))


def table(keys: Iterable[Key], without: str = "") -> str:
    """A Markdown table; `without` is cut from the beginning of names."""
    rows = [
        f"| `{key.name.removeprefix(without)}` | `{key.type}` | `{key.default}` | {_plain(key.meaning)} |"
        for key in keys
    ]
    return "\n".join(["| key | type | default | meaning |", "| --- | --- | --- | --- |", *rows]) + "\n"


def _type(hint: Any) -> str:
    if isinstance(hint, type):
        return hint.__name__
    text = re.sub(r"\b(?:[a-z_][\w]*\.)+", "", str(hint))
    text = re.sub(r"Optional\[([^\[\]]*)\]", r"\1 | None", text)
    return re.sub(r"Union\[([^\[\]]*)\]", lambda found: found[1].replace(", ", " | "), text).replace("NoneType", "None")


def _default(action: ActionTypeHint) -> str:
    default = action.default
    if getattr(action, "required", False) and default is None:
        return "(required)"
    if isinstance(default, type):
        return get_import_path(default) or default.__name__
    if default is None or isinstance(default, bool):
        return {None: "null", True: "true", False: "false"}[default]
    return str(default)


def _plain(meaning: str) -> str:
    """Markdown of a docstring: roles and double backticks become code, what is no code is shown as it is."""
    meaning = re.sub(r":\w+:`~?([^`<]*?)(?: <[^`]*>)?`", r"`\1`", meaning).replace("``", "`")
    parts = meaning.split("`")
    prose = [re.sub(r"([*_<\[|])", r"\\\1", part) for part in parts[::2]]
    return "".join(
        part for pair in zip(prose, [f"`{code}`" for code in parts[1::2]] + [""], strict=False) for part in pair
    )

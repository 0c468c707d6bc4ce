"""`--help` of the commands that take a run's YAML: by groups, ours first. `--help_all` has the rest.

Their parsers take seconds to import, so what they say lies in help.json; see `described.py`.
"""

from __future__ import annotations

import json
import shutil
import textwrap
from importlib.resources import files
from typing import NamedTuple

STORED = "help.json"


class Section(NamedTuple):
    """A group of options (name and meaning) under a title, and what stands before each name."""

    title: str
    prefix: str
    options: list[tuple[str, str]]


def short_help(command: str, line: str) -> str:
    """The help of a command: what a user of SAEs asks for, an option a line."""
    text = [f"usage: tide {command} [--config NAME or FILE] [--OPTION VALUE …]", "", line, ""]
    for section in stored_sections(command):
        text += _listed(section)
    return "\n".join(
        [
            *text,
            f"`tide {command} --help_all` lists every option, the trainer's and the checkpoints' among them.",
            "Each can stand in a YAML file by the same name, and in several files, one over the other.",
        ]
    )


def stored_sections(command: str) -> list[Section]:
    """What help.json has of a command."""
    stored = json.loads((files("tide_lightning.commands") / STORED).read_text("utf-8"))
    return [Section(title, prefix, [(name, about) for name, about in rows]) for title, prefix, rows in stored[command]]


def _listed(section: Section) -> list[str]:
    """A heading and its options, each with what it takes, what it means and its default."""
    title, prefix, options = section
    width = min(shutil.get_terminal_size((110, 24)).columns, 130)
    shown = "" if title else prefix
    column = min(34, 4 + max(len(shown) + len(name) for name, _ in options))
    lines = [f"{title}  ({prefix}NAME)" if title else "Options"]
    for name, about in options:
        head = f"  {shown}{name}"
        if len(head) >= column:
            lines.append(head)
            head = ""
        lines += textwrap.wrap(
            about, width, initial_indent=head.ljust(column), subsequent_indent=" " * column, break_long_words=False
        )
    return [*lines, ""]

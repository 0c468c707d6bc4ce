"""Commands that take a run's YAML, as far as their parsers."""

from __future__ import annotations

import os
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from tide_lightning.commands.configured import TideCLI


class _ParserMadeError(Exception):
    """Ends the making of a command where its parser is whole."""


class _Unparsed(TideCLI):
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> NoReturn:
        raise _ParserMadeError(self)


def unparsed(command: str) -> TideCLI:
    """A command that has parsed nothing yet."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's own calls
    try:
        _Unparsed(command, [])
    except _ParserMadeError as made:
        cli: TideCLI = made.args[0]
        return cli
    raise AssertionError("a command that does not parse its arguments")


def parser_of(command: str) -> LightningArgumentParser:
    """A command's parser."""
    parser: LightningArgumentParser = unparsed(command).parser
    return parser

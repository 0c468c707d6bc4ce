"""A command that is a function: its signature is the command line, its docstring the help."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pkgutil import resolve_name

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser

from tide_lightning.command_line import raise_flags
from tide_lightning.commands import COMMANDS
from tide_lightning.commands.parsing import OneLineErrors
from tide_lightning.commands.signature import signature_of


class FunctionParser(OneLineErrors, ArgumentParser):
    """A parser whose complaints are one line."""


def run_command(name: str, args: list[str]) -> None:
    """Run a command with its arguments; what it imports is imported once these are understood."""
    function = signature_of(COMMANDS[name].function)
    parameters = list(inspect.signature(function).parameters.values())
    flags = tuple(f"--{one.name}" for one in parameters if one.default is False)
    values = vars(command_parser(f"tide {name}", function).parse_args(raise_flags(args, flags)))
    several = [one for many in _many(function) for one in values.pop(many)]
    resolve_name(COMMANDS[name].function)(*several, **values)


def command_parser(prog: str, function: Callable[..., None]) -> FunctionParser:
    """The parser of a function's arguments; `*parameter` takes one or more."""
    documented = parse_docstring(inspect.getdoc(function) or "")
    described = documented.short_description or ""
    parser = FunctionParser(prog=prog, description=described, allow_abbrev=False)
    for name in _many(function):
        about = next((one.description for one in documented.params if one.arg_name == f"*{name}"), None)
        parser.add_argument(name, nargs="+", type=str, help=about, metavar=name.upper())
    parser.add_function_arguments(function, as_positional=True, fail_untyped=True, sub_configs=False)
    return parser


def _many(function: Callable[..., None]) -> list[str]:
    """The names of `*parameters`."""
    return [one.name for one in inspect.signature(function).parameters.values() if one.kind is one.VAR_POSITIONAL]

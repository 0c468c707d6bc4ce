"""The commands of `tide`: those that take a run's YAML, by name, and those that are a function and no more.

The signature of such a function is its command line; it is imported only when its command is given. Parameters without
a default are positional, `*runs: str` takes one or more, a `bool` with default False is a flag that needs no value; the
docstring is the help.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pkgutil import resolve_name
from typing import NamedTuple, NoReturn

from docstring_parser import parse as parse_docstring
from lightning.pytorch.cli import LightningArgumentParser

from tide_lightning import __version__
from tide_lightning.command_line import raise_flags
from tide_lightning.errors import UserError
from tide_lightning.moved import moved_in


class Command(NamedTuple):
    """A command that `tide --help` lists.

    Fields:
        function: where it is, as "module:name".
        help: a line about it.
    """

    function: str
    help: str


LIGHTNING = {
    "fit": "Train SAEs at the sites that a config names.",
    "validate": "Measure a run's reconstruction on its validation tokens.",
    "test": "Measure a run on held-out samples; write metrics.json and a report.",
    "predict": "Write the codes of held-out samples to disk.",
}
"""Methods of Lightning's trainer."""

LOOKS = {
    "sites": "Print the sites of a config, with their shapes.",
    "plan": "Print what a fit would cost.",
}
"""What a config means: these train nothing and write nothing."""

COMMANDS: dict[str, Command] = {
    "adopt": Command("tide_lightning.sharing.adopting:adopt", "Make a run of other people's SAEs."),
    "atlas": Command("tide_lightning.explore.atlas.build:atlas", "Show every latent: images, times, words."),
    "compare": Command("tide_lightning.evaluation.comparison.command:compare", "Set tested runs beside each other."),
    "erase": Command("tide_lightning.explore.erasure_command:erase_concept", "Suppress a concept; see the cost."),
    "export": Command("tide_lightning.sharing.exporting:export", "Write SAEs for other libraries."),
    "find": Command("tide_lightning.explore.find_command:find", "Find latents by words, prompts or images."),
    "play": Command("tide_lightning.explore.play.command:play", "Open a local page to search and steer latents."),
    "publish": Command("tide_lightning.sharing.publishing:publish", "Publish a run on the hub, with a model card."),
    "steer": Command("tide_lightning.explore.steer_command:steer_run", "Steer latents; see what changes."),
    "style": Command("tide_lightning.explore.style_command:transfer", "Draw a prompt in another's style."),
}


class TideParser(LightningArgumentParser):
    """A parser whose complaints are one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong in one line."""
        raise UserError(" ".join((moved_in(message) or message).split())) from ex


def explain(args: list[str]) -> None:
    """Answer what names no command: `--help`, `--version`, and mistakes."""
    parser = TideParser(prog="tide", version=__version__, description="Sparse autoencoders for diffusion transformers.")
    listed = parser.add_subcommands(required=True, dest="command")
    for name, line in [*LIGHTNING.items(), *LOOKS.items(), *((name, one.help) for name, one in COMMANDS.items())]:
        listed.add_subcommand(name, TideParser(), help=line)
    parser.parse_args(args)


def run_command(name: str, args: list[str]) -> None:
    """Run a command with its arguments."""
    function: Callable[..., None] = resolve_name(COMMANDS[name].function)
    parameters = list(inspect.signature(function).parameters.values())
    flags = tuple(f"--{one.name}" for one in parameters if one.default is False)
    many = next((one.name for one in parameters if one.kind is one.VAR_POSITIONAL), None)
    values = vars(command_parser(f"tide {name}", function, many).parse_args(raise_flags(args, flags)))
    several = values.pop(many) if many else []
    function(*several, **values)


def command_parser(prog: str, function: Callable[..., None], many: str | None) -> TideParser:
    """The parser of a function's arguments; `many` names its `*parameter`."""
    documented = parse_docstring(inspect.getdoc(function) or "")
    parser = TideParser(prog=prog, description=documented.short_description or "")
    if many is not None:
        about = next((one.description for one in documented.params if one.arg_name == f"*{many}"), None)
        parser.add_argument(many, nargs="+", type=str, help=about, metavar=many.upper())
    parser.add_function_arguments(function, as_positional=True, fail_untyped=True, sub_configs=False)
    return parser

"""Pages of the reference that are written from signatures: the commands of `tide`, and the keys of its YAML."""

from __future__ import annotations

import inspect
from pkgutil import resolve_name
from types import ModuleType

from docstring_parser import parse as parse_docstring

from tide_lightning import benchmark, callbacks, datamodules, evaluation, saes
from tide_lightning.commands import COMMANDS, LIGHTNING, LOOKS
from tide_lightning.commands.function import command_parser
from tide_lightning.commands.parameters import Parameter, class_parameters, parameters_of
from tools.documentation.keys import table
from tools.parsers import parser_of

CALLBACKS = ("ResampleDeadLatents", "MonitorFeatures", "KeepPredictions")


def commands_page() -> str:
    """Every command: what it does, how it is called, its options."""
    text = [
        "# Commands",
        "Written from signatures when this site is built. `tide COMMAND --help` prints the same.",
        "The first six commands take a run's YAML: `--config NAME_OR_FILE`, several of which are laid over one another,"
        " and any key of it as an option (`--data.source denoise`). [All keys](keys.md).",
    ]
    shared = set(parameters_of(parser_of("fit")))
    for name, line in (LIGHTNING | LOOKS).items():
        own = [one for key, one in parameters_of(parser_of(name)).items() if key not in shared or key == "ckpt_path"]
        text += [f"## tide {name}", line, table(own) if own else ""]
    for name, command in COMMANDS.items():
        function = resolve_name(command.function)
        described = parse_docstring(inspect.getdoc(function) or "")
        options = parameters_of(command_parser(f"tide {name}", function)).values()
        text += [
            f"## tide {name}",
            described.short_description or command.help,
            described.long_description or "",
            table(options),
        ]
    return "\n\n".join(text) + "\n"


def keys_page() -> str:
    """Every key of a run's YAML."""
    fit = list(parameters_of(parser_of("fit")).values())
    test = list(parameters_of(parser_of("test")).values())

    def below(prefix: str, keys: list[Parameter] = fit) -> str:
        return table((one for one in keys if one.key.startswith(prefix + ".")), prefix + ".")

    sections = ("data", "model", "trainer", "checkpoint", "export", "progress", "evaluation")
    alone = [one for one in fit if one.key.split(".")[0] not in (*sections, "optimizer", "lr_scheduler", "config")]
    text = [
        "# YAML keys",
        "Written from signatures and docstrings when this site is built. A key is written below its section"
        " (`data:` and then `  source: noise`) or, on a command line, with dots (`--data.source noise`)."
        " Where a type is a class, write `class_path` and `init_args`.",
        "## The run",
        table(alone),
        "## data",
        "What activations are read, from which denoiser, on which images and prompts.",
        below("data"),
        "## model",
        "The SAEs and how they are trained.",
        below("model"),
    ]
    kinds = [name for name in saes.__all__ if name.endswith("SAE") and name != "SAE"]
    for name in sorted(kinds, key=lambda name: name != "TideSAE"):
        text += _class_section("### ", saes, name, num_given=1)
    text += ["## trainer", "Lightning's own trainer; its callbacks of ours follow.", below("trainer")]
    for name in CALLBACKS:
        text += _class_section("### ", callbacks, name)
    text += _class_section("### ", benchmark, "GroundBenchmark")
    for name in ("ImageFolder", "HubImages"):
        text += _class_section("## Images: ", datamodules, name)
    text += [
        "## evaluation",
        _first_line(evaluation.EvaluateProtocol),
        below("evaluation", test),
        "## export",
        _first_line(callbacks.ExportSAEs),
        below("export"),
        "## progress",
        _first_line(callbacks.ShowProgress),
        below("progress"),
        "## checkpoint",
        "Lightning's `ModelCheckpoint`.",
        below("checkpoint"),
    ]
    return "\n\n".join(text) + "\n"


def _class_section(head: str, package: ModuleType, name: str, num_given: int = 0) -> list[str]:
    """A class by its path, and its arguments without those that it is given."""
    one = getattr(package, name)
    path = f"`class_path: {package.__name__}.{name}`"
    return [f"{head}{name}", path, _first_line(one), table(class_parameters(one, num_given).values())]


def _first_line(one: type) -> str:
    return parse_docstring(inspect.getdoc(one) or "").short_description or ""

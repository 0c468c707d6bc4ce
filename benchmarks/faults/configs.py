"""Mutated configs through one parser, and what they configure: made, or refused in one line; nothing is passed over."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import yaml

from benchmarks.faults.fits import Reference, fresh
from benchmarks.faults.trial import Trial, in_a_line, limit_memory
from tide_lightning.cli import mistake_in
from tide_lightning.command_line import packaged_configs, resolve_configs
from tide_lightning.commands.configured import TideCLI
from tide_lightning.runs import leave_runs
from tools.parsers import unparsed

GOAL, SECONDS = 2000, 300
_MOST_SECONDS = 30  # for one config

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 7, 10**9, -(10**12), 10**30, 0.5, -0.5, 1.5, 1e-30, 1e30, 1e308,
    math.nan, math.inf, -math.inf, "", " ", "a", "0", "-1", "1e5", "null", "yes", "16-mixed", "auto", "\0", "\u2028",
    "é" * 300, "../../etc/passwd", "/dev/null", "/dev/zero", "a" * 5000, "${HOME}", "!!python/object:os.system",
    [], [1], [[]], ["a", "b"], [None], {}, {"a": 1}, {"class_path": "os.system", "init_args": {}},
    {"class_path": "nowhere.At_all"}, {"class_path": "tide_lightning.saes.TideSAE"}, {"class_path": 7},
    {"init_args": {}},
]  # fmt: skip

TEXTS = [
    "a: &a [*a]\n",
    "a: &a {b: *a}\n",
    "x0: &x0 [1, 1]\n" + "".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]\n" for i in range(1, 9)),
    "[" * 3000,
    "{a: " * 3000,
    "\t- a",
    "a: b: c",
    "- a\n- b\n",
    "just words",
    "---\na: 1\n---\nb: 2\n",
    "%YAML 9.9\n---\na: 1\n",
    "a: !!python/object/apply:os.system ['true']\n",
    "\ufeffrun_name: debug\n",
    "a: 1\na: 2\n",
    "? [a, b]\n: c\n",
    "a: 0x" + "f" * 5000,
    "a: " + "9" * 5000,
    "a: 1_000:59:59\n",
    "a: 2026-99-99\n",
    "",
]


class Parser(NamedTuple):
    """`tide fit`, as far as its parser, and the configs that are mutated."""

    cli: TideCLI
    configs: list[dict[str, Any]]


def prepare(reference: Reference, folder: Path) -> Parser:
    """The parser of `tide fit`, and configs that are whole."""
    limit_memory()
    fresh(folder)
    os.chdir(folder)
    logging.getLogger("tide_lightning").setLevel(logging.WARNING)  # what a fit runs on is of no interest here
    cli = unparsed("fit")
    cli.subcommand = None  # as the constructor has it in the end
    names = ("debug", "quickstart")  # others stand on top of these
    return Parser(cli, [yaml.safe_load(packaged_configs()[name].read_text("utf-8")) for name in names])


def attempt(parser: Parser, draw: Random, folder: Path) -> Trial:
    """Mutate, parse, build."""
    path = folder.with_suffix(".yaml")
    what, place, value = _write(parser, draw, path)
    said = io.StringIO()
    try:
        with _at_most(_MOST_SECONDS), contextlib.redirect_stderr(said):
            args = resolve_configs([f"--config={path}"])
            cli = parser.cli
            TideCLI.parse_arguments(cli, cli.parser, args)
            cli.before_instantiate_classes()
            missed = None if place is None or _took(cli.config, place, value) else f"{value!r} is passed over"
            cli.instantiate_classes()
    except TimeoutError:
        return Trial("traceback", f"{what}: no answer within {_MOST_SECONDS} s")
    except BaseException as error:
        told = mistake_in(error)
        return Trial(
            "traceback" if told is None else "refused", f"{what}: {in_a_line(error if told is None else told)}"
        )
    finally:
        leave_runs()
    return Trial("wrong", f"{what}: {missed}") if missed else Trial("survived", what)


def _write(parser: Parser, draw: Random, path: Path) -> tuple[str, tuple[Any, ...] | None, Any]:
    """A config with one thing wrong: what, where and which value."""
    config = copy.deepcopy(draw.choice(parser.configs))
    kind = draw.choice(["value"] * 6 + ["key", "missing", "bytes", "text"])
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    if kind in ("value", "key", "missing"):
        place = draw.choice([place for place in _places(config) if place])
        inner = config
        for key in place[:-1]:
            inner = inner[key]
        dotted = ".".join(map(str, place))
        if kind == "missing":
            del inner[place[-1]]
            what, found, value = f"without {dotted}", None, None
        elif kind == "key":
            value, found = draw.choice(VALUES), None
            if isinstance(inner, dict):
                inner[draw.choice(["", "nowhere", "lr", "k", "\0", "class_path", "init_args", "é"])] = value
            what = f"a key beside {dotted}: {value!r:.60}"
        else:
            value, found = draw.choice(VALUES), place
            inner[place[-1]] = value
            what = f"{dotted}: {value!r:.60}"
        path.write_bytes(yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass"))
        return what, found, value
    if kind == "text":
        odd = draw.choice(TEXTS)
        path.write_text(odd + draw.choice(["", text]), "utf-8")
        return f"a text {odd!r:.50}", None, None
    content = bytearray(text.encode())
    for _ in range(draw.choice([1, 3, 30])):
        content[draw.randrange(len(content))] = draw.randrange(256)
    path.write_bytes(content)
    return f"bytes changed ({path.name})", None, None


def _places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield above
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in parts:
        yield from _places(inner, (*above, key))


def _took(config: Any, place: tuple[Any, ...], value: Any) -> bool:
    """Whether what was parsed holds the value, be it as another type; containers are merged and not compared."""
    if isinstance(value, dict | list) or value is None:
        return True
    found = config
    for key in place:
        try:
            found = found[key]
        except (KeyError, IndexError, TypeError, AttributeError):
            return True  # parsed into something else
    if isinstance(found, bool | int | float) and isinstance(value, bool | int | float):
        return float(found) == float(value)
    if isinstance(found, int | float) and isinstance(value, str):
        return float(found) == float(yaml.safe_load(value))
    return str(found) == str(value) or not isinstance(found, str | int | float)


@contextlib.contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    def late(number: int, frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)

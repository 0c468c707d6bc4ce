"""YAML that people or strangers wrote, and the settings in it, looked at before anything is made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import is_dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import yaml

from tide_lightning.errors import UserError

MOST_VALUES = 100_000
"""In a text whose aliases are written out."""

_PRECISIONS = {
    "16-true": "float16 overflows at 65,504",
    "bf16-true": "in bfloat16 an Adam step below 6e-5 vanishes, and timesteps are rounded",
    "64-true": "kernels sum in float32 or better by themselves, and the denoiser's activations are not in float64",
    "64": "kernels sum in float32 or better by themselves, and the denoiser's activations are not in float64",
}


def read_yaml(path: Path, what: str) -> object:
    """What a file says, as plain values."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{what}: not UTF-8 (byte {error.start} is {error.object[error.start]:#04x})") from error
    except OSError as error:
        raise UserError(f"{what}: {error.strerror}") from error
    check_yaml(text, what)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a tag of its own, an endless number, no such date
        raise UserError(f"{what}: not plain YAML: {' '.join(str(error).split())}") from error


def check_options(value: object, key: str) -> None:
    """Refuse what stands where options with names belong, or leaves them empty."""
    if value is None:
        raise UserError(f"{key} is empty: write below it what it holds, or leave it out")
    if isinstance(value, str | int | float | list):
        raise UserError(f"{key}: {str(value)[:60]} stands where options belong")


def check_groups(of: Callable[..., object], options: Any, prefix: str) -> None:
    """Refuse the same where a function's or class's parameter holds options of its own: a dataclass."""
    for name, parameter in signature(of).parameters.items():
        if is_dataclass(parameter.default) and name in options:
            check_options(options[name], f"{prefix}{name}")


def check_yaml(text: str, what: str) -> None:
    """Refuse what is no YAML, and what would never end: an alias within itself, or aliases that multiply."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        count = 0 if node is None else _expanded(node, {}, set(), what)
    except yaml.YAMLError as error:
        raise UserError(f"{what}: not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise UserError(f"{what}: nested too deeply") from error
    if count > MOST_VALUES:
        raise UserError(f"{what}: its aliases multiply to more than {MOST_VALUES:,} values")


def _expanded(node: yaml.Node, known: dict[int, int], above: set[int], what: str) -> int:
    """How many values a node holds with its aliases written out."""
    key = id(node)
    if key in above:
        raise UserError(f"{what}: an alias refers to itself, line {node.start_mark.line + 1}")
    if key not in known:
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            parts = node.value
        known[key] = 1 + sum(_expanded(part, known, above | {key}, what) for part in parts)
    return known[key]


def check_settings(settings: object, name: str = "") -> None:
    """Refuse what no setting can be: text with a NUL, numbers that are not finite, precisions that lose training."""
    if isinstance(settings, str) and "\0" in settings:
        raise UserError(f"{name}: {settings!r} holds a NUL, which no path and no name may")
    if isinstance(settings, float) and not math.isfinite(settings):
        raise UserError(f"{name}: {settings} is not a number to work with")
    if name == "trainer.precision" and (reason := _PRECISIONS.get(str(settings))) is not None:
        raise UserError(f"--trainer.precision {settings}: {reason}; take 32-true, or bf16-mixed")
    parts: Iterable[tuple[object, object]] = ()
    if isinstance(settings, dict):
        parts = settings.items()
    elif isinstance(settings, list):
        parts = enumerate(settings)
    for key, part in parts:
        check_settings(part, f"{name}.{key}" if name else str(key))

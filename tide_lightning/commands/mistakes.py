"""What is wrong with what a user wrote, found once a parser has refused it.

A parser speaks of Unions and Namespaces. Here the same settings are walked again beside the options that there are, to
say which key is meant, by its whole name, and what it may be. Whatever is not understood is left to the parser's words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from tide_lightning.commands.parameters import (
    Parameter,
    alternatives,
    base_classes,
    class_named,
    class_parameters,
    fits,
    in_words,
    item_hint,
    num_given,
    parameters_of,
    value_hint,
)
from tide_lightning.errors import UserError
from tide_lightning.near import near
from tide_lightning.yaml_text import read_yaml

_MOST_LISTED = 30
_SPEC = ("class_path", "init_args", "dict_kwargs")
_SILENT = ("help", "help_all", "print_config")  # options that are no settings


def find_mistake(parser: ArgumentParser, args: Sequence[str]) -> str | None:
    """The first setting in these arguments, and in the configs that they name, that cannot be meant."""
    known = {key: one for key, one in parameters_of(parser).items() if not one.is_positional}
    is_configured = any(action.dest == "config" for action in parser._actions)
    try:
        settings, strays = written(args)
        for mistake in _in_group(settings, "", known, "" if is_configured else "--"):
            return mistake
    except UserError as error:
        return str(error)
    if is_configured and strays:
        return f"{strays[0]!r} stands alone; a config is named by --config {strays[0]}"
    return None


def written(args: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The settings that arguments make, a later one over an earlier one, and arguments that belong to none."""
    tree: dict[str, Any] = {}
    strays = []
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        if not arg.startswith("-") or arg == "--":
            strays.append(arg)
            continue
        name, has_value, text = arg.partition("=")
        name = name.lstrip("-")
        if not has_value:
            is_alone = not rest or rest[0].startswith("--") or name in _SILENT
            text = "null" if is_alone else rest.pop(0)
        if name in ("config", "c"):
            config = read_yaml(Path(text), f"--config {text}")
            if isinstance(config, dict) and len(config) == 1 and None in config.values():  # text, to the parser
                raise UserError(f"--config {text}: {next(iter(config))} is empty: write what it is, or leave it out")
            tree = _merged(tree, config) if isinstance(config, dict) else tree
        elif name.split(".")[-1] not in _SILENT:
            _put(tree, name.rstrip("+").split("."), _plain(text), name.endswith("+"))
    return tree, strays


def _plain(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Two trees of settings; where another class is named, nothing is left of the first one's arguments."""
    if _name(above.get("class_path")) != _name(below.get("class_path")) and "class_path" in above:
        return above
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _name(path: object) -> str:
    return str(path).rpartition(".")[2]


def _put(tree: dict[str, Any], parts: list[str], value: Any, is_added: bool) -> None:
    """Set what `--a.b.c value` sets; below a list, of its last item."""
    for part in parts[:-1]:
        inner = tree.get(part)
        if isinstance(inner, list) and inner and isinstance(inner[-1], dict):
            inner = inner[-1]
        elif isinstance(inner, str):
            inner = {"class_path": inner}
        if not isinstance(inner, dict):
            inner = {}
        if not isinstance(tree.get(part), list):
            tree[part] = inner
        tree = inner
    old = tree.get(parts[-1])
    if is_added:
        value = [*(old if isinstance(old, list) else []), *(value if isinstance(value, list) else [value])]
    elif isinstance(old, dict) and isinstance(value, dict):
        value = _merged(old, value)
    tree[parts[-1]] = value


def _in_group(settings: dict[str, Any], group: str, known: dict[str, Parameter], shown: str = "") -> Iterator[str]:
    """Mistakes in the settings of a group of options, whose keys begin with `group` and are shown behind `shown`."""
    for name, value in settings.items():
        key = f"{group}{name}"
        if key in known:
            yield from _in_value(value, shown + key, known[key].hint)
        elif any(one.startswith(f"{key}.") for one in known):
            if isinstance(value, dict):
                yield from _in_group(value, f"{key}.", known, shown)
            elif value is None:
                yield f"{shown}{key} is empty: write below it what it holds, or leave it out"
            elif not Path(str(value)).is_file():
                yield f"{shown}{key}: {value!r} holds options: write them below it. {_inside(key, known)}"
        elif key not in ("config", *_SILENT):
            yield _unknown(key, group, known, shown)


def _unknown(key: str, group: str, known: dict[str, Parameter], shown: str) -> str:
    """A key that is none, the keys that may be meant, and those that there are."""
    name = key[len(group) :]
    elsewhere = [one for one in [*known, *_of_sae(known)] if one.rpartition(".")[2] == name.rpartition(".")[2]]
    like = [f"{group}{one}" for one in near(name, _children(group, known))]
    like = like or [one for one in elsewhere if one.startswith(group)] or elsewhere
    like = [f"{shown}{one}" for one in like] if shown == "--" else like
    question = f"; did you mean {' or '.join(like)}?" if like else "."
    return f"{shown}{key}: there is no such option{question} {_inside(group.rstrip('.'), known)}"


def _children(group: str, known: dict[str, Parameter]) -> list[str]:
    return list(dict.fromkeys(key[len(group) :].split(".")[0] for key in known if key.startswith(group)))


def _inside(group: str, known: dict[str, Parameter]) -> str:
    names = _children(f"{group}." if group else "", known)
    if len(names) > _MOST_LISTED:
        return "--help_all lists them all"
    return f"There are {', '.join(names)}"


def _of_sae(known: dict[str, Parameter]) -> list[str]:
    """Options that an SAE's class has, where a command takes SAEs."""
    if "model.sae" not in known:
        return []
    hint = known["model.sae"].hint
    bases = base_classes(alternatives(hint))
    classes = [known["model.sae"].default] if isinstance(known["model.sae"].default, dict) else []
    named = [class_named(one["class_path"], bases, "model.sae") for one in classes if "class_path" in one]
    given = num_given(alternatives(hint))
    return [f"model.sae.init_args.{name}" for cls in named for name in class_parameters(cls, given)]


def _in_value(value: Any, key: str, hint: Any) -> Iterator[str]:
    """Mistakes in one option's value."""
    options = alternatives(hint)
    bases, item, named = base_classes(options), item_hint(options), value_hint(options)
    plain = [one for one in options if not base_classes([one])]
    if value is None or (not isinstance(value, list | dict) and any(fits(value, one) for one in plain)):
        return
    if isinstance(value, list) and item is not None:
        for place, one in enumerate(value):
            yield from _in_value(one, f"{key}[{place}]", item)
    elif isinstance(value, dict) and bases:
        yield from _in_class(value, key, bases, num_given(options))
    elif isinstance(value, dict) and named is not None:
        for name, one in value.items():
            yield from _in_value(one, f"{key}.{name}", named)
    elif isinstance(value, str) and bases and "/" not in value and not Path(value).exists():
        class_named(value, bases, key)
    elif bases:
        yield f"{key}: {value!r} stands where a class belongs: write {{class_path: NAME, init_args: {{…}}}}"
    elif not any(fits(value, one) for one in options):
        if item is not None and not isinstance(value, dict):
            yield f"{key}: {value!r} stands where a list belongs; write [{value}]"
        else:
            yield f"{key}: {value!r} is not {in_words(hint)}"


def _in_class(value: dict[str, Any], key: str, bases: Sequence[type], num_filled_in: int) -> Iterator[str]:
    """Mistakes in a class and its arguments, of which the first ones are not the user's to give."""
    path = value.get("class_path")
    if not isinstance(path, str | None):
        yield f"{key}.class_path: {path!r} is not the name of a class"
        return
    cls = bases[0] if path is None else class_named(path, bases, key)
    given = value.get("init_args") or {}
    if not isinstance(given, dict):
        yield f"{key}.init_args: {given!r} stands where options of {cls.__name__} belong"
        return
    stray = {name: one for name, one in value.items() if name not in _SPEC}
    yield from _in_group(given | stray, "", class_parameters(cls, num_filled_in), f"{key}.init_args.")

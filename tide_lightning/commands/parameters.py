"""What the options of a command are, and those of the classes that an option names, from jsonargparse's own parsers."""

from __future__ import annotations

import collections.abc
import inspect
import types
from argparse import SUPPRESS
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from jsonargparse import ArgumentParser

from tide_lightning.class_paths import import_named
from tide_lightning.errors import UserError
from tide_lightning.near import did_you_mean

_LISTS = (list, tuple, set, collections.abc.Sequence, collections.abc.Iterable)
_MAPPINGS = (dict, collections.abc.Mapping)
_PLAIN = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


class Parameter(NamedTuple):
    """An option by its whole key (`data.loading.dtype`): type, default, meaning, and whether it needs no name."""

    key: str
    hint: Any
    default: Any
    help: str
    is_positional: bool


def parameters_of(parser: ArgumentParser) -> dict[str, Parameter]:
    """The options of a parser by key; none that only print something, or that are linked and not the user's to give."""
    found = {}
    for action in parser._actions:
        hint = getattr(action, "_typehint", action.type)
        if hint is None or action.default == SUPPRESS:
            continue
        help_text = " ".join(str(action.help or "").split()).replace("%%", "%")
        is_positional = not action.option_strings
        found[action.dest] = Parameter(action.dest, hint, action.default, help_text, is_positional)
    return found


@cache
def class_parameters(cls: Any, num_filled_in: int = 0) -> dict[str, Parameter]:
    """What may stand below `init_args` of a class (or function), whose first arguments are filled in by others."""
    parser = ArgumentParser(exit_on_error=False)
    add = parser.add_class_arguments if inspect.isclass(cls) else parser.add_function_arguments
    add(cls, fail_untyped=False, skip={num_filled_in} if num_filled_in else None)
    return parameters_of(parser)


def alternatives(hint: Any) -> list[Any]:
    """The types of which a value may have one."""
    if get_origin(hint) is Annotated:
        return alternatives(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return [one for part in get_args(hint) for one in alternatives(part)]
    return [hint]


def item_hint(options: Sequence[Any]) -> Any:
    """The type of the items where a list is among the options, or else None."""
    return next((get_args(one)[0] for one in options if get_origin(one) in _LISTS and get_args(one)), None)


def value_hint(options: Sequence[Any]) -> Any:
    """The type of the values where names with values are among the options, or else None."""
    return next((get_args(one)[1] for one in options if get_origin(one) in _MAPPINGS and get_args(one)), None)


def base_classes(options: Sequence[Any]) -> list[type]:
    """The classes of which an object is wanted, also as what a function returns."""
    found = []
    for one in options:
        if get_origin(one) is collections.abc.Callable:
            found += base_classes(alternatives(get_args(one)[-1])) if get_args(one) else []
        elif inspect.isclass(one) and get_origin(one) is None and one not in _PLAIN and _is_made_here(one):
            found.append(one)
    return found


def num_given(options: Sequence[Any]) -> int:
    """How many arguments are filled in where what makes an object is wanted, as `Callable[[SiteShape], SAE]`."""
    made = [get_args(one)[0] for one in options if get_origin(one) is collections.abc.Callable and get_args(one)]
    return max((len(given) for given in made if isinstance(given, list)), default=0)


def _is_made_here(cls: type) -> bool:
    """Whether a config would write such an object as class_path and init_args; a path or a time span is a text."""
    return cls.__module__.partition(".")[0] not in ("builtins", "pathlib", "datetime", "enum", "os")


def class_named(path: str, bases: Sequence[type], key: str) -> Any:
    """The class that a class path means: a whole one, or the name of a class that is known."""
    if "." in path:
        return import_named(path, f"{key}: the class")
    known = {cls.__name__: cls for base in bases for cls in [base, *_below(base)]}
    if path in known:
        return known[path]
    ours = [cls for cls in known.values() if cls.__module__.startswith("tide_lightning.")]
    names = sorted(cls.__name__ for cls in ours if ".commands." not in cls.__module__)
    there = f" There are {', '.join(names)}" if names else ""
    raise UserError(f"{key}: there is no class {path!r}{did_you_mean(path, known)}{there}, or give package.module.Name")


def _below(base: type) -> list[type]:
    found: list[type] = []
    children: list[type] = base.__subclasses__()
    for one in children:
        found += [one, *_below(one)]
    return found


def fits(value: object, hint: Any) -> bool:
    """Whether a plain value may be what one type wants; where this cannot be told, it may."""
    if hint in (int, float):
        return not isinstance(value, bool) and _is_number(value, hint)
    if hint is bool:
        return isinstance(value, bool) or str(value).lower() in ("true", "false")
    if hint is type(None):
        return value is None or str(value).lower() in ("null", "none")
    if hint is str:
        return not isinstance(value, list | dict)
    if get_origin(hint) is Literal:
        return str(value) in map(str, get_args(hint))
    if get_origin(hint) in _LISTS:
        return isinstance(value, list)
    if get_origin(hint) in _MAPPINGS:
        return isinstance(value, dict)
    return True


def _is_number(value: object, hint: type) -> bool:
    try:
        return hint(str(value)) is not None
    except ValueError:
        return False


def in_words(hint: Any) -> str:
    """What kind of value is wanted, for a person."""
    options = alternatives(hint)
    choices = [str(choice) for one in options if get_origin(one) is Literal for choice in get_args(one)]
    said = [f"one of {', '.join(dict.fromkeys(choices))}"] if choices else []
    said += [_word(one) for one in options if get_origin(one) is not Literal and not (one is int and float in options)]
    return " or ".join(dict.fromkeys(said))


def _word(hint: Any) -> str:
    if hint in _PLAIN:
        return _PLAIN[hint]
    if get_origin(hint) in _LISTS:
        return f"a list, each of it {in_words(get_args(hint)[0])}" if get_args(hint) else "a list"
    if get_origin(hint) in _MAPPINGS:
        return "names with values"
    if bases := base_classes([hint]):
        return f"a class of {bases[0].__name__} (class_path and init_args)"
    return getattr(hint, "__name__", str(hint))

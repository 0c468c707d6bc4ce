"""What a run folder may make us do: a stranger's must neither run code of its own nor touch files elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import yaml

from tide_lightning.errors import UserError

_CLASSES = ("class_path", "family", "images")
"""Keys whose values are class paths, whatever they look like."""

_NEVER = ("sites", "prompts")
"""Keys whose values are never imported, however they look."""

_LIGHTNING = tuple(f"lightning.pytorch.{part}." for part in ("callbacks", "strategies", "loggers", "plugins"))
_PLACES = ("prompt_cache", "folder", "dirpath", "save_dir", "default_root_dir")
"""Keys that say where something is written."""


def check_classes(settings: Mapping[str, Any], folder: Path) -> None:
    """Refuse settings that name others' classes: importing a module runs what stands in it.

    Any text that names something importable counts, and any that names a file of settings, for a class may be written
    in more ways than one.
    """
    for key, text in _texts(settings):
        if key not in _NEVER and _is_file(text, folder):
            raise _refused(folder, f"reads settings from {text}")
        if key in _NEVER or not (key in _CLASSES or re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", text)):
            continue
        if key == "class_path" and text.isidentifier():
            continue  # a class by its short name is one that is loaded already
        if not (_is_known(text) or (key not in _CLASSES and not _is_importable(text))):
            raise _refused(folder, f"would import {text[:200]}")


def check_files(data: Mapping[str, Any], folder: Path) -> None:
    """Refuse a run's `data` that reads prompts from outside of the run's folder."""
    for where in (data, data.get("heldout")):
        path = where.get("prompts") if isinstance(where, Mapping) else None
        if isinstance(path, str) and not _lies_in(path, folder):
            raise _refused(folder, f"reads prompts from {path}")


def check_writing(settings: Mapping[str, Any], folder: Path) -> None:
    """Refuse settings that write outside of the run's folder."""
    for key, text in _texts(settings):
        if key in _PLACES and not _lies_in(text, folder):
            raise _refused(folder, f"writes into {text}")


def _texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """All texts, each with the key that it stands below; those within a text that is YAML itself as well."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner, name)
    elif isinstance(value, str) or (value is not None and name in _CLASSES):
        yield name, str(value)
        with suppress(yaml.YAMLError, ValueError, RecursionError):
            inner = yaml.safe_load(str(value))
            if isinstance(inner, Mapping | list):
                yield from _texts(inner, name)


def _is_known(text: str) -> bool:
    """Whether this package or Lightning defines what a path names: `tide_lightning.cli.os.system` neither does."""
    if not text.startswith(("tide_lightning.", *_LIGHTNING)):
        return False
    try:
        found = resolve_name(text)
    except (ImportError, AttributeError, ValueError):
        return True  # nothing that could run
    return str(getattr(found, "__module__", "")).startswith(("tide_lightning.", "lightning."))


def _is_file(text: str, folder: Path) -> bool:
    try:
        return Path(text).is_file() or (folder / text).is_file()
    except (OSError, ValueError):  # no name that a file can have
        return False


def _is_importable(text: str) -> bool:
    try:
        return find_spec(text.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def _lies_in(path: str, folder: Path) -> bool:
    return Path(path).expanduser().resolve().is_relative_to(folder.resolve())


def _refused(folder: Path, what: str) -> UserError:
    return UserError(f"{folder / 'config.yaml'} {what}: give --trust if you made this run or know who did")

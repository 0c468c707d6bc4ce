"""What a run folder may make us do: a stranger's must neither run code of its own nor read files elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tide_lightning.errors import UserError

_OURS = "tide_lightning."
_CLASSES = ("family", "images")
"""Keys of a run's `data`, and of what is nested in it, whose values may be class paths as plain texts."""


def check_classes(data: Mapping[str, Any], folder: Path) -> None:
    """Refuse a run's `data` that names classes other than this package's: importing a module runs what stands in it."""
    for path in _class_paths(data):
        if not path.startswith(_OURS):
            raise _refused(folder, f"would import {path}")


def check_files(data: Mapping[str, Any], folder: Path) -> None:
    """Refuse a run's `data` that reads prompts from outside of the run's folder."""
    for where in (data, data.get("heldout")):
        path = where.get("prompts") if isinstance(where, Mapping) else None
        if isinstance(path, str) and not Path(path).resolve().is_relative_to(folder.resolve()):
            raise _refused(folder, f"reads prompts from {path}")


def _class_paths(value: Any, name: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _class_paths(inner, str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _class_paths(inner)
    elif value is not None and name in ("class_path", *_CLASSES):
        yield str(value)


def _refused(folder: Path, what: str) -> UserError:
    return UserError(f"{folder / 'config.yaml'} {what}: give --trust if you made this run or know who did")

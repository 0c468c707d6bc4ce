"""Classes and functions that a user names by their import path."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tide_lightning.errors import UserError


@contextmanager
def importable(folders: Iterable[Path]) -> Iterator[None]:
    """Let class paths name files in these folders as well, behind what is installed, which no stray file shall hide."""
    named = dict.fromkeys(str(folder.resolve()) for folder in folders)
    added = [folder for folder in named if folder not in sys.path]
    sys.path.extend(added)
    try:
        yield
    finally:
        for folder in added:
            sys.path.remove(folder)


def import_named(path: str, what: str) -> Any:
    """What `package.module.Name` names, in an installed package or under the working directory.

    Args:
        path: as the user wrote it.
        what: of which it is the path, for an error's line.
    """
    module, _, name = path.rpartition(".")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"{what} {path!r} cannot be imported: {reason}") from error
    finally:
        if added:
            sys.path.remove(here)

"""Writing files: each appears whole or not at all, also when the power goes or the disk fills."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tide_lightning.errors import UserError


@contextmanager
def whole_file(path: Path, shared: bool = False) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place once it is whole and on the disk.

    What goes wrong leaves the old file as it was and the new one nowhere.

    Args:
        path: of the whole file.
        shared: whether several processes may write it at once; the last one's stays.
    """
    part = unfinished(path.with_name(f"{path.name}.{os.getpid()}")) if shared else unfinished(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        _to_disk(part)
        part.replace(path)
        _to_disk(path.parent)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def check_writable(path: Path, is_folder: bool = False) -> None:
    """Refuse a file or folder that could not be written in the end, before the work that it is for."""
    if path.exists() and path.is_dir() != is_folder:
        raise UserError(f"{path} is a {'file' if is_folder else 'folder'}: name another place to write to")
    folder = path.absolute() if is_folder else path.absolute().parent
    there = next(one for one in (folder, *folder.parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "may not be written" if there.is_dir() else "is a file"
        raise UserError(f"{path} cannot be written: {there} {reason}")


class FileInTheMaking:
    """A whole file that is written over a long time: to `part`, until it is completed or abandoned."""

    def __init__(self, path: Path) -> None:
        self._making = ExitStack()
        self.part = self._making.enter_context(whole_file(path))

    def complete(self) -> None:
        """Let it appear under its name."""
        self._making.close()

    def abandon(self) -> None:
        """Leave nothing behind; after `complete` there is nothing to leave."""
        with suppress(_AbandonedError), self._making:
            raise _AbandonedError


class _AbandonedError(Exception):
    """Ends a `whole_file` without a file."""


def unfinished(path: Path) -> Path:
    """Where a file is written until it is whole; the same name each time, so that a kill leaves no more than one."""
    return path.with_name(f".{path.name}.part")


def write_bytes(path: Path, content: bytes, shared: bool = False) -> Path:
    """Write a file in one go; several processes may where it is `shared`."""
    with whole_file(path, shared) as part:
        part.write_bytes(content)
    return path


def write_json(path: Path, content: dict[str, Any]) -> Path:
    """Write JSON; NaN, which JSON does not have, is an error."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    return write_bytes(path, (text + "\n").encode())


def _to_disk(path: Path) -> None:
    """Wait until it is on the disk: a file's content, a folder's names."""
    if path.is_dir() and os.name == "nt":  # which has no such thing
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

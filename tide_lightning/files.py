"""Writing results: each file appears whole or not at all."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from tide_lightning.errors import UserError


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file in one go; an interruption leaves the old one as it was."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    return path


def write_json(path: Path, content: dict[str, Any]) -> Path:
    """Write JSON; NaN, which JSON does not have, is an error."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    return write_bytes(path, (text + "\n").encode())

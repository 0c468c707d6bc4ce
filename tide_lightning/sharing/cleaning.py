"""What of a configuration is for others: neither secrets nor places on this machine."""

from __future__ import annotations

import re
from pathlib import Path, PureWindowsPath

_SECRET_NAME = re.compile(r"token(?!s|_?dropout)|password|passwd|secret|api_?key|credential", re.IGNORECASE)
_SECRET = re.compile(r"\b(hf_\w{16,}|sk-\w{16,}|gh[pousr]_\w{16,})|://[^/\s:]+:[^/\s@]+@")
_ONLY_HERE = ("runs", "run", "ckpt_path", "default_root_dir", "logger")
"""Keys that say where something lies or is reported."""


def cleaned(value: object) -> object:
    """The same without keys that name secrets or folders of this machine; of absolute paths the last part is left."""
    if isinstance(value, dict):
        return {key: cleaned(inner) for key, inner in value.items() if not _is_private(str(key), inner)}
    if isinstance(value, list):
        return [cleaned(inner) for inner in value if not (isinstance(inner, str) and _SECRET.search(inner))]
    return _without_folder(value) if isinstance(value, str) else value


def _is_private(key: str, value: object) -> bool:
    told = isinstance(value, str) and _SECRET.search(value)
    named = _SECRET_NAME.search(key) and not isinstance(value, (int, float, bool, dict, list))
    return bool(key in _ONLY_HERE or told or named)


def _without_folder(text: str) -> str:
    """The last part of an absolute path; anything else as it is."""
    if "\n" in text:
        return text
    bare = text.removeprefix("file://")
    if bare.startswith(("/", "~")):
        return Path(bare).name
    return PureWindowsPath(bare).name if PureWindowsPath(bare).is_absolute() else text

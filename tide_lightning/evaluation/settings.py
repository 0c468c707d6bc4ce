"""A run's config.yaml as single settings, to be shown and compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NO_SETTINGS = ("run_name", "runs", "ckpt_path", "evaluation.run_folder")
"""Where a run lies and what it went on from: it says nothing about what was trained."""


def flat_settings(config: Any, prefix: str = "") -> dict[str, str]:
    """Each setting as text, by its dotted name.

    Where a class is chosen its arguments stand under its short name, so that lists of classes, as of callbacks, can be
    told apart by what they hold and not by where.
    """
    if isinstance(config, Mapping) and "class_path" in config:
        name = str(config["class_path"]).rsplit(".", 1)[-1]
        arguments = config.get("init_args")
        found = {prefix: name} if prefix else {}
        return found | (flat_settings(arguments, f"{prefix}.{name}" if prefix else name) if arguments else {})
    if isinstance(config, Mapping) and config:
        parts = [flat_settings(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in config.items()]
        return {name: value for part in parts for name, value in part.items()}
    if isinstance(config, list) and any(isinstance(item, Mapping) for item in config):
        found = {prefix: ", ".join(str(item.get("class_path", "")).rsplit(".", 1)[-1] for item in config)}
        for item in config:
            found |= {name: value for name, value in flat_settings(item, prefix).items() if name != prefix}
        return found
    return {prefix: _as_text(config)} if prefix else {}


def comparable_settings(config: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Settings that make a configuration, and its seeds: runs that differ in these alone are repetitions."""
    settings = {name: value for name, value in flat_settings(config).items() if name not in _NO_SETTINGS}
    seeds = {name: value for name, value in settings.items() if _is_seed(name)}
    return {name: value for name, value in settings.items() if name not in seeds}, seeds


def differing(settings: list[dict[str, str]]) -> list[str]:
    """The names whose values are not the same everywhere, in order; one that is missing differs."""
    names = dict.fromkeys(name for one in settings for name in one)
    return [name for name in names if len({one.get(name) for one in settings}) > 1]


def _is_seed(name: str) -> bool:
    return name.rsplit(".", 1)[-1] in ("seed", "seed_everything")


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_as_text, value)) + "]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

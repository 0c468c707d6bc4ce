"""Tested runs, and runs of one configuration with different seeds as one group."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from tide_lightning.errors import UserError
from tide_lightning.evaluation.protocol import SCHEMA
from tide_lightning.evaluation.settings import comparable_settings, differing
from tide_lightning.runs import find_run, place_of
from tide_lightning.yaml_text import read_yaml


class TestedRun(NamedTuple):
    """A run that `tide test` has measured: metrics.json, what its configuration says but for seeds, and those."""

    folder: Path
    metrics: dict[str, Any]
    settings: dict[str, str]
    seeds: dict[str, str]

    @property
    def name(self) -> str:
        """What people call it: name and stamp."""
        return f"{self.folder.parent.name}/{self.folder.name}"


class Group(NamedTuple):
    """Runs that differ in their seeds alone, named after what their names share."""

    name: str
    runs: list[TestedRun]


def read_run(run: str, root: str) -> TestedRun:
    """A run by its folder or name, once it was tested."""
    folder = place_of(find_run(Path(run), Path(root)), Path(root))
    path = folder / "metrics.json"
    if not path.is_file():
        raise UserError(f"{folder}: not tested yet; do it with `tide test --run {run}`")
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        config = read_yaml(folder / "config.yaml", f"{folder}/config.yaml")
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{folder}: metrics.json cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(metrics, dict) or metrics.get("schema") != SCHEMA or not metrics.get("sites"):
        raise UserError(f"{path}: not what this version writes; test again with `tide test --run {folder}`")
    return TestedRun(folder, metrics, *comparable_settings(config))


def group_runs(runs: Sequence[TestedRun]) -> list[Group]:
    """Runs of one configuration together, in the order in which they were named."""
    together: dict[str, list[TestedRun]] = {}
    for run in runs:
        together.setdefault(json.dumps(run.settings, sort_keys=True), []).append(run)
    names = [_shared_name([run.folder.parent.name for run in some]) for some in together.values()]
    taken = [name if names.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(names, start=1)]
    return [Group(name, some) for name, some in zip(taken, together.values(), strict=True)]


def setting_differences(groups: Sequence[Group]) -> list[list[str]]:
    """Rows of a table: a setting, and its value in each group."""
    settings = [group.runs[0].settings for group in groups]
    return [[name, *(one.get(name, "-") for one in settings)] for name in differing(settings)]


def _shared_name(names: Sequence[str]) -> str:
    """How all of them begin, without what leads to the numbers that tell seeds apart."""
    if len(set(names)) == 1:
        return names[0]
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in same).rstrip("-_. ") or names[0]

"""A section of the check: a process of its own, which reports what it finds as it goes.

    python -m benchmarks.gpu_check.section NAME --device cuda --figures FILE --folder FOLDER

imports the module of that name and then waits for a line on its standard input that says how many seconds it has: so a
section can be made ready while another one measures. Its module has a function `measure(section)`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import torch


class Figure(NamedTuple):
    """One thing that was found, or could not be.

    Fields:
        section: where.
        name: what.
        value: None where it could not be measured.
        unit: of the value.
        goal: what is wanted, in words; empty where nothing is.
        reached: whether it is; None where there is no goal or no value.
        note: what else to know; why it could not be measured.
    """

    section: str
    name: str
    value: float | None
    unit: str = ""
    goal: str = ""
    reached: bool | None = None
    note: str = ""


class Section:
    """What a section is given: a device to check, a folder to write in, a file to which figures are appended."""

    def __init__(self, name: str, device: torch.device, folder: Path, figures: Path) -> None:
        self.name, self.device, self.folder, self.figures = name, device, folder, figures
        self._end = 0.0

    @property
    def is_small(self) -> bool:
        """Whether sizes are such as a CPU does in seconds."""
        return self.device.type == "cpu"

    def begin(self, seconds: float) -> None:
        """Time starts to run."""
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds."""
        return self._end - time.monotonic()

    def found(self, name: str, value: float, unit: str = "", note: str = "") -> None:
        """A figure without a goal."""
        self._add(Figure(self.name, name, value, unit, note=note))

    def at_most(self, name: str, value: float, most: float, unit: str = "", note: str = "") -> None:
        """A figure that must not be larger."""
        self._add(Figure(self.name, name, value, unit, f"at most {most:g}", value <= most, note))

    def at_least(self, name: str, value: float, least: float, unit: str = "", note: str = "") -> None:
        """A figure that must not be smaller."""
        self._add(Figure(self.name, name, value, unit, f"at least {least:g}", value >= least, note))

    def holds(self, name: str, answer: bool, note: str = "") -> None:
        """Something that must be so."""
        self._add(Figure(self.name, name, float(answer), "", "yes", answer, note))

    def could_not(self, name: str, why: str) -> None:
        """Something that could not be measured."""
        self._add(Figure(self.name, name, None, note=why))

    @contextmanager
    def trying(self, name: str) -> Iterator[None]:
        """Whatever goes wrong inside is said, and does not end the section."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.could_not(name, " ".join(f"{type(error).__name__}: {error}".split())[:300])

    def _add(self, figure: Figure) -> None:
        with self.figures.open("a") as file:
            file.write(json.dumps(figure._asdict()) + "\n")


def main() -> None:
    """Import, wait for the word, measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("name")
    parser.add_argument("--device", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--figures", type=Path, required=True)
    args = parser.parse_args()
    section = Section(args.name, torch.device(args.device), args.folder, args.figures)
    module = import_module(f"benchmarks.gpu_check.{args.name}")
    args.figures.with_suffix(".ready").touch()
    line = sys.stdin.readline()
    if line.strip():
        section.begin(float(line))
        module.measure(section)


if __name__ == "__main__":
    main()

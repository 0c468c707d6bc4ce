"""What was found, as one page of Markdown and as JSON."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.section import Figure

LIBRARIES = ("torch", "triton", "lightning", "diffusers", "eai-sparsify", "sae-lens", "dictionary-learning")

MANY = 12
"""Goals of a section that are listed one by one where they are reached."""


def machine(device: torch.device) -> dict[str, Any]:
    """On what it was found."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    found: dict[str, Any] = {"device": name, "threads": torch.get_num_threads(), "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    found["commit"] = _commit()
    return found


def write(folder: Path, about: dict[str, Any], minutes: float, figures: Sequence[Figure]) -> Path:
    """Write gpu_check.json and gpu_check.md; where the page lies."""
    told = {"machine": about, "minutes": round(minutes, 2), "figures": [figure._asdict() for figure in figures]}
    (folder / "gpu_check.json").write_text(json.dumps(told, indent=1) + "\n")
    page = folder / "gpu_check.md"
    page.write_text(markdown(about, minutes, figures))
    return page


def markdown(about: dict[str, Any], minutes: float, figures: Sequence[Figure]) -> str:
    """Figures by section, what was missed first, and what could not be run."""
    with_goal = [figure for figure in figures if figure.reached is not None]
    missed = [figure for figure in with_goal if not figure.reached]
    not_run = [figure for figure in figures if figure.value is None]
    lines = [
        f"# {about['device']}: {len(with_goal) - len(missed)} of {len(with_goal)} goals reached",
        "",
        ", ".join(f"{name} {value}" for name, value in about.items() if name != "device") + f"; {minutes:.1f} minutes.",
    ]
    if missed:
        lines += [
            "",
            "Missed: " + "; ".join(f"{_text(figure.name)} ({_value(figure)}, {figure.goal})" for figure in missed),
        ]
    for section in dict.fromkeys(figure.section for figure in figures):
        rows = [figure for figure in figures if figure.section == section and figure.value is not None]
        reached = [figure for figure in rows if figure.reached]
        lines += ["", f"## {section}"] if rows else []
        if len(reached) > MANY:  # a page shall be one
            rows = [figure for figure in rows if not figure.reached]
            lines += ["", f"{len(reached)} goals reached; they stand in gpu_check.json."]
        lines += ["", *_table(rows)] if rows else []
    if not_run:
        lines += ["", "## Could not be run", ""]
        lines += [f"- {figure.section}: {_text(figure.name)}: {_text(figure.note)}" for figure in not_run]
    return "\n".join(lines) + "\n"


def _table(figures: Sequence[Figure]) -> list[str]:
    head = ["| figure | value | goal | reached | |", "| --- | --- | --- | --- | --- |"]
    return [*head, *(f"| {' | '.join(_cells(figure))} |" for figure in figures)]


def _cells(figure: Figure) -> list[str]:
    reached = {None: "", True: "yes", False: "**no**"}[figure.reached]
    return [_text(figure.name), _value(figure), figure.goal, reached, _text(figure.note)]


def _value(figure: Figure) -> str:
    assert figure.value is not None
    if figure.goal == "yes":
        return "yes" if figure.value else "no"
    number = f"{figure.value:,.0f}" if abs(figure.value) >= 1000 else f"{figure.value:.3g}"
    return f"{number} {figure.unit}".strip()


def _text(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"

"""Prompts from text files or lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tide_lightning.diffusion.loading import package_path
from tide_lightning.errors import UserError


def read_prompts(prompts: str | Sequence[str]) -> list[str]:
    """A list as it is, or the lines of a UTF-8 text file (a path, or `package:<dotted.package>/<path>`)."""
    if not isinstance(prompts, str):
        lines = [prompt.strip() for prompt in prompts]
        source = "the list of prompts"
    else:
        path = package_path(prompts) if prompts.startswith("package:") else Path(prompts).expanduser()
        source = f"prompt file {path}"
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except UnicodeDecodeError as error:
            raise UserError(f"{source} is not UTF-8 (byte {error.start})") from None
        except OSError as error:
            raise UserError(f"cannot read {source}: {error.strerror or error}") from None
    lines = [line for line in lines if line]
    if not lines:
        raise UserError(f"{source} is empty: one prompt a line is needed")
    return lines

"""A tool's command line."""

import os
import sys
from collections.abc import Callable

from jsonargparse import auto_cli

from tide_lightning.errors import UserError


def run(command: Callable[..., object] | list[Callable[..., None]], args: list[str] | None = None) -> None:
    """A function, a class or several functions as subcommands; what the user got wrong is one line and exit code 2."""
    try:
        auto_cli(command, args=args)
    except UserError as error:
        if os.environ.get("TIDE_DEBUG") == "1":
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None

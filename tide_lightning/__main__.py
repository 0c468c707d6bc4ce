"""The command `tide`: what has to be set before PyTorch is imported, and then `tide_lightning.cli`."""

from __future__ import annotations

import os
from typing import NoReturn


def entry_point() -> NoReturn:
    """Run the command and leave with its exit code."""
    # Large tensors get large pages: without, a step of a large SAE spends an eighth of its time on page faults
    # (docs/explanation/numerics.md). PyTorch reads this once, at its first allocation. Linux only; 0 leaves things as
    # they are.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    from tide_lightning.cli import entry_point as run

    run()


if __name__ == "__main__":
    entry_point()

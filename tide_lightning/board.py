"""`tide tensorboard`: every run once.

`runs/<name>/latest` is a link, and TensorBoard follows links as if they were folders: started on `runs` it shows the
newest run of each name twice. So it is started on a folder of links of its own, one for each run.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from tide_lightning.errors import UserError

_LOOK_SECONDS = 5.0


def tensorboard(runs: str = "runs", port: int = 6006, host: str = "localhost") -> None:
    """Show all runs in TensorBoard, each once, until Ctrl-C.

    Args:
        runs: folder of all runs.
        port: where to listen; 0 takes a free one.
        host: name or address to listen at.
    """
    root = Path(runs)
    if not root.is_dir():
        raise UserError(f"--runs {runs}: no such folder; make a run with `tide fit --config quickstart`")
    from tensorboard.program import TensorBoard, TensorBoardServerException  # which warns of itself when imported

    with tempfile.TemporaryDirectory(prefix="tide-tensorboard-") as folder:
        link_runs(root, Path(folder))
        board = TensorBoard()
        board.configure(logdir=folder, port=port, host=host)
        try:
            url = board.launch()
        except TensorBoardServerException as error:
            raise UserError(f"--port {port}: {error.msg}; choose another, or 0 for any that is free") from error
        print(f"TensorBoard of {root}: {url}  (Ctrl-C ends it)", flush=True)
        while True:
            time.sleep(_LOOK_SECONDS)
            link_runs(root, Path(folder))


def link_runs(root: Path, links: Path) -> None:
    """Link every folder below `root` that holds events, by the same path below `links`; links are not followed."""
    for folder, inner, names in os.walk(root):
        if any(name.startswith("events.out.tfevents") for name in names):
            inner.clear()
            link = links / Path(folder).relative_to(root)
            if not link.is_symlink():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(Path(folder).resolve())

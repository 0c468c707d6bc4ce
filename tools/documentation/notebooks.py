"""A notebook as a Markdown page: its prose as it is, its code as blocks. What it prints is left to who runs it."""

from __future__ import annotations

import json
from pathlib import Path


def notebook_page(path: Path) -> str:
    """The page of a notebook, which begins with where the notebook itself is."""
    cells = json.loads(path.read_text())["cells"]
    first, *rest = [_cell(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    return "\n\n".join([first, f"[The notebook itself]({path.name}); `make test` runs it.", *rest]) + "\n"


def _cell(kind: str, source: str) -> str:
    return f"```python\n{source.rstrip()}\n```" if kind == "code" else source.rstrip()

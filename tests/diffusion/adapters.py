"""The adapters that docs/tutorials/your-dit.md shows or names, as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "your-dit.md"
_FILES = [path.read_text() for path in sorted((PAGE.parent / "adapters").glob("*.py"))]
ADAPTERS = {
    found[1]: code
    for code in [*re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL), *_FILES]
    if (found := re.search(r"class (\w+)\(", code))
}

STAND_INS = {
    "models/__init__.py": "dit vdt",
    "models/lightningdit.py": "lightningdit",
    "models/sit.py": "repa",
    "stage2/__init__.py": "",
    "stage2/models/__init__.py": "",
    "stage2/models/DDT.py": "rae",
    "training/__init__.py": "",
    "training/networks.py": "edm",
}


def path_of(name: str) -> str:
    return f"my_{name.lower()}.{name}"

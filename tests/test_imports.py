"""Imports run one way, as docs/explanation/design.md draws them: what stands below never imports what stands above."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "tide_lightning"
LAYERS = [
    {"errors", "reduction", "cores", "threads", "class_paths", "near", "files", "yaml_text"}
    | {"terminal", "waiting", "drawing", "pages"},
    {"accelerators", "agreement", "stopping", "watch", "tokens", "sharding", "kernels"},
    {"saes", "diffusion"},
    {"intervene", "runs", "trust", "board"},
    {"training", "datamodules", "callbacks"},
    {"evaluation", "planning", "command_line"},
    {"grounds"},
    {"explore"},
    {"sharing", "benchmark"},
    {"cli", "commands", "__main__"},
]
"""From the bottom to the top; names in one set may import each other."""


def test_imports_run_downward_only() -> None:
    height = {name: place for place, layer in enumerate(LAYERS) for name in layer}
    names = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert names - {"__init__"} == set(height), "a new part of the package needs its place above"
    upward = [
        f"{path.relative_to(PACKAGE.parent)} imports {imported}"
        for path in sorted(_files())
        for imported in _imported(path)
        if _part(path) != "__init__" and height[imported] > height[_part(path)]
    ]
    assert not upward, "\n".join(upward)


def test_numerics_and_saes_know_neither_lightning_nor_diffusers() -> None:
    for part in ("kernels", "saes"):
        for path in (PACKAGE / part).rglob("*.py"):
            roots = {name.split(".")[0] for name in _modules(path)}
            assert not roots & {"lightning", "diffusers"}, path
    for path in (PACKAGE / "diffusion").rglob("*.py"):
        assert "saes" not in _imported(path), path


def _files() -> Iterator[Path]:
    for entry in PACKAGE.iterdir():  # datamodules and callbacks are links, which rglob does not follow
        yield from [entry] if entry.suffix == ".py" else entry.resolve().rglob("*.py") if entry.is_dir() else []


def _part(path: Path) -> str:
    try:
        return path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    except ValueError:
        return path.relative_to(PACKAGE.parent).parts[0]


def _modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from [alias.name for alias in node.names]


def _imported(path: Path) -> Iterator[str]:
    for name in _modules(path):
        root, _, rest = name.partition(".")
        part = rest.split(".")[0]
        if root == "tide_lightning" and (PACKAGE / part).exists() | (PACKAGE / f"{part}.py").exists() and part:
            yield part

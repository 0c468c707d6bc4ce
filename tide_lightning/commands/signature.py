"""A command's signature, read from its source: `--help` or a mistyped option need not wait for all that it imports."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def signature_of(target: str) -> Callable[..., None]:
    """The function at "module:name" without its body. Of its module, what the signature names is run, and no more."""
    module, _, name = target.partition(":")
    path = _source(module)
    statements = ast.parse(path.read_text("utf-8"), str(path)).body
    function = next(one for one in statements if isinstance(one, ast.FunctionDef) and one.name == name)
    function.body = [ast.Expr(ast.Constant(ast.get_docstring(function, clean=False) or ""))]
    wanted, needed = _names([function]), list[ast.stmt]()
    for statement in reversed(statements[: statements.index(function)]):
        if _bound(statement) & wanted and not (
            isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
        ):
            needed.insert(0, statement)
            wanted |= _names([statement])
    code = ast.fix_missing_locations(ast.Module([*needed, function], []))
    found: dict[str, Any] = {"__name__": __name__}  # by its own, jsonargparse would import the module
    exec(compile(code, str(path), "exec", dont_inherit=True), found)  # our own source, shortened
    signature: Callable[..., None] = found[name]
    return signature


def _source(module: str) -> Path:
    root, *parts = module.split(".")
    spec = find_spec(root)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent.joinpath(*parts).with_suffix(".py")


def _bound(statement: ast.stmt) -> set[str]:
    """Names that an import or an assignment makes."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in statement.names}
    if isinstance(statement, ast.Assign):
        return {node.id for target in statement.targets for node in ast.walk(target) if isinstance(node, ast.Name)}
    return set()


def _names(statements: Iterable[ast.stmt]) -> set[str]:
    return {node.id for one in statements for node in ast.walk(one) if isinstance(node, ast.Name)}

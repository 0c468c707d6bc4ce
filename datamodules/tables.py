"""Columns of text in files: CSV, TSV, parquet, JSON lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from tide_lightning.errors import UserError

TABLES = (".csv", ".tsv", ".parquet", ".jsonl")


def read_columns(path: Path, columns: Sequence[str]) -> list[list[str]]:
    """Some columns of a table, as text; a row that lacks a value has an empty text there."""
    try:
        if path.suffix == ".parquet":
            return _parquet(path, columns)
        if path.suffix == ".jsonl":
            return _json_lines(path, columns)
        return _separated(path, columns, "\t" if path.suffix == ".tsv" else ",")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


def require_columns(source: object, wanted: Sequence[str], found: Sequence[str]) -> None:
    """Raise a `UserError` that lists the columns there are, if one of those wanted is missing."""
    for column in wanted:
        if column not in found:
            raise UserError(f"{source} has no column {column!r}; it has {', '.join(found) or 'none'}")


def _separated(path: Path, columns: Sequence[str], delimiter: str) -> list[list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, delimiter=delimiter)
        require_columns(path, columns, rows.fieldnames or [])
        try:
            found = [[row[column] or "" for column in columns] for row in rows]
        except csv.Error as error:
            raise UserError(f"{path}, line {rows.line_num}: {error}") from None
    return [list(values) for values in zip(*found, strict=True)] or [[] for _ in columns]


def _json_lines(path: Path, columns: Sequence[str]) -> list[list[str]]:
    found: list[list[str]] = [[] for _ in columns]
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = dict(json.loads(line))
        except (ValueError, TypeError):
            raise UserError(f"{path}, line {number}: not a JSON object") from None
        require_columns(f"{path}, line {number},", columns, list(row))
        for values, column in zip(found, columns, strict=True):
            values.append(str(row[column]))
    return found


def _parquet(path: Path, columns: Sequence[str]) -> list[list[str]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with path.open("rb") as raw, pyarrow.parquet.ParquetFile(raw) as file:
            require_columns(path, columns, file.schema_arrow.names)
            table = file.read(list(columns))
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path} is not a parquet file, or cut off: {str(error).splitlines()[0]}") from None
    return [["" if value is None else str(value) for value in table[column].to_pylist()] for column in columns]

"""Prompts and captions: from lists, text files, columns of tables and of Hugging Face datasets."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tide_lightning.diffusion.pretrained import package_path
from tide_lightning.errors import UserError

TABLES = (".csv", ".tsv", ".parquet", ".jsonl")

MAX_STREAMED = 100_000
"""Prompts taken from a stream that is not told where to stop."""

_ADDRESS = re.compile(
    r"hf:(?P<dataset>[^@\[\]]+?)(?:@(?P<split>[\w.\-]+))?(?:\[:(?P<count>\d+)\])?:(?P<column>[^:@\[\]]+)"
)


def read_prompts(prompts: str | Sequence[str]) -> list[str]:
    """A list as it is, or what an address names; empty prompts are left out.

    An address is `FILE.txt` (UTF-8, one prompt a line), `FILE.csv:COLUMN` (.tsv, .parquet and .jsonl too),
    `package:<dotted.package>/FILE`, or `hf:OWNER/NAME:COLUMN` (see `stream_column`).
    """
    if not isinstance(prompts, str):
        texts, source = list(prompts), "the list of prompts"
    else:
        source = f"prompt file {prompts}"
        texts = stream_column(prompts) if prompts.startswith("hf:") else _from_file(prompts)
    texts = [text.strip() for text in texts]
    texts = [text for text in texts if text]
    if not texts:
        raise UserError(f"{source} is empty: at least one prompt is needed")
    return texts


def _from_file(address: str) -> list[str]:
    name, colon, column = address.rpartition(":")
    if colon and name.endswith(TABLES):
        return read_columns(_path(name), [column])[0]
    path = _path(address)
    if path.suffix in TABLES:
        raise UserError(f"prompt file {path} is a table: name a column, as in {path.name}:caption")
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"prompt file {path} is not UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise UserError(f"cannot read prompt file {path}: {error.strerror or error}") from None


def _path(name: str) -> Path:
    return package_path(name) if name.startswith("package:") else Path(name).expanduser()


def stream_column(address: str) -> list[str]:
    """The first texts of a dataset's column, read as a stream, so that nothing else is downloaded.

    Args:
        address: `hf:OWNER/NAME@SPLIT[:COUNT]:COLUMN`, as in `hf:owner/captions@train[:20000]:caption`; a local folder
            may stand for OWNER/NAME. The split is `train` and COUNT 100,000 unless given.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise UserError(
            f"prompts {address!r}: write hf:OWNER/NAME@SPLIT[:COUNT]:COLUMN (split and count may be left out)"
        )
    rows = load_hub_dataset(match["dataset"], match["split"] or "train", streaming=True)
    count, column = int(match["count"] or MAX_STREAMED), match["column"]
    texts: list[str] = []
    for row in rows.take(count):
        require_columns(f"dataset {match['dataset']}", [column], list(row))
        texts.append(str(row[column] or ""))
    return texts


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


def load_hub_dataset(name: str, split: str, streaming: bool) -> Any:
    """A split of a Hugging Face dataset; whatever goes wrong is told in one line."""
    try:
        import datasets
    except ImportError:
        raise UserError(f"dataset {name} needs the package datasets: pip install 'tide-lightning[datasets]'") from None
    try:
        return datasets.load_dataset(name, split=split, streaming=streaming)
    except Exception as error:  # FileNotFoundError, ConnectionError, ValueError and a dozen of its own
        lines = str(error).strip().splitlines()
        raise UserError(f"cannot load dataset {name} ({split}): {lines[0] if lines else error!r}") from error

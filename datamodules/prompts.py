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
    return read_lines(path, "prompt file ")


def _path(name: str) -> Path:
    return package_path(name) if name.startswith("package:") else Path(name).expanduser()


def read_lines(path: Path, kind: str = "") -> list[str]:
    """The lines of a UTF-8 file, with or without a byte order mark; `kind` is put before its name in errors.

    Lines end at a line feed, carriage return or both: Unicode's own separators may stand inside one.
    """
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{kind}{path} is not UTF-8 (byte {error.start})") from None
    except (OSError, ValueError) as error:
        raise _unreadable(f"{kind}{path}", error) from None


def _unreadable(what: str, error: OSError | ValueError) -> UserError:
    """Of a file that is not there or must not be read; a ValueError is about its name."""
    reason = getattr(error, "strerror", None) or error
    return UserError(f"cannot read {what}: {reason}".replace("\0", "\\0"))


def text_of(value: object, where: str) -> str:
    """A cell as text: "" where it is empty; an error where it holds anything but text or a number.

    Args:
        value: what a table or dataset has there.
        where: file and line, for an error's message.
    """
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        raise UserError(f"{where} holds a {type(value).__name__}, not text")
    text = str(value)
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UserError(f"{where} holds half a surrogate pair, which is no text")
    return text


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
    name, texts = f"dataset {match['dataset']}", []
    for number, row in enumerate(rows.take(count)):
        require_columns(name, [column], list(row))
        texts.append(text_of(row[column], f"{name}, row {number}: {column}"))
    return texts


def read_columns(path: Path, columns: Sequence[str]) -> list[list[str]]:
    """Some columns of a table, as text; a row that lacks a value has an empty text there."""
    if path.suffix == ".parquet":
        return _parquet(path, columns)
    if path.suffix == ".jsonl":
        return _json_lines(path, columns)
    return _separated(path, columns, "\t" if path.suffix == ".tsv" else ",")


def require_columns(source: object, wanted: Sequence[str], found: Sequence[str]) -> None:
    """Raise a `UserError` that lists the columns there are, if one of those wanted is missing."""
    for column in wanted:
        if column not in found:
            raise UserError(f"{source} has no column {column!r}; it has {', '.join(found) or 'none'}")


def _separated(path: Path, columns: Sequence[str], delimiter: str) -> list[list[str]]:
    longest, line = csv.field_size_limit(2**31 - 1), 0
    found: list[list[str]] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, delimiter=delimiter, strict=True)
            require_columns(path, columns, rows.fieldnames or [])
            for row in rows:
                line = rows.line_num
                found.append([row[column] or "" for column in columns])
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 (some way behind line {line})") from None
    except csv.Error as error:
        raise UserError(f"{path}, behind line {line}: {error}") from None
    except (OSError, ValueError) as error:
        raise _unreadable(str(path), error) from None
    finally:
        csv.field_size_limit(longest)
    return [list(values) for values in zip(*found, strict=True)] or [[] for _ in columns]


def _json_lines(path: Path, columns: Sequence[str]) -> list[list[str]]:
    found: list[list[str]] = [[] for _ in columns]
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise UserError(f"{where}: not a JSON object")
        require_columns(f"{where},", columns, list(row))
        for values, column in zip(found, columns, strict=True):
            values.append(text_of(row[column], f"{where}: {column}"))
    return found


def _parquet(path: Path, columns: Sequence[str]) -> list[list[str]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with path.open("rb") as raw, pyarrow.parquet.ParquetFile(raw) as file:
            require_columns(path, columns, file.schema_arrow.names)
            cells = [file.read([column]).column(0).to_pylist() for column in columns]
    except pyarrow.ArrowException as error:
        raise UserError(f"{path} is not a parquet file, or cut off: {str(error).splitlines()[0]}") from None
    except (OSError, ValueError) as error:
        raise _unreadable(str(path), error) from None
    return [
        [text_of(value, f"{path}, row {number}: {column}") for number, value in enumerate(values)]
        for column, values in zip(columns, cells, strict=True)
    ]


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

"""Codes on disk: one file a site and rank, written as a stream, and read back as a `SparseCode`.

Both formats hold the columns sample, position, t, raw_t, half, source, and of each token the latents that fire with
their values. In parquet `indices` and `values` are lists; in safetensors they are flat and `row_pointer` says where
each token starts.
"""

from __future__ import annotations

import json
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tide_lightning.errors import UserError
from tide_lightning.files import FileInTheMaking, unfinished, whole_file
from tide_lightning.saes import SparseCode
from tide_lightning.tokens import TokenBatch

SCHEMA = 1
Format = Literal["parquet", "safetensors"]

_TOKEN_COLUMNS: dict[str, np.dtype[Any]] = {
    "sample": np.dtype(np.int64),
    "t": np.dtype(np.float32),
    "raw_t": np.dtype(np.float32),
    "position": np.dtype(np.int32),
    "half": np.dtype(np.int8),
    "source": np.dtype(np.int8),
}
_CODE_COLUMNS: dict[str, np.dtype[Any]] = {
    "row_pointer": np.dtype(np.int64),
    "indices": np.dtype(np.int32),
    "values": np.dtype(np.float32),
}
_ROW_GROUP_TOKENS = 65_536

Columns = dict[str, NDArray[Any]]


class Codes(NamedTuple):
    """The codes of one site and where each token came from.

    Fields:
        code: of variable length, only latents that fire.
        sample: which sample (image) a token belongs to [N].
        position: grid coordinates, row first [N, axes].
        t: normalised time, 1 is pure noise [N].
        raw_t: the timestep as the denoiser was given it [N].
        half: a `Half` for each token [N].
        source: a `Source` for each token [N].
        site: the site's name.
    """

    code: SparseCode
    sample: Tensor
    position: Tensor
    t: Tensor
    raw_t: Tensor
    half: Tensor
    source: Tensor
    site: str


class CodeWriter(Protocol):
    """One file in the making; it appears under its name when closed, or not at all."""

    def write(self, tokens: TokenBatch, code: SparseCode) -> None:
        """Append a batch."""

    def close(self) -> None:
        """Complete the file."""

    def abort(self) -> None:
        """Leave nothing behind."""


def open_writer(path: Path, site: str, num_latents: int) -> CodeWriter:
    """A writer of the format that the path's suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"schema": str(SCHEMA), "site": site, "num_latents": str(num_latents)}
    return ParquetWriter(path, metadata) if path.suffix == ".parquet" else SafetensorsWriter(path, metadata)


def read_codes(path: str | Path) -> Codes:
    """Read what `WriteCodes` wrote.

    Args:
        path: one file, or a site's folder, whose files of all ranks are joined.
    """
    path = Path(path)
    files = [path] if path.is_file() else _rank_files(path)
    parts = [_read_parquet(file) if file.suffix == ".parquet" else _read_safetensors(file) for file in files]
    metadata = parts[0][1]
    joined = {
        name: np.concatenate([columns[name] for columns, _ in parts])
        for name in (*_TOKEN_COLUMNS, "lengths", "indices", "values")
    }
    row_pointer = np.concatenate([[0], joined.pop("lengths").cumsum(dtype=np.int64)])
    code = SparseCode(
        torch.from_numpy(joined.pop("values")),
        torch.from_numpy(joined.pop("indices").astype(np.int64)),
        int(metadata["num_latents"]),
        torch.from_numpy(row_pointer),
    )
    return Codes(code, **{name: torch.from_numpy(joined[name]) for name in _TOKEN_COLUMNS}, site=metadata["site"])


class ParquetWriter:
    """Collects tokens into row groups."""

    def __init__(self, path: Path, metadata: dict[str, str]) -> None:
        self._metadata = metadata
        self._file = FileInTheMaking(path)
        self._writer: Any = None
        self._waiting: list[Any] = []

    def write(self, tokens: TokenBatch, code: SparseCode) -> None:
        """Append a batch."""
        columns = _columns(tokens, code)
        offsets = pa.array(np.concatenate([[0], columns["lengths"].cumsum()]).astype(np.int32))
        arrays = {name: pa.array(columns[name]) for name in _TOKEN_COLUMNS if name != "position"}
        position = columns["position"]
        arrays["position"] = pa.FixedSizeListArray.from_arrays(pa.array(position.ravel()), position.shape[1])
        for name in ("indices", "values"):
            arrays[name] = pa.ListArray.from_arrays(offsets, pa.array(columns[name]))
        self._waiting.append(pa.table(arrays).replace_schema_metadata(self._metadata))
        if sum(len(table) for table in self._waiting) >= _ROW_GROUP_TOKENS:
            self._flush()

    def _flush(self) -> None:
        table = pa.concat_tables(self._waiting)
        self._waiting = []
        if self._writer is None:
            schema = table.schema
            self._writer = pq.ParquetWriter(self._file.part, schema, compression="zstd", write_page_checksum=True)
        self._writer.write_table(table, row_group_size=_ROW_GROUP_TOKENS)

    def close(self) -> None:
        """Complete the file."""
        if self._waiting:
            self._flush()
        self._writer.close()
        self._file.complete()

    def abort(self) -> None:
        """Leave nothing behind."""
        with suppress(OSError):  # what the disk does not take any more
            if self._writer is not None:
                self._writer.close()
        self._file.abandon()


class SafetensorsWriter:
    """Streams each column into a file of its own and joins them at the end, when the sizes are known."""

    def __init__(self, path: Path, metadata: dict[str, str]) -> None:
        self._path, self._metadata = path, metadata
        # Wide types first, so that every tensor is aligned.
        self._dtypes = dict(
            sorted({**_CODE_COLUMNS, **_TOKEN_COLUMNS}.items(), key=lambda item: item[1].itemsize, reverse=True)
        )
        self._files = {name: self._spool(name).open("wb") for name in self._dtypes}
        self._files["row_pointer"].write(np.zeros(1, np.int64).tobytes())
        self._rows = dict.fromkeys(self._dtypes, 0) | {"row_pointer": 1}
        self._num_entries, self._axes = 0, 1

    def write(self, tokens: TokenBatch, code: SparseCode) -> None:
        """Append a batch."""
        columns = _columns(tokens, code)
        columns["row_pointer"] = self._num_entries + columns.pop("lengths").cumsum(dtype=np.int64)
        self._num_entries += len(columns["values"])
        self._axes = columns["position"].shape[1]
        for name, column in columns.items():
            self._files[name].write(np.ascontiguousarray(column).tobytes())
            self._rows[name] += len(column)

    def close(self) -> None:
        """Complete the file."""
        header: dict[str, Any] = {"__metadata__": self._metadata}
        offset = 0
        for name, dtype in self._dtypes.items():
            shape = [self._rows[name]] + ([self._axes] if name == "position" else [])
            end = offset + int(np.prod(shape)) * dtype.itemsize
            header[name] = {
                "dtype": f"{'F' if dtype.kind == 'f' else 'I'}{8 * dtype.itemsize}",
                "shape": shape,
                "data_offsets": [offset, end],
            }
            offset = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with whole_file(self._path) as part, part.open("wb") as whole:
            whole.write(len(text).to_bytes(8, "little") + text)
            for name, file in self._files.items():
                file.close()
                with self._spool(name).open("rb") as column:
                    shutil.copyfileobj(column, whole, 2**20)
        self.abort()

    def abort(self) -> None:
        """Leave nothing behind."""
        for name, file in self._files.items():
            with suppress(OSError):  # what the disk does not take any more
                file.close()
            self._spool(name).unlink(missing_ok=True)

    def _spool(self, name: str) -> Path:
        return unfinished(self._path.with_name(f"{self._path.name}.{name}"))


def _columns(tokens: TokenBatch, code: SparseCode) -> Columns:
    """A batch as arrays: only what fires, so that l0 is a token's length."""
    fires = code.values > 0
    named = {name: getattr(tokens, name) for name in _TOKEN_COLUMNS}
    columns = {name: tensor.detach().cpu().numpy().astype(_TOKEN_COLUMNS[name]) for name, tensor in named.items()}
    columns["lengths"] = code.l0().cpu().numpy()
    columns["indices"] = code.indices[fires].cpu().numpy().astype(np.int32)
    columns["values"] = code.values[fires].detach().float().cpu().numpy()
    return columns


def _rank_files(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.glob("rank-*-of-*") if file.suffix in (".parquet", ".safetensors"))
    if not files:
        raise UserError(f"{folder}: no codes there (rank-*); point to a site's folder or to a file")
    of = {(file.suffix, re.sub(r"rank-\d+-of-", "", file.stem)) for file in files}
    if len(of) > 1 or int(next(iter(of))[1]) != len(files):
        raise UserError(f"{folder}: not the files of one run ({', '.join(f.name for f in files)}); point to one file")
    return files


def _read_parquet(path: Path) -> tuple[Columns, dict[str, str]]:
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read as parquet ({error})") from error
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    _check_schema(path, metadata)
    columns = {name: table[name].to_numpy() for name in _TOKEN_COLUMNS if name != "position"}
    position = [chunk.flatten().to_numpy() for chunk in table["position"].chunks]
    columns["position"] = np.concatenate(position).reshape(len(table), -1)
    columns["lengths"] = np.concatenate([np.diff(chunk.offsets.to_numpy()) for chunk in table["indices"].chunks])
    for name in ("indices", "values"):
        columns[name] = np.concatenate([chunk.flatten().to_numpy() for chunk in table[name].chunks])
    return columns, metadata


def _read_safetensors(path: Path) -> tuple[Columns, dict[str, str]]:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            _check_schema(path, metadata)
            columns = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({error})") from error
    columns["lengths"] = np.diff(columns.pop("row_pointer"))
    return columns, metadata


def _check_schema(path: Path, metadata: dict[str, str]) -> None:
    if metadata.get("schema") != str(SCHEMA):
        raise UserError(f"{path}: holds codes of schema {metadata.get('schema')}; this version reads {SCHEMA}")

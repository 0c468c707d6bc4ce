"""Prompts from text files, columns of tables, Hugging Face datasets, or lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tide_lightning.datamodules.hub_datasets import stream_column
from tide_lightning.datamodules.tables import TABLES, read_columns
from tide_lightning.diffusion.pretrained import package_path
from tide_lightning.errors import UserError


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

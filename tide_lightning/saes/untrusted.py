"""Files that others may have written: read without running what is in them or believing the sizes that they claim."""

from __future__ import annotations

import json
import math
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tide_lightning.errors import UserError

_LARGEST_JSON = 16 * 2**20  # bytes; configurations have a few thousand


def read_json(path: Path) -> dict[str, Any]:
    """An object of finite numbers."""
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise UserError(f"{path} is no configuration: it has more than {_LARGEST_JSON >> 20} MiB")
        text = path.read_text(encoding="utf-8-sig")
        found = json.loads(text, parse_float=_finite, parse_constant=_not_a_number)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {one_line(error)}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} describes nothing: it is no JSON object")
    return found


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, all finite; the library itself compares what the header claims with the file's length."""
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}): save or download it again") from error
    _check_finite(tensors, path)
    return tensors


def read_pickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict by `torch.save`, all finite; a pickle that names anything else is not loaded."""
    _check_records(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols: what it cannot read, it refuses
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        message = f"{path} holds more than tensors, and to load it could run code: ask for it as safetensors"
        raise UserError(message) from error
    except Exception as error:  # a forged pickle can end in any
        raise UserError(f"{path} cannot be read ({one_line(error)}): save or download it again") from error
    inner = found.get("state_dict", found) if isinstance(found, Mapping) else {"": found}
    if not isinstance(inner, Mapping) or not all(isinstance(name, str) for name in inner):
        raise UserError(f"{path} is no state dict")
    tensors = {name: value for name, value in inner.items() if isinstance(value, Tensor)}
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise UserError(f"{path}: {name or 'its tensor'} is not a plain tensor")
        if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
            raise UserError(f"{path}: {name or 'its tensor'} claims more numbers than the file has")
    _check_finite(tensors, path)
    return tensors


def _check_records(path: Path) -> None:
    """Records are stored as they are, so a file cannot claim, or unpack to, more than it has."""
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        message = "not a file of `torch.save`, or cut off (files from before PyTorch 1.6 have to be saved anew)"
        raise UserError(f"{path} is {message}") from error
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise UserError(f"{path} has compressed records, which `torch.save` does not write")
    if sum(record.file_size for record in records) > size:
        raise UserError(f"{path} claims more bytes than it has")


def _check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{path}: {name or 'its tensor'} holds numbers that are not finite")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        _not_a_number(text)
    return number


def _not_a_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is no finite number")


def one_line(error: BaseException) -> str:
    """What an error says, as part of a message."""
    return " ".join(str(error).split())[:200] or type(error).__name__

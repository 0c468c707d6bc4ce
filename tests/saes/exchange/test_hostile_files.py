"""SAE folders made to do harm: refused in one line; nothing is run, no memory taken for what is only claimed."""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.saes.exchange.test_research_code import write_diffract, write_saeuron, write_sdxl_unbox
from tests.saes.synthetic import SHAPE
from tide_lightning.errors import UserError
from tide_lightning.saes import SAE, TideSAE
from tide_lightning.saes.storage import read_cfg


def refused(folder: Path, site: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        SAE.from_pretrained(folder, site)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


class Touch:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, ...]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_would_run_code(protocol: int, tmp_path: Path) -> None:
    write_sdxl_unbox(tmp_path)
    torch.save({"state_dict": {"x": Touch(tmp_path / "ran")}}, tmp_path / "state_dict.pth", pickle_protocol=protocol)
    assert "could run code: ask for it as safetensors" in refused(tmp_path)
    (tmp_path / "state_dict.pth").write_bytes(pickle.dumps(Touch(tmp_path / "ran")))
    assert "not a file of `torch.save`" in refused(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_statistics_are_not_trusted_either(tmp_path: Path) -> None:
    write_sdxl_unbox(tmp_path)
    torch.save(Touch(tmp_path / "ran"), tmp_path / "mean.pt")
    assert "could run code" in refused(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_tensor_that_claims_ten_gigabytes(tmp_path: Path) -> None:
    tensors: dict[str, Tensor] = write_diffract(tmp_path / "sae_img_6.pt")
    tensors["decoder.weight"] = torch.zeros(1).expand(50_000, 50_000)
    torch.save(tensors, tmp_path / "sae_img_6.pt")
    assert "decoder.weight claims more numbers than the file has" in refused(tmp_path / "sae_img_6.pt")


def test_records_that_unpack_to_more_than_the_file_has(tmp_path: Path) -> None:
    path = tmp_path / "sae_img_6.pt"
    write_diffract(path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in records.items():
            archive.writestr(name, content + bytes(2**20))
    assert "compressed records" in refused(path)


def test_a_storage_that_claims_ten_gigabytes(tmp_path: Path) -> None:
    """The pickle says how many numbers a storage has; the record is where they should be."""
    path = tmp_path / "sae_img_6.pt"
    write_diffract(path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    (pickled,) = (name for name in records if name.endswith("data.pkl"))
    number = struct.pack("<H", 60 * 24)  # BININT2: the encoder's storage
    assert b"M" + number in records[pickled]
    records[pickled] = records[pickled].replace(b"M" + number, b"J" + struct.pack("<i", 2**31 - 1))
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    refused(path)


def header(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrite a safetensors header."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    changed = json.loads(content[8 : 8 + length])
    change(changed)
    text = json.dumps(changed).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def test_safetensors_that_claim_ten_gigabytes(tmp_path: Path) -> None:
    write_saeuron(tmp_path)
    path = tmp_path / "sae.safetensors"
    header(path, lambda found: found["W_dec"].update(shape=[50_000, 50_000], data_offsets=[0, 10**10]))
    assert "sae.safetensors cannot be read" in refused(tmp_path)
    path.write_bytes(struct.pack("<Q", 10**10) + b"{}")
    assert "sae.safetensors cannot be read" in refused(tmp_path)
    path.write_bytes(b"")
    assert "sae.safetensors cannot be read" in refused(tmp_path)


@pytest.mark.parametrize("site", ["/etc", "../elsewhere", "a/../../b", "no\0body", "x" * 5000])
def test_sites_that_lie_elsewhere(site: str, tmp_path: Path) -> None:
    write_saeuron(tmp_path / "elsewhere")
    (tmp_path / "here").mkdir()
    refused(tmp_path / "here", site)


def ours(folder: Path) -> dict[str, Any]:
    TideSAE(SHAPE, 4, 5, modulation="none").save_pretrained(folder, site="blocks.1")
    found: dict[str, Any] = json.loads((folder / "cfg.json").read_text())
    del found["cfg_sha256"]  # what is written by hand has none
    return found


HUGE = 10**12
CHANGES: list[tuple[str, dict[str, Any], str]] = [
    ("a class that is no string", {"class": ["TideSAE"]}, r"describes a \['TideSAE'\]"),
    ("a class that is a number", {"class": 7}, "describes a 7, which is no SAE"),
    ("a class that is none of ours", {"class": "os.system"}, "describes a os.system, which is no SAE"),
    ("no shape", {"shape": None}, "names no shape"),
    ("a shape without a grid", {"shape": {"d_in": 24}}, "does not describe a TideSAE: 'grid'"),
    ("a huge shape", {"shape": {"d_in": HUGE, "grid": [3, 4], "d_input": 6}}, "not made of whole numbers"),
    ("a large shape", {"shape": {"d_in": 2**30, "grid": [3, 4], "d_input": 6}}, "does not describe"),
    ("a shape of floats", {"shape": {"d_in": 24.0, "grid": [3, 4], "d_input": 6}}, "not made of whole numbers"),
    ("a grid of words", {"shape": {"d_in": 24, "grid": ["a"], "d_input": 6}}, "not made of whole numbers"),
    ("a huge grid", {"shape": {"d_in": 24, "grid": [2**30, 2**30], "d_input": 6}}, "does not describe"),
    ("no arguments", {"sae": 5}, "no arguments"),
    ("a huge dictionary", {"sae": {"expansion_factor": 1e300}}, "TideSAE"),
    ("many latents", {"sae": {"expansion_factor": 1e6, "k": 5}}, "should be"),
    ("a negative dictionary", {"sae": {"expansion_factor": -4, "k": 5}}, "k = 5 does not fit"),
    ("billions of rounds", {"sae": {"expansion_factor": 4, "k": 5, "pursuits": 10**9}}, "pursuits = 1000000000"),
    ("a k that is a list", {"sae": {"expansion_factor": 4, "k": [5]}}, "does not describe a TideSAE"),
    (
        "an argument that is not there",
        {"sae": {"expansion_factor": 4, "k": 5, "code": "x"}},
        "does not describe a TideSAE",
    ),
    ("another schema", {"schema": 7}, "has schema 7; this version reads 2"),
]


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in CHANGES], ids=[case[0] for case in CHANGES])
def test_descriptions_of_ours(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    cfg = ours(tmp_path)
    if isinstance(change.get("sae"), dict):
        cfg["shape"] |= {"grid": []}
        change = {"sae": {"known_part": "input_token", **change["sae"]}}
    (tmp_path / "cfg.json").write_text(json.dumps(cfg | change))
    assert re.search(message, refused(tmp_path))


@pytest.mark.parametrize(
    "text", ["", "[]", "7", "{", '{"a": NaN}', '{"k": 1e999}', "[" * 100_000, '{"n": ' + "9" * 5000 + "}"]
)
def test_descriptions_that_are_no_object_of_finite_numbers(text: str, tmp_path: Path) -> None:
    ours(tmp_path)
    (tmp_path / "cfg.json").write_text(text)
    refused(tmp_path)
    (tmp_path / "cfg.json").write_bytes(b"\xff\xfe{}")
    refused(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(value: float, tmp_path: Path) -> None:
    cfg = ours(tmp_path)
    path = tmp_path / "sae.safetensors"
    tensors = load_file(path)
    tensors["b_enc"][3] = value
    save_file(tensors, path)
    (tmp_path / "cfg.json").write_text(json.dumps({name: cfg[name] for name in cfg if name != "sha256"}))
    assert "b_enc holds numbers that are not finite" in refused(tmp_path)


def test_every_flipped_byte_of_the_weights_is_seen(tmp_path: Path) -> None:
    ours(tmp_path)
    path = tmp_path / "sae.safetensors"
    whole = path.read_bytes()
    draw = torch.Generator().manual_seed(0)
    for place in torch.randint(len(whole), (60,), generator=draw).tolist():
        flipped = bytearray(whole)
        flipped[place] ^= 1 << (place % 8)
        path.write_bytes(bytes(flipped))
        refused(tmp_path)
    for length in (0, 7, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(tmp_path)
    path.write_bytes(whole)
    SAE.from_pretrained(tmp_path)


def test_every_changed_figure_of_the_description_is_seen(tmp_path: Path) -> None:
    """Also of what loading does not need, such as the times of noise: others read it."""
    ours(tmp_path)
    path = tmp_path / "cfg.json"
    whole = path.read_text()
    for place in (place for place in range(whole.index("cfg_sha256")) if whole[place].isdigit()):
        path.write_text(f"{whole[:place]}{(int(whole[place]) + 1) % 10}{whole[place + 1 :]}")
        with pytest.raises(UserError, match=r"damaged|schema|is not JSON"):
            read_cfg(tmp_path)
    path.write_text(whole)
    read_cfg(tmp_path)


def test_a_folder_without_an_sae_is_called_that(tmp_path: Path) -> None:
    assert "neither of ours nor of a layout that is known" in refused(tmp_path)
    (tmp_path / "cfg.json").write_text("{}")
    assert "neither of ours nor of a layout that is known" in refused(tmp_path)

"""Files of prompts and images as people have them: broken, foreign, huge, in loops; read rightly or refused."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks.faults.fits import Reference, fresh
from benchmarks.faults.trial import Trial, limit_memory
from tide_lightning.datamodules import ImageFolder
from tide_lightning.datamodules.prompts import read_prompts
from tide_lightning.errors import UserError

GOAL, SECONDS = 1000, 60
_WORDS = [
    "a red cube",
    "",
    "  ",
    "null",
    "None",
    "caf\u00e9",
    "\u2028inside",
    "\ufeff",
    "\u202ertl",
    "x" * 150_000,
    "a,b",
    'q"q',
    "1e5",
]
_MODES = ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "I", "F", "YCbCr", "HSV", "LAB"]


def prepare(reference: Reference, folder: Path) -> None:
    """No more memory than a machine has."""
    limit_memory()


def attempt(_: None, draw: Random, folder: Path) -> Trial:
    """Write a file and read it."""
    fresh(folder)
    kind = draw.choice([_text, _table, _json_lines, _parquet, _images, _images])
    return kind(draw, folder)


def _read(address: str, wanted: list[str] | None, what: str) -> Trial:
    """Read prompts; where it is known what they are, nothing else may come of it."""
    try:
        found = read_prompts(address)
    except UserError:
        return Trial("refused", what)
    if wanted is not None and found != [text.strip() for text in wanted if text.strip()]:
        return Trial("wrong", f"{what}: read as {found!r:.80}")
    return Trial("survived", what)


def _spoilt(content: bytes, draw: Random) -> tuple[bytes, str]:
    """Content, perhaps with some bytes changed or its end cut off."""
    how = draw.choice(["whole", "bytes", "cut"])
    if how == "whole" or not content:
        return content, "whole"
    if how == "cut":
        return content[: draw.randrange(len(content))], "cut off"
    changed = bytearray(content)
    for _ in range(draw.choice([1, 5, 50])):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed), "with other bytes"


def _lines(draw: Random) -> list[str]:
    return [draw.choice(_WORDS) for _ in range(draw.randrange(1, 12))]


def _text(draw: Random, folder: Path) -> Trial:
    lines = _lines(draw)
    encoding = draw.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"])
    end = draw.choice(["\n", "\r\n", "\r"])
    content, how = _spoilt(end.join(lines).encode(encoding, "replace"), draw)
    (folder / "prompts.txt").write_bytes(content)
    wanted = lines if how == "whole" and encoding.startswith("utf-8") and lines[0][:1] != "\ufeff" else None
    return _read(str(folder / "prompts.txt"), wanted, f"text in {encoding}, {how}")


def _table(draw: Random, folder: Path) -> Trial:
    lines, name = _lines(draw), draw.choice(["csv", "tsv"])
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter="\t" if name == "tsv" else ",")
    writer.writerows([["number", "text"], *([str(number), line] for number, line in enumerate(lines))])
    content, how = _spoilt(file.getvalue().encode(), draw)
    (folder / f"prompts.{name}").write_bytes(content)
    return _read(f"{folder / 'prompts'}.{name}:text", lines if how == "whole" else None, f"{name}, {how}")


def _json_lines(draw: Random, folder: Path) -> Trial:
    rows: list[object] = [{"text": line} for line in _lines(draw)]
    odd = draw.random() < 0.5
    if odd:
        rows.append(
            draw.choice([None, 7, [], {"text": []}, {"text": {"a": 1}}, {}, {"text": None}, {"text": "\ud800"}])
        )
    text = "\n".join(json.dumps(row, ensure_ascii=odd) for row in rows)
    if draw.random() < 0.2:
        text += "\n" + '{"a":' * 20_000
    content, how = _spoilt(text.encode("utf-8", "surrogatepass"), draw)
    (folder / "prompts.jsonl").write_bytes(content)
    is_known = how == "whole" and not odd and text.count("\n") < len(rows)
    wanted = [str(row["text"]) for row in rows if isinstance(row, dict)] if is_known else None
    return _read(f"{folder / 'prompts.jsonl'}:text", wanted, f"JSON lines, {how}")


def _parquet(draw: Random, folder: Path) -> Trial:
    lines = _lines(draw)
    file = io.BytesIO()
    pq.write_table(pa.table({"text": lines, "n": list(range(len(lines)))}), file, write_page_checksum=True)
    content, how = _spoilt(file.getvalue(), draw)
    (folder / "prompts.parquet").write_bytes(content)
    return _read(f"{folder / 'prompts.parquet'}:text", lines if how == "whole" else None, f"parquet, {how}")


def _images(draw: Random, folder: Path) -> Trial:
    make: Callable[[Random, Path], str] = draw.choice([_picture, _picture, _picture, _odd_file, _loop, _bomb])
    what = make(draw, folder)
    name = draw.choice(["photo", "ph\u00f6to", "a b", "<b>", "'; rm -rf", "\n", "\udcff", "x" * 200])
    for path in list(folder.glob("photo.*")):
        path.rename(path.with_name(name + path.suffix))
    try:
        images = ImageFolder(str(folder), 16, None)
        found = [torch.as_tensor(images[place]["image"]) for place in range(len(images))]
    except UserError:
        return Trial("refused", f"image: {what}")
    for image in found:
        if image.shape != (3, 16, 16) or not bool(image.isfinite().all()) or float(image.abs().max()) > 1:
            return Trial("wrong", f"image: {what}: {list(image.shape)}, up to {float(image.abs().max())}")
    if len(found) > 1:
        return Trial("wrong", f"image: {what}: read {len(found)} times")
    if what.startswith("grey") and abs(float(found[0].mean())) > 0.05:
        return Trial("wrong", f"image: {what}: it is {float(found[0].mean()):.2f}")
    return Trial("survived", f"image: {what}")


def _picture(draw: Random, folder: Path) -> str:
    mode, kind = draw.choice(_MODES), draw.choice(["png", "tiff", "jpeg", "bmp", "webp"])
    size = draw.choice([(1, 1), (3, 200), (64, 48), (16, 16)])
    middle = {"I;16": 32768, "I": 32768, "F": 0.5, "1": 1}.get(mode, 128)
    values = np.full(size[::-1], middle, np.uint16 if mode == "I;16" else np.int32 if mode == "I" else np.uint8)
    picture = Image.fromarray(values) if mode in ("I;16", "I") else Image.new(mode, size, 128 if mode == "L" else None)
    file = io.BytesIO()
    try:
        picture.save(file, kind)
    except (OSError, ValueError, KeyError):  # this format has no such mode
        kind, mode, picture = "png", "L", Image.new("L", size, 128)
        picture.save(file, kind)
    content, how = _spoilt(file.getvalue(), draw)
    (folder / f"photo.{kind}").write_bytes(content)
    kept = mode == "L" or (mode in ("I;16", "I") and kind in ("png", "tiff"))  # WebP has eight bits: white
    grey = kept and how == "whole"
    return f"{'grey ' if grey else ''}{mode} as {kind}, {how}"


def _odd_file(draw: Random, folder: Path) -> str:
    content = draw.choice(
        [b"", b"\0" * 100, b"<svg onload=alert(1)>", b"GIF89a", draw.randbytes(500), b"\x89PNG\r\n\x1a\n"]
    )
    (folder / "photo.png").write_bytes(content)
    return f"no image ({content[:8]!r})"


def _loop(draw: Random, folder: Path) -> str:
    Image.new("RGB", (8, 8)).save(folder / "photo.png")
    for number in range(draw.randrange(1, 4)):
        os.symlink(folder, folder / f"loop{number}")
    return "a loop of links"


def _bomb(draw: Random, folder: Path) -> str:
    side = draw.choice([20_000, 60_000])
    Image.new("1", (side, side // 10)).save(folder / "photo.png")
    return f"{side} x {side // 10} pixels of nothing"

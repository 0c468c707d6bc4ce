"""An atlas as a folder of files that a browser opens without a server.

A page opened from the file system may not fetch files, but it may load scripts; so data come as scripts that hand one
value over. Whatever stems from captions, prompts or labels travels as JSON and is put on the page as text, never as
HTML.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image

from tide_lightning.diffusion import folder_name
from tide_lightning.errors import UserError
from tide_lightning.explore.atlas.chart import Chart
from tide_lightning.explore.atlas.meaning import Traits
from tide_lightning.explore.atlas.neighbours import Nearest
from tide_lightning.explore.atlas.sheets import COLUMNS, THUMBNAILS_A_SHEET, heat_sheet, thumbnail_sheets
from tide_lightning.files import write_bytes
from tide_lightning.pages import STYLESHEET

LATENTS_A_FILE = 64
_MAX_CAPTION = 400  # letters of a caption on a page; the tables hold all of it
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def write_pages(
    folder: Path,
    title: str,
    charts: Sequence[Chart],
    traits: Traits,
    captions: Sequence[str],
    pictures: Sequence[Image.Image],
    steps: str,
) -> Path:
    """Write the site; `steps` says in words how samples were read."""
    static = files("tide_lightning.explore.atlas") / "static"
    write_bytes(folder / "tide.css", STYLESHEET.encode())
    for name in ("atlas.css", "atlas.js"):
        write_bytes(folder / name, (static / name).read_bytes())
    for number, sheet in enumerate(thumbnail_sheets(pictures)):
        write_bytes(folder / "data" / f"thumbnails-{number}.webp", sheet)
    _write_value(folder / "data" / "samples.js", "samples", [_shortened(caption) for caption in captions])
    counted = zip(traits.names, traits.has.sum(0).tolist(), strict=True)
    for chart in charts:
        _write_chart(folder / "data" / folder_name(chart.site), chart)
    _write_value(
        folder / "data" / "meta.js",
        "meta",
        {
            "title": title,
            "steps": steps,
            "thumbnail": {"side": pictures[0].size[0], "each": THUMBNAILS_A_SHEET},
            "latentsEach": LATENTS_A_FILE,
            "traits": [[kind, _shortened(text), count] for (kind, text), count in counted],
            "samples": len(captions),
            "sites": [
                {
                    "site": chart.site,
                    "folder": folder_name(chart.site),
                    "latents": chart.num_latents,
                    "live": len(chart.latents),
                    "bins": chart.profile.shape[1],
                    "tops": chart.top_samples.shape[1],
                    "map": list(chart.map_shape),
                }
                for chart in charts
            ],
        },
    )
    return write_bytes(folder / "index.html", (static / "index.html").read_bytes())  # last: what it needs is there


def read_thumbnails(folder: Path) -> list[Image.Image]:
    """The samples' pictures of an atlas, in order."""
    meta = _read_value(folder / "data" / "meta.js")
    side, each = meta["thumbnail"]["side"], meta["thumbnail"]["each"]
    pictures = []
    for start in range(0, meta["samples"], each):
        path = folder / "data" / f"thumbnails-{start // each}.webp"
        try:
            sheet = Image.open(path).convert("RGB")
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error}); build the atlas again") from error
        for place in range(min(each, meta["samples"] - start)):
            left, upper = place % COLUMNS * side, place // COLUMNS * side
            pictures.append(sheet.crop((left, upper, left + side, upper + side)))
    return pictures


def _write_chart(folder: Path, chart: Chart) -> None:
    meaning = chart.meaning
    index = {
        "latent": chart.latents.tolist(),
        "frequency": _rounded(chart.frequency.tolist()),
        "time": [round(value, 3) for value in chart.time.tolist()],
        "tells": [round(value, 3) for value in meaning.tells.tolist()],
        "profile": [_digits(row) for row in chart.profile.nan_to_num().tolist()],
        "sample": chart.top_samples[:, 0].tolist(),
        "traits": [[number for number in row if number >= 0] for row in meaning.traits.tolist()],
    }
    _write_value(folder / "index.js", chart.site, index)
    for number, start in enumerate(range(0, len(chart.latents), LATENTS_A_FILE)):
        rows = range(start, min(start + LATENTS_A_FILE, len(chart.latents)))
        _write_value(folder / f"{number}.js", f"{chart.site} {number}", [_details(chart, row) for row in rows])
        if chart.map_shape != (1, 1):
            maps = chart.maps[start : start + LATENTS_A_FILE]
            write_bytes(folder / f"{number}.png", heat_sheet(maps, chart.map_shape))


def _details(chart: Chart, row: int) -> dict[str, Any]:
    meaning = chart.meaning
    told = zip(*(part[row].tolist() for part in meaning[:4]), strict=True)
    top = zip(chart.top_samples[row].tolist(), chart.top_peaks[row].tolist(), strict=True)
    return {
        "profile": [None if value != value else float(f"{value:.3g}") for value in chart.profile[row].tolist()],
        "strength": _rounded(chart.strength[row].tolist()),
        "top": [[sample, float(f"{peak:.3g}")] for sample, peak in top if sample >= 0],
        "images": int(meaning.images[row]),
        "traits": [[trait, round(a, 3), round(lift, 2), hits] for trait, a, lift, hits in told if trait >= 0],
        "nearest": list(_pairs(chart.nearest, row)),
        "together": {site: list(_pairs(nearest, row)) for site, nearest in chart.together.items()},
    }


def _pairs(nearest: Nearest, row: int) -> Iterator[list[float]]:
    for latent, value in zip(nearest.latents[row].tolist(), nearest.values[row].tolist(), strict=True):
        if latent >= 0:
            yield [latent, round(value, 3)]


def _write_value(path: Path, name: str, value: Any) -> None:
    """A script that hands a value over under a name."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    write_bytes(path, f"atlas.receive({json.dumps(name)},{text});\n".encode())


def _read_value(path: Path) -> Any:
    """What `_write_value` wrote."""
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text.removeprefix("atlas.receive(").rstrip().removesuffix(");").partition(",")[2])
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no atlas there, or not a whole one; build it with `tide atlas`") from error


def _digits(profile: Sequence[float]) -> str:
    """Each bin's share of the highest, as one digit of 36."""
    most = max(profile) or 1.0
    return "".join(_DIGITS[round(value / most * (len(_DIGITS) - 1))] for value in profile)


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.3g}") for value in values]


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_CAPTION else f"{text[:_MAX_CAPTION]}…"

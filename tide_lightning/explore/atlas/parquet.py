"""An atlas as parquet: for pandas, polars and DuckDB, and for `explore.lookup`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tide_lightning.errors import UserError
from tide_lightning.explore.atlas.chart import Chart
from tide_lightning.explore.atlas.meaning import Traits
from tide_lightning.explore.atlas.neighbours import Nearest
from tide_lightning.explore.atlas.reading import Labels
from tide_lightning.files import whole_file

SCHEMA = b"2"


def write_tables(
    folder: Path, charts: Sequence[Chart], traits: Traits, captions: Sequence[str], labels: Sequence[Labels]
) -> list[Path]:
    """Write features.parquet (a row for each live latent), samples.parquet and peaks.parquet (latent, sample, peak)."""
    samples = {
        "sample": list(range(len(captions))),
        "caption": list(captions),
        "factors": [[{"factor": name, "value": value} for name in one for value in one[name]] for one in labels],
    }
    return [
        _write(
            folder / "features.parquet", pa.Table.from_pylist([row for c in charts for row in _features(c, traits)])
        ),
        _write(folder / "samples.parquet", pa.table(samples, schema=_SAMPLES)),
        _write(folder / "peaks.parquet", pa.concat_tables([_peaks(chart) for chart in charts])),
    ]


def read_table(path: Path) -> pa.Table:
    """A table of an atlas."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: not a table of an atlas ({str(error).splitlines()[0]})") from error
    if (table.schema.metadata or {}).get(b"schema") != SCHEMA:
        raise UserError(f"{path}: written by another version; build the atlas again")
    return table


_SAMPLES = pa.schema(
    [
        ("sample", pa.int32()),
        ("caption", pa.string()),
        ("factors", pa.list_(pa.struct([("factor", pa.string()), ("value", pa.string())]))),
    ]
)


def _features(chart: Chart, traits: Traits) -> list[dict[str, Any]]:
    meaning, time = chart.meaning, chart.time.tolist()
    rows = []
    for place, latent in enumerate(chart.latents.tolist()):
        top = [
            {"sample": sample, "peak": peak}
            for sample, peak in zip(chart.top_samples[place].tolist(), chart.top_peaks[place].tolist(), strict=True)
            if sample >= 0
        ]
        rows.append(
            {
                "site": chart.site,
                "latent": latent,
                "frequency": float(chart.frequency[place]),
                "time": time[place],
                "frequency_by_bin": chart.profile[place].tolist(),
                "strength_by_bin": chart.strength[place].tolist(),
                "tells": float(meaning.tells[place]),
                "images": int(meaning.images[place]),
                "traits": [_trait(meaning, traits, place, number) for number in _shown(meaning.traits[place])],
                "top": top,
                "nearest": _nearest(chart.nearest, place, "cosine"),
                "together": [
                    {"site": site, **row}
                    for site in chart.together
                    for row in _nearest(chart.together[site], place, "share")
                ],
            }
        )
    return rows


def _trait(meaning: Any, traits: Traits, place: int, number: int) -> dict[str, Any]:
    kind, text = traits.names[int(meaning.traits[place, number])]
    return {
        "factor": kind or None,
        "text": text,
        "auroc": float(meaning.auroc[place, number]),
        "lift": float(meaning.lift[place, number]),
        "hits": int(meaning.hits[place, number]),
    }


def _shown(numbers: Any) -> list[int]:
    return [place for place, number in enumerate(numbers.tolist()) if number >= 0]


def _nearest(nearest: Nearest, place: int, measure: str) -> list[dict[str, Any]]:
    pairs = zip(nearest.latents[place].tolist(), nearest.values[place].tolist(), strict=True)
    return [{"latent": latent, measure: value} for latent, value in pairs if latent >= 0]


def _peaks(chart: Chart) -> pa.Table:
    row, sample = chart.peaks.nonzero(as_tuple=True)
    columns: Mapping[str, pa.Array] = {
        "site": pa.DictionaryArray.from_arrays(pa.array([0] * len(row), pa.int32()), pa.array([chart.site])),
        "latent": pa.array(chart.latents[row].numpy(), pa.int32()),
        "sample": pa.array(sample.numpy(), pa.int32()),
        "peak": pa.array(chart.peaks[row, sample].numpy(), pa.float32()),
    }
    table = pa.table(dict(columns))
    return table.set_column(0, "site", table["site"].cast(pa.string()))


def _write(path: Path, table: pa.Table) -> Path:
    with whole_file(path) as part:
        pq.write_table(table.replace_schema_metadata({b"schema": SCHEMA}), part, compression="zstd")
    return path

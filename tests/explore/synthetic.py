"""Atlases of made-up statistics, written by the real code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from tide_lightning.explore.atlas.chart import draw_chart
from tide_lightning.explore.atlas.meaning import gather_traits
from tide_lightning.explore.atlas.neighbours import FiringSample
from tide_lightning.explore.atlas.pages import write_pages
from tide_lightning.explore.atlas.parquet import write_tables
from tide_lightning.explore.atlas.reading import Labels
from tide_lightning.explore.atlas.statistics import SiteStatistics
from tide_lightning.saes import SparseCode

CPU = torch.device("cpu")
_TIMES = (0.125, 0.375, 0.625, 0.875)


def write_atlas(
    folder: Path,
    captions: Sequence[str],
    peaks_FS: Tensor,
    pictures: Sequence[Image.Image],
    labels: Sequence[Labels] | None = None,
    sites: Sequence[str] = ("block",),
    title: str = "made up",
) -> Path:
    """An atlas whose latents fire at one token of four in each image, as high as told, less and less with t."""
    labels = [{} for _ in captions] if labels is None else labels
    traits = gather_traits(captions, labels, CPU)
    charts = []
    for site in sites:
        statistics = SiteStatistics(len(peaks_FS), (2, 2), len(captions), len(_TIMES), 4, CPU)
        firing = FiringSample(len(peaks_FS), 1.0, CPU)
        for t in _TIMES:
            dense = torch.zeros(len(captions), 4, len(peaks_FS))
            for latent in range(len(peaks_FS)):
                dense[:, latent % 4, latent] = (peaks_FS[latent] - 0.5 * (t - _TIMES[0])).clamp(min=0)
            code = SparseCode.from_dense(dense.flatten(0, 1))
            statistics.add(code, t)
            firing.add(code)
        statistics.end_group(0, len(captions))
        directions = torch.eye(len(peaks_FS)) + 0.1
        charts.append(draw_chart(site, statistics, traits, directions, firing, {site: firing}))
    write_tables(folder / "tables", charts, traits, captions, labels)
    return write_pages(folder, title, charts, traits, captions, pictures, f"{len(captions)} made-up images")

"""`tide atlas`: every live latent of a run on a page of its own."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image

from tide_lightning.diffusion import unlabelled
from tide_lightning.errors import UserError
from tide_lightning.explore.atlas.chart import Chart, draw_chart
from tide_lightning.explore.atlas.meaning import Traits, gather_traits
from tide_lightning.explore.atlas.neighbours import FiringSample
from tide_lightning.explore.atlas.pages import write_pages
from tide_lightning.explore.atlas.parquet import write_tables
from tide_lightning.explore.atlas.reading import Group, Labels, num_samples_of, read_groups
from tide_lightning.explore.atlas.sheets import thumbnails
from tide_lightning.explore.atlas.statistics import SiteStatistics
from tide_lightning.explore.names import Key, Name, write_names
from tide_lightning.explore.requests import parse_names
from tide_lightning.explore.run import Run, open_run
from tide_lightning.files import check_writable
from tide_lightning.runs import to_write_in
from tide_lightning.saes import SAE
from tide_lightning.waiting import counting

_FIRING_TOKENS = 16384  # looked at to learn which latents fire together


def atlas(
    run: str,
    out: str | None = None,
    sites: str = "",
    samples: int = 512,
    bins: int = 8,
    images: int = 6,
    thumbnail: int = 96,
    batch: int = 32,
    seed: int = 0,
    device: str = "auto",
    trust: bool = False,
) -> None:
    """Build an atlas of a run: a folder whose index.html opens in any browser, and its data as parquet.

    Args:
        run: run folder, or name below ./runs.
        out: folder to write; `atlas` in the run's folder unless given.
        sites: keys of SAEs, separated by commas; all unless given.
        samples: held-out images (or prompts, for a run on trajectories) that are read.
        bins: equal bins of the normalised timestep.
        images: shown of each latent: those in which it fires most.
        thumbnail: side of a small image in pixels.
        batch: samples read at once.
        seed: of the noise.
        device: where to read; auto takes a GPU where there is one.
        trust: let the run's config import classes that are not this package's, and read prompts from elsewhere.
    """
    opened = open_run(run, device, trust=trust)
    folder = Path(out) if out else to_write_in(opened.folder, Path("runs")) / "atlas"
    check_writable(folder, is_folder=True)
    page = _build(opened, folder, parse_names(sites) or None, samples, bins, images, thumbnail, batch, seed)
    print(f"written  {page}: open it in a browser")
    print(f"next     tide find {shlex.quote(run)} WORD, tide play {shlex.quote(run)}")


@torch.no_grad()
def _build(
    run: Run,
    folder: Path,
    sites: Sequence[str] | None,
    samples: int,
    bins: int,
    images: int,
    thumbnail: int,
    batch: int,
    seed: int,
) -> Path:
    """Write the atlas; its page."""
    if min(samples, bins, images, thumbnail, batch) < 1:
        raise UserError("atlas: samples, bins, images, thumbnail and batch must be at least 1")
    saes = run.chosen(sites)
    count = num_samples_of(run, samples)
    statistics = {
        key: SiteStatistics(sae.d_sae, sae.shape.grid, count, bins, images, run.device) for key, sae in saes.items()
    }
    firing = {key: _firing_sample(sae, count, bins, run) for key, sae in saes.items()}
    captions: list[str] = []
    labels: list[Labels] = []
    pictures: list[Image.Image] = []
    step = counting("atlas  reading samples", count)
    for group in read_groups(run, saes, count, bins, batch, seed):
        _add(group, saes, statistics, firing, first=len(captions))
        captions += group.captions
        labels += group.labels
        pictures += thumbnails(group.images, thumbnail)
        step(len(group.captions))
    traits = gather_traits(captions, labels, run.device)
    charts = []
    for number, (key, sae) in enumerate(saes.items()):
        print(f"atlas  {key}, site {number + 1} of {len(saes)}: {len(statistics[key].live)} live latents", flush=True)
        directions = sae.W_dec if sae.metric is None else sae.metric.back(sae.W_dec)
        charts.append(draw_chart(key, statistics.pop(key), traits, directions, firing[key], _around(key, saes, firing)))
    write_tables(folder / "tables", charts, traits, captions, labels)
    write_names(to_write_in(run.folder, Path("runs")), names_of(charts, traits), list(saes))
    steps = f"{count} held-out {'trajectories' if run.data.source == 'denoise' else 'images'}, {bins} bins of time"
    return write_pages(folder, run.name, charts, traits, captions, pictures, steps)


def names_of(charts: Sequence[Chart], traits: Traits) -> dict[Key, Name]:
    """What latents are called: the first of what each stands for."""
    names = {}
    for chart in charts:
        rows = zip(chart.latents.tolist(), chart.meaning.traits.tolist(), chart.meaning.tells.tolist(), strict=True)
        for latent, shown, tells in rows:
            if shown and shown[0] >= 0:
                names[chart.site, latent] = Name(traits.label(shown[0]), tells)
    return names


def _add(
    group: Group,
    saes: Mapping[str, SAE],
    statistics: Mapping[str, SiteStatistics],
    firing: Mapping[str, FiringSample],
    first: int,
) -> None:
    for key, sae in saes.items():
        for look in group.looks:
            tokens = look.tokens[unlabelled(key)]
            code = sae.encode(tokens.x.float(), tokens.context)
            statistics[key].add(code, look.t)
            firing[key].add(code)
        statistics[key].end_group(first, len(group.captions))


def _firing_sample(sae: SAE, num_samples: int, num_bins: int, run: Run) -> FiringSample:
    looks = num_bins if run.data.source != "denoise" else run.data.trajectories.num_inference_steps
    tokens = num_samples * looks * math.prod(sae.shape.grid)
    return FiringSample(sae.d_sae, min(1.0, _FIRING_TOKENS / tokens), run.device)


def _around(key: str, saes: Mapping[str, SAE], firing: Mapping[str, FiringSample]) -> dict[str, FiringSample]:
    """The site itself, and those before and behind it whose tokens are the same."""
    keys = list(saes)
    place = keys.index(key)
    near = [key, *keys[max(place - 1, 0) : place], *keys[place + 1 : place + 2]]
    return {other: firing[other] for other in near if saes[other].shape.grid == saes[key].shape.grid}

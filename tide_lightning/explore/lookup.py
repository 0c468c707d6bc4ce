"""Latents looked up in an atlas that was built before: no denoiser is run, so the answer comes at once.

By words, a latent is judged by how well it ranks the images whose captions say the query: what it goes with, not what
it causes (that is `retrieval`'s question). With a CLIP or SigLIP at hand, captions are not needed: every latent has a
centroid of its images' embeddings, and a text is compared with it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor

from tide_lightning.errors import UserError
from tide_lightning.evaluation.scores import auroc
from tide_lightning.explore.atlas.pages import read_thumbnails
from tide_lightning.explore.atlas.parquet import read_table
from tide_lightning.explore.embedding import ImageText
from tide_lightning.explore.names import Key, Name, in_words
from tide_lightning.explore.phrases import Phrase, says, words


class Listed(NamedTuple):
    """A latent of an atlas.

    Fields:
        site: key of its SAE.
        latent: number in its dictionary.
        score: what the list is sorted by.
        samples: how many images say what was asked for, and how many it was told from; for centroids its images.
    """

    site: str
    latent: int
    score: float
    samples: tuple[int, int]


@dataclass(frozen=True)
class AtlasTables:
    """The tables of an atlas."""

    folder: Path

    @staticmethod
    def is_one(folder: Path) -> bool:
        """Whether an atlas lies there."""
        return (folder / "tables" / "peaks.parquet").is_file()

    @cached_property
    def captions(self) -> list[Phrase]:
        """Of the samples, as words."""
        table = read_table(self.folder / "tables" / "samples.parquet")
        return [words(caption) for caption in table["caption"].to_pylist()]

    @cached_property
    def names(self) -> dict[Key, Name]:
        """What latents are called, as the pages and the run's folder have it."""
        rows = read_table(self.folder / "tables" / "features.parquet").select(["site", "latent", "traits", "tells"])
        return {
            (row["site"], row["latent"]): Name(in_words(first["factor"], first["text"]), round(row["tells"], 3))
            for row in rows.to_pylist()
            for first in row["traits"][:1]
        }

    def peaks(self, sites: Collection[str] | None) -> Iterator[tuple[str, Tensor, Tensor]]:
        """For each site (of some) its live latents [F] and their peaks in every sample [F, S]."""
        table = read_table(self.folder / "tables" / "peaks.parquet")
        there = pc.unique(table["site"]).to_pylist()
        for site in sites or ():
            if site not in there:
                raise UserError(f"site {site!r}: this atlas has {', '.join(there)}")
        for site in there if sites is None else [name for name in there if name in sites]:
            part = table.filter(pc.equal(table["site"], site))
            latents, row = np.unique(part["latent"].to_numpy(), return_inverse=True)
            dense = torch.zeros(len(latents), len(self.captions))
            at = torch.from_numpy(row), torch.from_numpy(part["sample"].to_numpy().astype(np.int64))
            dense[at] = torch.from_numpy(part["peak"].to_numpy().copy())
            yield site, torch.from_numpy(latents.astype(np.int64)), dense


def look_up(
    folder: str | Path, query: str, against: str | None = None, top: int = 10, sites: Collection[str] | None = None
) -> list[Listed]:
    """The latents of an atlas that best tell images whose captions say something; the score is the AUROC.

    Args:
        folder: of the atlas.
        query: a word or a few, as they stand in captions.
        against: tell them from the images that say this (and not the query); unless given, from all others.
        top: at most so many.
        sites: keys of SAEs; all unless given.
    """
    tables = AtlasTables(Path(folder))
    asked = torch.tensor([says(caption, words(query)) for caption in tables.captions])
    others = ~asked
    if against is not None:
        others &= torch.tensor([says(caption, words(against)) for caption in tables.captions])
    counts = int(asked.sum()), int(others.sum())
    if not all(counts):
        raise UserError(
            f"{folder}: {counts[0]} captions say {query!r} and {counts[1]} say "
            f"{repr(against) if against is not None else 'something else'}; both are needed: ask in the captions' words"
        )
    kept = asked | others
    found = []
    for site, latents, peaks in tables.peaks(sites):
        scores = auroc(peaks[:, kept].T, asked[kept][:, None]).squeeze(0)
        found += _best(site, latents, scores, top, counts)
    return sorted(found, key=lambda one: -one.score)[:top]


@torch.no_grad()
def look_up_by_centroid(
    folder: str | Path,
    query: str,
    model: str,
    against: str | None = None,
    top: int = 10,
    sites: Collection[str] | None = None,
    num_images: int = 20,
) -> list[Listed]:
    """The latents of an atlas whose images look like a text to a CLIP or SigLIP; the score is a cosine.

    A latent's centroid is the mean embedding of the images it peaks in, weighed by its peaks, beyond the mean of all
    images; it is compared with the text's embedding, beyond that of `against`.

    Args:
        folder: of the atlas.
        query: any text.
        model: folder or hub id of the CLIP or SigLIP.
        against: a text whose meaning is taken away.
        top: at most so many.
        sites: keys of SAEs; all unless given.
        num_images: highest peaks that count.
    """
    tables, embedder = AtlasTables(Path(folder)), ImageText(model)
    images = embedder.images(read_thumbnails(Path(folder)))
    images = images - images.mean(0)
    text = embedder.texts([query])[0] - (0 if against is None else embedder.texts([against])[0])
    text = torch.nn.functional.normalize(text, dim=0)
    found = []
    for site, latents, peaks in tables.peaks(sites):
        values, order = peaks.topk(min(num_images, peaks.shape[1]))
        centroids = (values[:, :, None] * images[order]).sum(1)
        scores = torch.nn.functional.normalize(centroids, dim=1) @ text
        found += _best(site, latents, scores, top, (int(values.shape[1]), len(images)))
    return sorted(found, key=lambda one: -one.score)[:top]


def _best(site: str, latents: Tensor, scores: Tensor, top: int, counts: tuple[int, int]) -> list[Listed]:
    values, place = scores.topk(min(top, len(scores)))
    return [
        Listed(site, latent, score, counts)
        for latent, score in zip(latents[place].tolist(), values.tolist(), strict=True)
    ]

"""`tide find`: latents by words, by words against words, by two prompts or by two images."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from rich.markup import escape
from rich.table import Column, Table

from tide_lightning.errors import UserError
from tide_lightning.explore.finder import STEPS_TO_FIND, Found, find_by_images, find_by_prompts, find_by_words
from tide_lightning.explore.lookup import AtlasTables, look_up, look_up_by_centroid
from tide_lightning.explore.names import Key, Name
from tide_lightning.explore.pictures import read_picture
from tide_lightning.explore.question import open_about, unsaid
from tide_lightning.explore.requests import parse_names
from tide_lightning.explore.run import Run, open_run
from tide_lightning.explore.unit import unit_of
from tide_lightning.terminal import console
from tide_lightning.waiting import stepping, waiting

_LEGEND = (
    "called: what the atlas calls it, and how surely that tells its images (.5 is luck); told: the chance that it fires"
    " higher in an image with what was asked than in one with something else in its place; with, without: its highest"
    " value in such an image, in the mean over steps; push: what steers by it, as a multiple of how far the word itself"
    " moves it"
)


def find(
    where: str,
    query: str,
    against: str | None = None,
    by: Literal["words", "prompts", "images"] = "words",
    clip: str | None = None,
    sites: str = "",
    top: int = 10,
    seed: int = 0,
    device: str = "auto",
    trust: bool = False,
) -> None:
    """Find latents: in a run by what they do when the denoiser draws, in an atlas by what was seen there.

    Args:
        where: run folder (or its name below ./runs), or the folder of an atlas.
        query: a word or a few; with --by prompts a prompt, with --by images a file.
        against: what the query is told from; for prompts and images it is needed.
        by: what query and against are: words, prompts or images.
        clip: folder or hub id of a CLIP or SigLIP that compares an atlas's images with the query, in place of captions.
        sites: keys of SAEs, separated by commas; all unless given.
        top: how many are listed.
        seed: of the noise.
        device: where to ask; auto takes a GPU where there is one.
        trust: let the run's config import classes that are not this package's, and read prompts from elsewhere.
    """
    if top < 1:
        raise UserError(f"--top {top}: at least 1")
    if not query.strip():
        raise UserError("say what to find: the query is empty")
    chosen = parse_names(sites) or None
    if AtlasTables.is_one(Path(where)):
        _print_listed(where, query, against, by, clip, chosen, top)
        return
    if clip is not None:
        raise UserError(
            f"--clip compares texts with the images of an atlas, and {where} is none: give an atlas's folder"
        )
    if by != "words" and against is None:
        raise UserError(f"--by {by} compares two: give --against")
    run = open_run(where, device, trust=trust)
    pictures = [read_picture(run.denoiser, one) for one in (query, str(against))] if by == "images" else []
    settings: dict[str, Any] = {"sites": chosen, "top": top, "seed": seed}
    if by == "images":
        with waiting("Watching latents while both images are read"):
            found = find_by_images(run, *pictures, **settings)
    elif by == "prompts":
        with searching() as step:
            found = find_by_prompts(run, query, str(against), **settings, callback=step)
    else:
        warn_unsaid(run, query)
        with searching() as step:
            found = find_by_words(run, query, against, **settings, callback=step)
    table = _table(query, _LEGEND, "called", "told", "with", "without", "push")
    for one in found:
        figures = f"{one.tells:.2f}", f"{one.level:.1f}", f"{one.level - one.rise:.1f}"
        push = _push(run, one, query, against) if by == "words" else f"{one.amount / one.rise:.1f}x"
        push += ", at its own places" if one.home is not None else ""
        table.add_row(*_who(run.names, one.site, one.latent), *figures, push)
    console().print(table)
    if not run.names:
        print(f"names: tide atlas {shlex.quote(where)}")
    if by == "words" and found:
        print(f"next   {steering(where, open_about(query, run.captions), query, against)}")


def steering(where: str, prompt: str, query: str, against: str | None) -> str:
    """The command that steers by the first answer."""
    asked = ["--find", query] + ([] if against is None else ["--against", against])
    return shlex.join(["tide", "steer", where, "--prompt", prompt, *asked])


def _push(run: Run, found: Found, query: str, against: str | None) -> str:
    unit = unit_of(run, (found.site, found.latent), query, against)
    return f"{found.amount / unit.amount:.1f}x" + ("" if unit.is_by_word else ", hardly moved by it")


def warn_unsaid(run: Run, query: str) -> None:
    """Say so where no caption knows the query: it may be misspelt."""
    if told := unsaid(query, run.captions):
        print(told, file=sys.stderr)


def searching() -> AbstractContextManager[Callable[..., None]]:
    """Show how far it is while the denoiser draws; what this gives is the finder's callback."""
    return stepping("Watching latents while images are drawn with it and without", STEPS_TO_FIND)


def _print_listed(
    where: str, query: str, against: str | None, by: str, clip: str | None, sites: list[str] | None, top: int
) -> None:
    if by != "words":
        raise UserError(f"--by {by} asks the denoiser: give a run folder, not an atlas")
    wanted = None if sites is None else set(sites)
    if clip is None:
        found = look_up(where, query, against, top, wanted)
        basis = f"from {found[0].samples[0]} images that say it and {found[0].samples[1]} others"
    else:
        found = look_up_by_centroid(where, query, clip, against, top, wanted)
        basis = f"from the {found[0].samples[0]} images of each in which it peaks highest"
    table = _table(query, basis, "called", "told" if clip is None else "cosine", "page")
    names = AtlasTables(Path(where)).names
    for one in found:
        page = f"index.html#{quote(one.site, safe='')}/{one.latent}"
        table.add_row(*_who(names, one.site, one.latent), f"{one.score:.2f}", escape(page))
    console().print(table)


def _table(query: str, caption: str, *columns: str) -> Table:
    return Table(Column("latent", no_wrap=True), *columns, title=escape(query), title_justify="left", caption=caption)


def _who(names: Mapping[Key, Name], site: str, latent: int) -> tuple[str, str]:
    return f"{escape(site)}/{latent}", escape(str(names.get((site, latent), "")))

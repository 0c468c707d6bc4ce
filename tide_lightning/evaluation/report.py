"""The report: one HTML page of a run, self-contained, that says the same as metrics.json."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from tide_lightning.evaluation import headlines
from tide_lightning.evaluation.end_to_end import EndToEnd
from tide_lightning.evaluation.findings import finding
from tide_lightning.evaluation.page import (
    Block,
    breakable,
    data_uri,
    html_commands,
    html_lines,
    html_list,
    html_page,
    html_part,
)
from tide_lightning.evaluation.plots import draw_plots, image_grid, image_strip, save_image
from tide_lightning.evaluation.sections import Plot, Section
from tide_lightning.evaluation.verdict import verdict
from tide_lightning.files import write_bytes
from tide_lightning.intervene.splicing import ALL

NUM_FIRST = 2
"""Prompts whose images stand at the top; the others come further down."""

_CAPTIONS = {
    "explained_variance": "Explained variance by timestep, beside the floors; in each bin about the bin's own mean.",
    "loss_increase": "How much the denoising loss rises where activations are replaced (log scale above 10 %).",
    "l0": "Latents that fire for a token, by timestep.",
    "firing_frequency": "How often latents fire. Left of the dashed line they count as dead.",
}


def write_report(
    folder: Path,
    title: str,
    metrics: Mapping[str, Any],
    end_to_end: EndToEnd | None = None,
    config: str | None = None,
    others: Sequence[Section] = (),
    drawn: Mapping[str, bytes] | None = None,
) -> Path:
    """Write index.html and its plots as files into a folder; the page itself needs none of them.

    What `draw_plots` makes of the metrics may be given as `drawn`.
    """
    drawn = draw_plots(metrics) if drawn is None else drawn
    plots = [Plot(name, png, _CAPTIONS[name], finding(name, metrics)) for name, png in drawn.items()]
    for plot in (*plots, *(part for section in others for part in section.parts if isinstance(part, Plot))):
        write_bytes(folder / f"{plot.name}.png", plot.png)
    if end_to_end is not None:
        write_bytes(folder / "images.png", save_image(image_grid(end_to_end.images)))
    minutes = metrics.get("budget", {}).get("minutes", 0)
    fidelity = html_part(headlines.fidelity(metrics)) + html_list(headlines.reservations(metrics))
    unfolds = f"<details><summary>config.yaml</summary><pre>{escape(config)}</pre></details>" if config else ""
    spliced = _images(end_to_end, NUM_FIRST)
    blocks = [
        Block("In short", html_lines(verdict(metrics).lines) + spliced + html_commands(_next(title))),
        Block(f"Cut to fit a budget of {minutes:g} minutes", html_list(headlines.cuts(metrics)), is_warning=True),
        Block("To be explained", html_list(headlines.faults(metrics)), is_warning=True),
        Block("At a glance", html_part(headlines.overview(metrics)) + html_part(headlines.reconstruction(metrics))),
        Block("Floors: what cheaper predictors explain", html_part(headlines.floors(metrics))),
        Block("Fidelity: the denoiser's loss with replaced activations", fidelity),
        Block("Over the timestep", "".join(map(html_part, plots))),
        Block(
            "End to end: the same noise, with and without splicing",
            html_part(headlines.similarity(metrics)) + _images(end_to_end, None, NUM_FIRST),
        ),
        *(Block(section.title, "".join(map(html_part, section.parts))) for section in others),
        Block("Config", unfolds),
    ]
    return write_bytes(folder / "index.html", html_page(title, _measured_on(metrics), blocks).encode())


def _measured_on(metrics: Mapping[str, Any]) -> str:
    words = []
    if metrics.get("sites"):
        where = "trajectories" if metrics.get("test_source") == "denoise" else "noised samples"
        words.append(f"{next(iter(metrics['sites'].values()))['tokens']:,} held-out tokens a site, of {where}")
    if samples := metrics.get("fidelity", {}).get("samples"):
        words.append(f"fidelity on {samples:,} samples")
    if speed := metrics.get("throughput", {}).get("tokens_per_second"):
        words.append(f"{speed:,.0f} tokens a second")
    return "; ".join(words)


def _next(run: str) -> dict[str, str]:
    """What to do with a tested run."""
    name = shlex.quote(run)
    return {
        f"tide atlas {name}": "Next: see what each latent fires for, and give it a name,",
        f"tide play {name}": "raise and lower latents while images are drawn,",
        f"tide find {name} WORD": "or find the latents that fire for a word.",
    }


def _images(end_to_end: EndToEnd | None, until: int | None, first: int = 0) -> str:
    """Some prompts' images, each case beside the original."""
    if end_to_end is None or not end_to_end.prompts[first:until]:
        return ""
    cases = [headlines.ALL_SITES if case == ALL else case for case in end_to_end.cases]
    names = "".join(f"<span>{breakable(case)}</span>" for case in cases)
    width = f'style="--width: {6 * len(end_to_end.cases)}rem"'
    strips = list(zip(end_to_end.prompts, image_strip(end_to_end.images), strict=True))
    return "".join(
        f'<figure><div class="wide" role="region" tabindex="0" aria-label="Images of: {escape(prompt)}">'
        f'<div class="strip" {width}><div class="names">{names}</div>'
        f'<img alt="The same prompt and noise: {escape(", ".join(cases))}" src="{data_uri(png)}"></div></div>'
        f"<figcaption>“{escape(prompt)}”, from the same noise: the original, then with what the SAEs make of "
        "activations in place of the activations themselves, at every step.</figcaption></figure>"
        for prompt, png in strips[first:until]
    )

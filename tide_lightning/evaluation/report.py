"""The report: one HTML page of a run, self-contained, that says the same as metrics.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import yaml

from tide_lightning.evaluation.budget import cut_lines
from tide_lightning.evaluation.end_to_end import EndToEnd
from tide_lightning.evaluation.figures import number
from tide_lightning.evaluation.files import write_bytes
from tide_lightning.evaluation.floors import FLOORS
from tide_lightning.evaluation.page import Block, block_of, breakable, data_uri, html_page, html_plot, html_table
from tide_lightning.evaluation.plots import FLOOR_NAMES, draw_plots, image_grid, image_strip, save_image
from tide_lightning.evaluation.sections import Plot, Section
from tide_lightning.evaluation.settings import flat_settings
from tide_lightning.intervene.splicing import ALL

_CAPTIONS = {
    "explained_variance": "Explained variance by timestep, beside the floors; in each bin about the bin's own mean.",
    "loss_increase": "How much the denoising loss rises where activations are replaced (log scale above 10 %).",
    "l0": "Latents that fire for a token, by timestep.",
    "firing_frequency": "How often latents fire. Left of the dashed line they count as dead.",
}


_SIMILARITY = {
    "cosine_centred": ("centred cosine", ".4f"),
    "mse": ("MSE", ".4f"),
    "cosine": ("raw cosine", ".4f"),
    "frechet": ("Fréchet distance to real images", ".1f"),
    "frechet_to_original": ("Fréchet distance to originals", ".1f"),
    "clip_score": ("CLIP score", ".2f"),
}


def write_report(
    folder: Path,
    title: str,
    metrics: Mapping[str, Any],
    end_to_end: EndToEnd | None = None,
    config: str | None = None,
    others: Sequence[Section] = (),
) -> Path:
    """Write index.html and its plots as files into a folder; the page itself needs none of them.

    Args:
        folder: `<run>/report`.
        title: the run's name.
        metrics: the contents of metrics.json.
        end_to_end: trajectories with their images.
        config: the run's config.yaml.
        others: what other callbacks measured.
    """
    plots = draw_plots(metrics)
    for name, png in plots.items():
        write_bytes(folder / f"{name}.png", png)
    for plot in (part for section in others for part in section.parts if isinstance(part, Plot)):
        write_bytes(folder / f"{plot.name}.png", plot.png)
    if end_to_end is not None:
        write_bytes(folder / "images.png", save_image(image_grid(end_to_end.images)))
    blocks = [
        Block(_cut_title(metrics), _cuts(metrics), is_warning=True),
        Block("To be explained", _faults(metrics), is_warning=True),
        Block("At a glance", _overview(metrics)),
        Block("Floors: what cheaper predictors explain", _floors(metrics)),
        Block("Fidelity: the denoiser's loss with replaced activations", _fidelity(metrics)),
        Block("Over the timestep", "".join(html_plot(png, _CAPTIONS[name]) for name, png in plots.items())),
        Block("End to end: the same noise, with and without splicing", _similarity(metrics) + _images(end_to_end)),
        *map(block_of, others),
        Block(
            "Config", f"<details><summary>config.yaml</summary><pre>{escape(config)}</pre></details>" if config else ""
        ),
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


def _overview(metrics: Mapping[str, Any]) -> str:
    fidelity = metrics.get("fidelity", {}).get("sites", {})
    rows = [
        [
            site,
            number(found.get("explained_variance")),
            number(found.get("explained_variance_beyond_known")),
            number(fidelity.get(site, {}).get("loss_increase"), "+.1%"),
            number(found.get("alive_fraction"), ".1%"),
            number(found.get("l0"), ".1f"),
            number(found.get("mse")),
            number(found.get("nmse")),
            number(found.get("cosine_centred")),
            number(found.get("cosine")),
        ]
        for site, found in metrics.get("sites", {}).items()
    ]
    head = ["site", "explained variance", "beyond known", "loss increase", "alive", "L0", "MSE (activation's units²)"]
    note = "Raw cosine is inflated by the activations' mean: read the centred one."
    few = {
        found["alive_fraction_note"] for found in metrics.get("sites", {}).values() if "alive_fraction_note" in found
    }
    notes = [note, *(f"Alive {text}." for text in sorted(few))]
    return html_table([*head, "normalised MSE", "centred cosine", "raw cosine"], rows, " ".join(notes))


def _floors(metrics: Mapping[str, Any]) -> str:
    names = [name for name in FLOORS if any(name in found for found in metrics.get("floors", {}).values())]
    rows = []
    for site, found in metrics.get("floors", {}).items():
        sae = metrics.get("sites", {}).get(site, {})
        cells = [number(found.get(name, {}).get("explained_variance")) for name in names]
        rows.append([site, *cells, number(sae.get("explained_variance"))])
    note = "Explained variance on the same held-out tokens, fitted on calibration tokens. k is the SAE's."
    return html_table(["site", *(FLOOR_NAMES[name] for name in names), "SAE"], rows, note)


def _fidelity(metrics: Mapping[str, Any]) -> str:
    fidelity = metrics.get("fidelity", {})
    cases = {**fidelity.get("sites", {}), **({"all sites": fidelity[ALL]} if ALL in fidelity else {})}
    losses = ("loss_original", "loss_spliced", "loss_known", "loss_ablated")
    changes = ("loss_increase", "loss_increase_known", "loss_recovered")
    rows = [
        [name, *(number(found.get(key)) for key in losses), *(number(found.get(key), "+.1%") for key in changes)]
        for name, found in cases.items()
    ]
    head = ["site", "original", "spliced", "known alone", "mean", "increase", "increase, known alone", "recovered"]
    note = "Mean squared error of the denoiser's prediction, with the same noise. Loss increase is the figure to read."
    absent = "".join(
        f"<p><b>{escape(site)}</b> is not spliced: {escape(reason)}.</p>"
        for site, reason in fidelity.get("absent", {}).items()
    )
    return html_table(head, rows, note) + absent


def _similarity(metrics: Mapping[str, Any]) -> str:
    found = metrics.get("fidelity", {}).get("end_to_end")
    if not found:
        return ""
    named = {
        "nothing": found.get("original"),
        **found["sites"],
        "all sites": found.get(ALL),
        "known part alone, all sites": found.get("known_alone"),
        "unrelated images": found.get("unrelated"),
    }
    columns = {key: what for key, what in _SIMILARITY.items() if any(key in (case or {}) for case in named.values())}
    rows = [
        [name, *(number(case.get(key), style) for key, (_, style) in columns.items())]
        for name, case in named.items()
        if case
    ]
    note = (
        f"Final latents of {found['images']} held-out prompts, {found['num_inference_steps']} steps, guidance "
        f"{found['guidance_scale']:g}. Unrelated images, of other prompts, are the baseline."
    )
    if "frechet" in columns:
        note += (
            f" Fréchet distances of {found['images']} generated to {found['real_images']} real images, and to the "
            "generated originals; with so few images read them beside each other only."
        )
    absent = "".join(
        f'<p class="soft">Not measured: {escape(reason)}.</p>' for reason in found.get("absent", {}).values()
    )
    return html_table(["spliced", *(name for name, _ in columns.values())], rows, note) + absent


def _images(end_to_end: EndToEnd | None) -> str:
    if end_to_end is None:
        return ""
    cases = ["all sites" if case == ALL else case for case in end_to_end.cases]
    names = "".join(f"<span>{breakable(case)}</span>" for case in cases)
    width = f'style="--width: {6 * len(end_to_end.cases)}rem"'
    return "".join(
        f'<figure><figcaption>{escape(prompt)}</figcaption><div class="wide"><div class="strip" {width}>'
        f'<div class="names">{names}</div><img alt="" src="{data_uri(png)}"></div></div></figure>'
        for prompt, png in zip(end_to_end.prompts, image_strip(end_to_end.images), strict=True)
    )


def _config(text: str | None) -> str:
    """The settings that matter most, and the whole file to be unfolded."""
    if not text:
        return ""
    try:
        settings = flat_settings(yaml.safe_load(text))
    except yaml.YAMLError:
        settings = {}
    rows = [[name, settings[name]] for name in settings if name.startswith(_SHOWN)]
    return html_table(["setting", "value"], rows) + (
        f"<details><summary>config.yaml</summary><pre>{escape(text)}</pre></details>"
    )


_SHOWN = (
    *("data.pretrained", "data.sites", "data.source", "data.samples_per_batch", "data.tokens_per_sample"),
    *("model.", "trainer.max_steps", "seed_everything"),
)


def _faults(metrics: Mapping[str, Any]) -> str:
    fidelity = metrics.get("fidelity", {})
    cases = {**fidelity.get("sites", {}), **({"all sites": fidelity[ALL]} if ALL in fidelity else {})}
    return "".join(
        f"<p><b>{escape(name)}</b>: {escape(found['fault'])}.</p>" for name, found in cases.items() if "fault" in found
    )


def _cut_title(metrics: Mapping[str, Any]) -> str:
    return f"Cut to fit a budget of {metrics.get('budget', {}).get('minutes', 0):g} minutes"


def _cuts(metrics: Mapping[str, Any]) -> str:
    lines = "".join(f"<li>{escape(line)}</li>" for line in cut_lines(metrics.get("budget", {})))
    return f"<ul>{lines}</ul>" if lines else ""

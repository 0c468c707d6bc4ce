"""The report: one HTML page of a run, self-contained, that says the same as metrics.json."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from tide_lightning.evaluation.budget import cut_lines
from tide_lightning.evaluation.end_to_end import EndToEnd
from tide_lightning.evaluation.fidelity import ALL
from tide_lightning.evaluation.figures import number
from tide_lightning.evaluation.files import write_bytes
from tide_lightning.evaluation.floors import FLOORS
from tide_lightning.evaluation.plots import FLOOR_NAMES, draw_plots, image_grid, image_strip, save_image
from tide_lightning.evaluation.sections import Plot, Section, Table

_CAPTIONS = {
    "explained_variance": "Explained variance by timestep, beside the floors; in each bin about the bin's own mean.",
    "loss_increase": "How much the denoising loss rises where activations are replaced (log scale above 10 %).",
    "l0": "Latents that fire for a token, by timestep.",
    "firing_frequency": "How often latents fire. Left of the dashed line they count as dead.",
}

_CSS = """
:root { --ink: #1f2933; --soft: #616e7c; --line: #d9dee4; --paper: #ffffff; --back: #f3f5f7; --accent: #c2255c; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; margin: .5rem 0 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 .5rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); font-size: .9rem; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 1rem; margin: 1rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; white-space: normal; max-width: 8rem; }
.wide > img { min-width: 36rem; }
figure { margin: 0 0 1.2rem; } figcaption { color: var(--soft); font-size: .9rem; }
img { max-width: 100%; height: auto; display: block; }
.fault { border-left: 5px solid var(--accent); }
.strip { min-width: var(--width); max-width: calc(2 * var(--width)); }
.strip img { width: 100%; image-rendering: pixelated; }
.names { display: grid; grid-auto-columns: 1fr; grid-auto-flow: column; font-size: .75rem; color: var(--soft); }
.names span { overflow-wrap: anywhere; padding-right: .3rem; }
pre { overflow-x: auto; font-size: .8rem; background: var(--back); padding: .8rem; border-radius: 6px; }
"""


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
    sections = [
        _cuts(metrics),
        _faults(metrics),
        _section("At a glance", _overview(metrics)),
        _section("Floors: what cheaper predictors explain", _floors(metrics)),
        _section("Fidelity: the denoiser's loss with replaced activations", _fidelity(metrics)),
        _section("Over the timestep", *(_plot(png, _CAPTIONS[name]) for name, png in plots.items())),
        _section("End to end: the same noise, with and without splicing", _similarity(metrics), _images(end_to_end)),
        *(_section(section.title, *map(_part, section.parts)) for section in others),
        _section("Config", f"<details><summary>config.yaml</summary><pre>{escape(config)}</pre></details>")
        if config
        else "",
    ]
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{_CSS}</style></head>
<body><main><h1>{escape(title)}</h1>
<p class="soft">{escape(_measured_on(metrics))}</p>
{"".join(sections)}
</main></body></html>
"""
    return write_bytes(folder / "index.html", page.encode())


def _measured_on(metrics: Mapping[str, Any]) -> str:
    words = (
        [f"{next(iter(metrics['sites'].values()))['tokens']:,} held-out tokens a site"] if metrics.get("sites") else []
    )
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
    return _table([*head, "normalised MSE", "centred cosine", "raw cosine"], rows, " ".join(notes))


def _floors(metrics: Mapping[str, Any]) -> str:
    names = [name for name in FLOORS if any(name in found for found in metrics.get("floors", {}).values())]
    rows = []
    for site, found in metrics.get("floors", {}).items():
        sae = metrics.get("sites", {}).get(site, {})
        cells = [number(found.get(name, {}).get("explained_variance")) for name in names]
        rows.append([site, *cells, number(sae.get("explained_variance"))])
    note = "Explained variance on the same held-out tokens, fitted on calibration tokens. k is the SAE's."
    return _table(["site", *(FLOOR_NAMES[name] for name in names), "SAE"], rows, note)


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
    return _table(head, rows, note) + absent


def _similarity(metrics: Mapping[str, Any]) -> str:
    found = metrics.get("fidelity", {}).get("end_to_end")
    if not found:
        return ""
    named = {
        **found["sites"],
        "all sites": found.get(ALL),
        "known part alone, all sites": found.get("known_alone"),
        "unrelated images": found.get("unrelated"),
    }
    rows = [
        [name, *(number(case.get(key)) for key in ("cosine_centred", "mse", "cosine"))]
        for name, case in named.items()
        if case
    ]
    note = (
        f"Final latents of {found['images']} held-out prompts, {found['num_inference_steps']} steps, guidance "
        f"{found['guidance_scale']:g}. Unrelated images, of other prompts, are the baseline."
    )
    return _table(["spliced", "centred cosine", "MSE", "raw cosine"], rows, note)


def _images(end_to_end: EndToEnd | None) -> str:
    if end_to_end is None:
        return ""
    cases = ["all sites" if case == ALL else case for case in end_to_end.cases]
    names = "".join(f"<span>{escape(case)}</span>" for case in cases)
    width = f'style="--width: {6 * len(end_to_end.cases)}rem"'
    return "".join(
        f'<figure><figcaption>{escape(prompt)}</figcaption><div class="wide"><div class="strip" {width}>'
        f'<div class="names">{names}</div><img alt="" src="{_data(png)}"></div></div></figure>'
        for prompt, png in zip(end_to_end.prompts, image_strip(end_to_end.images), strict=True)
    )


def _faults(metrics: Mapping[str, Any]) -> str:
    fidelity = metrics.get("fidelity", {})
    cases = {**fidelity.get("sites", {}), **({"all sites": fidelity[ALL]} if ALL in fidelity else {})}
    faults = [
        f"<p><b>{escape(name)}</b>: {escape(found['fault'])}.</p>" for name, found in cases.items() if "fault" in found
    ]
    return f'<section class="fault"><h2>To be explained</h2>{"".join(faults)}</section>' if faults else ""


def _cuts(metrics: Mapping[str, Any]) -> str:
    lines = "".join(f"<li>{escape(line)}</li>" for line in cut_lines(metrics.get("budget", {})))
    if not lines:
        return ""
    head = f"Cut to fit a budget of {metrics['budget']['minutes']:g} minutes"
    return f'<section class="fault"><h2>{head}</h2><ul>{lines}</ul></section>'


def _section(title: str, *parts: str) -> str:
    body = "".join(parts)
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _part(part: Table | Plot) -> str:
    return _table(*part) if isinstance(part, Table) else _plot(part.png, part.caption)


def _plot(png: bytes, caption: str) -> str:
    caption = escape(caption)
    image = f'<div class="wide"><img alt="{caption}" src="{_data(png)}"></div>'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], note: str) -> str:
    if not rows:
        return ""
    names = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    table = f'<div class="wide"><table><thead><tr>{names}</tr></thead><tbody>{lines}</tbody></table></div>'
    return f'{table}<p class="soft">{escape(note)}</p>'


def _data(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()

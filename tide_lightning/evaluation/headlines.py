"""What people are told of metrics.json, in the terminal and in the report: tables, and remarks in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tide_lightning.evaluation.budget import cut_lines
from tide_lightning.evaluation.figures import number, with_interval
from tide_lightning.evaluation.floors import FLOORS
from tide_lightning.evaluation.sections import Table
from tide_lightning.intervene.splicing import ALL

ALL_SITES = "all sites"

FLOOR_NAMES = {
    "mean": "mean",
    "mean_t": "mean(t)",
    "mean_t_position": "mean(t, position)",
    "known": "known part alone",
    "pca_k": "PCA, k",
    "pca_2k": "PCA, 2k",
}
"""What the floors are called."""

_SIMILARITY = {
    "cosine_centred": ("centred cosine", ".4f"),
    "mse": ("MSE", ".4f"),
    "cosine": ("raw cosine", ".4f"),
    "frechet": ("Fréchet distance to real images", ".1f"),
    "frechet_to_original": ("Fréchet distance to originals", ".1f"),
    "clip_score": ("CLIP score", ".2f"),
}

_SIMILARITY_SAYS = {
    "cosine_centred": "of the final latents with and without splicing, both less their mean: 1 is the same image",
    "mse": "of the final latents: 0 is the same image",
    "cosine": "the same with the mean left in",
    "frechet": "how far the images lie from real ones, as a set: less is better",
    "frechet_to_original": "how far they lie from the images without splicing, as a set: less is better",
    "clip_score": "how well images fit their prompts: more is better",
}

_RECONSTRUCTION_SAYS = {
    "mse": "mean squared error over tokens and channels; sites of larger activations have larger ones",
    "nmse": "the squared error over the activations' own square: 0 is perfect",
    "cosine_centred": "direction of reconstruction and activation, both less the mean: 1 is the same",
    "cosine": "the same with the mean left in, which inflates it",
    "l0_even": "active latents a token, in the mean over equal bins of t",
    "l0_largest": "active latents a token in the bin of t that has most",
    "numbers_besides_latents": "how many numbers the known part reads off each token",
    "encoder_products": "operations a token, over those of one product with the encoder's weights",
}

_FLOORS = {
    "mean": "the mean activation",
    "mean_t": "the mean at each time",
    "mean_t_position": "the mean at each time and place",
    "known": "what follows linearly from time, place and the denoiser's input: what the SAE starts from",
    "pca_k": "about the known part, as many principal directions as the SAE has active latents",
    "pca_2k": "twice as many",
}

_OVERVIEW = (
    "explained variance: the share of the activation's variance that the reconstruction has; 1 is all",
    "the same of what the known part leaves",
    "explained variance of the known part alone: what follows linearly from time, place and the denoiser's input",
    "explained variance of the known part and twice as many principal directions as the SAE has active latents",
    "how much the denoiser's loss rises with the activations replaced, in the mean over equal bins of t",
    "the same over all samples, where the least noise decides",
    "the same with the known part alone in their place, without any latent",
    "share of latents that fire on more than 1 of 100,000 tokens; the others are dead",
    "active latents a token, in the mean",
)


def fidelity_cases(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What was spliced, by name: each SAE alone, and all of them together."""
    found = metrics.get("fidelity", {})
    return {**found.get("sites", {}), **({ALL_SITES: found[ALL]} if ALL in found else {})}


def overview(metrics: Mapping[str, Any]) -> Table:
    """The figures to read first, of each site and of all together."""
    cases, floors, sites = fidelity_cases(metrics), metrics.get("floors", {}), metrics.get("sites", {})
    rows = []
    for name in [*sites, *(case for case in cases if case not in sites)]:
        site, loss, floor = sites.get(name, {}), cases.get(name, {}), floors.get(name, {})
        absent = "" if name == ALL_SITES else "-"
        cells = [
            number(site.get("explained_variance")),
            number(site.get("explained_variance_beyond_known")),
            number(floor.get("known", {}).get("explained_variance")),
            number(floor.get("pca_2k", {}).get("explained_variance")),
            number(loss.get("loss_increase_even"), "+.1%"),
            number(loss.get("loss_increase"), "+.1%"),
            number(loss.get("loss_increase_known"), "+.1%"),
            number(site.get("alive_fraction"), ".1%"),
            number(site.get("l0"), ".1f"),
        ]
        rows.append([name, *(absent if cell == "-" else cell for cell in cells)])
    head = [
        "site",
        "EV",
        "beyond\nknown",
        "EV of\nknown",
        "EV of\nPCA 2k",
        "loss incr.\neven in t",
        "loss\nincrease",
        "known\nalone",
        "alive",
        "L0",
    ]
    note = (
        "EV: explained variance. Loss increase: of the denoiser, with the activations replaced; even in t: its mean "
        "over equal bins of t, where otherwise the least noise decides."
    )
    return Table(head, rows, note, dict(zip(head[1:], _OVERVIEW, strict=True)))


def reconstruction(metrics: Mapping[str, Any]) -> Table:
    """The other figures of each site's reconstruction."""
    columns = {
        "mse": ("MSE (activation's units²)", ".4f"),
        "nmse": ("normalised MSE", ".4f"),
        "cosine_centred": ("centred cosine", ".4f"),
        "cosine": ("raw cosine", ".4f"),
        "l0_even": ("L0, even in t", ".1f"),
        "l0_largest": ("largest L0", ".1f"),
        "numbers_besides_latents": ("numbers besides", "g"),
        "encoder_products": ("encoder products", ".2f"),
    }
    rows = [
        [site, *(number(found.get(name), style) for name, (_, style) in columns.items())]
        for site, found in metrics.get("sites", {}).items()
    ]
    note = (
        "Raw cosine is inflated by the activations' mean: read the centred one. L0 even in t: its mean over equal bins "
        "of t; largest: in the bin with most. Numbers besides: that the known part reads off each token. Encoder "
        "products: operations a token in use, over those of one product with the encoder's weights."
    )
    said = {name: _RECONSTRUCTION_SAYS[key] for key, (name, _) in columns.items()}
    return Table(["site", *said], rows, note, said)


def floors(metrics: Mapping[str, Any]) -> Table:
    """Explained variance of what is cheaper than an SAE."""
    found = metrics.get("floors", {})
    names = [name for name in FLOORS if any(name in of_site for of_site in found.values())]
    rows = [
        [
            site,
            *(number(of_site.get(name, {}).get("explained_variance")) for name in names),
            number(metrics.get("sites", {}).get(site, {}).get("explained_variance")),
        ]
        for site, of_site in found.items()
    ]
    note = "Explained variance on the same held-out tokens, fitted on calibration tokens. k is the SAE's."
    columns = {FLOOR_NAMES[name]: _FLOORS[name] for name in names} | {"SAE": "the SAE with its latents"}
    return Table(["site", *(FLOOR_NAMES[name] for name in names), "SAE"], rows, note, columns)


def fidelity(metrics: Mapping[str, Any]) -> Table:
    """The denoiser's losses."""
    losses = ("loss_original", "loss_spliced", "loss_known", "loss_ablated")
    changes = ("loss_increase", "loss_increase_known", "loss_recovered")
    rows = [
        [name]
        + [with_interval(found, f"loss_increase_{which}", "+.1%") for which in ("even", "as_trained")]
        + [number(found.get(key)) for key in losses]
        + [number(found.get(key), "+.1%") for key in changes]
        for name, found in fidelity_cases(metrics).items()
    ]
    head = ["site", "increase, even in t", "increase, as trained", "original", "spliced", "known alone", "mean"]
    head += ["increase", "increase, known alone", "recovered"]
    weights = metrics.get("fidelity", {}).get("loss_weights")
    note = (
        "Mean squared error of the denoiser's prediction, with the same noise. The increase even in t, the mean over "
        "equal bins of t, is the figure to read; in brackets where 95 % of draws of other samples lie. As trained: "
        + (f"bins of t weighted as the denoiser's loss was ({weights})." if weights else "not known of this denoiser.")
    )
    columns = {
        "increase, even in t": "spliced against original, in the mean over equal bins of t: the figure to read",
        "increase, as trained": "the same with bins of t weighted as in the denoiser's training",
        "original": "the denoiser's loss as it is",
        "spliced": "with the site's activations replaced by the SAE's reconstruction",
        "known alone": "with them replaced by the known part, without any latent",
        "mean": "with them replaced by their mean: what the site is worth",
        "increase": "spliced against original, over all samples",
        "increase, known alone": "known part alone against original",
        "recovered": "of the way from the mean back to the original; close to 1 even where much is lost",
    }
    return Table(head, rows, note, columns)


def similarity(metrics: Mapping[str, Any]) -> Table:
    """Whole images, with and without splicing."""
    found = metrics.get("fidelity", {}).get("end_to_end")
    if not found:
        return Table(["spliced"], [], "")
    named = {
        "nothing": found.get("original"),
        **found["sites"],
        ALL_SITES: found.get(ALL),
        "known part alone, all sites": found.get("known_alone"),
        "unrelated images": found.get("unrelated"),
    }
    columns = {key: what for key, what in _SIMILARITY.items() if any(key in (case or {}) for case in named.values())}
    rows = [
        [name, *(with_interval(case, key, style) for key, (_, style) in columns.items())]
        for name, case in named.items()
        if case
    ]
    note = (
        f"Final latents of {found['images']} held-out prompts, {found['num_inference_steps']} steps, guidance "
        f"{found['guidance_scale']:g}; in brackets where 95 % of draws of other prompts lie. Unrelated images, "
        "of other prompts, are the baseline."
    )
    if "frechet" in columns:
        note += (
            f" Fréchet distances of {found['images']} generated to {found['real_images']} real images, and to the "
            "generated originals; with so few images read them beside each other only."
        )
    absent = [f" Not measured: {reason}." for reason in found.get("absent", {}).values()]
    said = {name: _SIMILARITY_SAYS[key] for key, (name, _) in columns.items()}
    return Table(["spliced", *said], rows, note + "".join(absent), said)


def faults(metrics: Mapping[str, Any]) -> list[str]:
    """What cannot be, and has to be explained."""
    return [f"{name}: {found['fault']}" for name, found in fidelity_cases(metrics).items() if "fault" in found]


def cuts(metrics: Mapping[str, Any]) -> list[str]:
    """What was measured less than wanted, to fit a budget."""
    return cut_lines(metrics.get("budget", {}))


def reservations(metrics: Mapping[str, Any]) -> list[str]:
    """What is not spliced and why, and which figures are not firm yet."""
    absent = metrics.get("fidelity", {}).get("absent", {})
    few = {found.get("alive_fraction_note", "") for found in metrics.get("sites", {}).values()} - {""}
    return [f"{site} is not spliced: {reason}" for site, reason in absent.items()] + [f"Alive {text}" for text in few]

"""The benchmark's part of the report: tables and plots that say the same as metrics.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tide_lightning.benchmark.causality import METHODS, Example
from tide_lightning.benchmark.examples import groups
from tide_lightning.benchmark.meaning import PREDICTORS
from tide_lightning.benchmark.plots import METHOD_NAMES, draw_examples, draw_plots
from tide_lightning.benchmark.readout import BEYOND, IOU, READERS, label
from tide_lightning.evaluation.figures import number, with_interval
from tide_lightning.evaluation.sections import Plot, Table
from tide_lightning.grounds import Ground

PREDICTOR_NAMES = {
    "best_latent": "best latent",
    "best_latent_amount": "best latent, amounts",
    **{f"latents_{size}": f"{size} latent{'s' * (size > 1)}" for size in (1, 5, 20)},
    **{f"random_{size}": f"{size} random" for size in (1, 5, 20)},
    "best_channel": "best channel",
    "dense": "dense probe",
    "known": "known part",
    "position": "position only",
    "always_yes": "always yes",
}

_PREDICTORS_SAY = {
    "best latent": "the one latent that tells a value best",
    "best latent, amounts": "the same, its values in the unit that moves activations alike at every time",
    "1 latent": "a probe on the best latent",
    "5 latents": "a probe on five latents",
    "20 latents": "a probe on twenty latents",
    "1 random": "a probe on a latent taken at random",
    "5 random": "on five",
    "20 random": "on twenty",
    "best channel": "the one channel of the activation that tells a value best",
    "dense probe": "a probe on the whole activation: a ceiling",
    "known part": "a probe on the known part alone: a floor",
    "position only": "a probe on the token's place: a floor",
    "always yes": "no probe: every token is said to show the value",
}

READER_NAMES = {
    "codes": "codes",
    "random": "random latents",
    "dense": "dense activation",
    "known": "known part",
    "position": "position only",
}

_STEERING_NAMES = {
    "success": "success",
    "beyond_chance": "beyond chance",
    "success_judge_b": "by the second judge",
    "confirmed": "by both",
    "stability_mean": "other factors stable",
}

_MAX_EXAMPLES = 12

_EXAMPLES_SAY = (
    "Steered images: of each target the first prompt that does not ask for it, without steering (left) and with the one"
    " latent raised that stands for the target (right), from the same noise. None was chosen for its success."
)

_STEERING_SAYS = {
    "success": "share of images in which the first judge reads the target",
    "beyond chance": "the same; 0 where a target is reached as often as without steering",
    "by the second judge": "in which the second does, a classifier of another kind",
    "by both": "in which both do",
    "other factors stable": "how often the other factors are read as without steering",
}

_CAPTIONS = {
    "meaning": "How well factor values are told apart, by timestep: AUROC, mean over factors.",
    "factors": "The best single latent, by factor and timestep: AUROC, mean over the factor's values.",
    "readout": "What is known of pixels, maps beyond their mean at each place, read from single tokens.",
    "hierarchy": "When concepts become readable from codes, by site: further right is earlier, in more noise.",
    "steering": "Steering: how often the target is reached, and how often the other factors stay as they were.",
}


def report_parts(ground: Ground, figures: Mapping[str, Any], examples: Sequence[Example] = ()) -> list[Table | Plot]:
    """Tables and plots, in order; steered images first."""
    plots = {
        name: Plot(f"{ground.name}_{name}", png, _CAPTIONS[name], _FINDINGS[name](figures) if name in _FINDINGS else "")
        for name, png in draw_plots(ground, figures).items()
    }
    shown = list({example.target: example for example in examples}.values())[:_MAX_EXAMPLES]
    parts: list[Table | Plot | None] = [
        Plot(f"{ground.name}_steered", draw_examples(shown), _EXAMPLES_SAY, _succeeds(figures)) if shown else None,
        _overview(figures),
        _found_alone(figures),
        plots.get("meaning"),
        _by_factor(ground, figures),
        plots.get("factors"),
        _by_value(ground, figures),
        _readout(figures) if "readout" in plots else None,
        plots.get("readout"),
        _hierarchy(figures),
        plots.get("hierarchy"),
        _kept(figures),
        *_steering(figures),
        plots.get("steering"),
    ]
    return [part for part in parts if part is not None]


def _succeeds(figures: Mapping[str, Any]) -> str:
    """How often one latent does what it should, beside what nothing does."""
    means = figures.get("steering", {}).get("mean", {})
    if not {"latent", "none"} <= set(means):
        return ""
    one, none = means["latent"], means["none"]
    said = f"One latent turns {one['success']:.0%} of images to what it stands for ({none['success']:.0%} without)"
    return f"{said} and leaves {one['stability_mean']:.0%} of the other factors as they were"


def _tells(figures: Mapping[str, Any]) -> str:
    """How well the best latents tell values, beside a probe on everything, at the site where they do best."""
    means = {site: found["mean"].get("auroc", {}) for site, found in figures["meaning"].items()}
    found = [(auroc["best_latent"], auroc["dense"], site) for site, auroc in means.items() if "best_latent" in auroc]
    if not found:
        return ""
    latent, dense, site = max(found)
    return f"One latent tells a value with an AUROC of {latent:.2f}, the whole activation with {dense:.2f} ({site})"


def _clearest(figures: Mapping[str, Any]) -> str:
    """The factors that single latents tell best and least, at the best site for each."""
    best: dict[str, float] = {}
    for found in figures["meaning"].values():
        for factor, measured in found["factors"].items():
            if (value := measured.get("auroc", {}).get("best_latent")) is not None:
                best[factor] = max(best.get(factor, 0.0), value)
    if len(best) < 2:
        return ""
    most, least = max(best, key=best.__getitem__), min(best, key=best.__getitem__)
    return f"Single latents tell {most} best ({best[most]:.2f}) and {least} least ({best[least]:.2f})"


def _reads(figures: Mapping[str, Any]) -> str:
    """How well codes tell a map or a mask, beside the whole activation, where they do best."""
    found = [
        (readers["codes"], readers["dense"], label(figure), site)
        for site, measured in figures["readout"].items()
        for figure, readers in measured.items()
        if figure.endswith((BEYOND, IOU)) and {"codes", "dense"} <= set(readers)
    ]
    if not found:
        return ""
    codes, dense, what, site = max(found)
    return f"{what[0].upper()}{what[1:]}: {codes:.2f} from codes, {dense:.2f} from the whole activation ({site})"


def _in_order(figures: Mapping[str, Any]) -> str:
    """Which concepts can be read first and last on the way from noise to image."""
    first = {name: one["first"]["t"] for name, one in figures["hierarchy"]["codes"]["concepts"].items()}
    if len(first) < 2:
        return ""
    early, late = max(first, key=first.__getitem__), min(first, key=first.__getitem__)
    return f"From noise to image {early} is readable first (t {first[early]:.2f}) and {late} last (t {first[late]:.2f})"


_FINDINGS = {"meaning": _tells, "factors": _clearest, "readout": _reads, "hierarchy": _in_order, "steering": _succeeds}


def _overview(figures: Mapping[str, Any]) -> Table:
    rows = [
        [site, *(number(found["mean"].get("auroc", {}).get(name), ".3f") for name in PREDICTORS)]
        for site, found in figures["meaning"].items()
    ]
    note = (
        "AUROC on images that nothing was chosen on, mean over factors, all timesteps together. Left: the SAE's "
        "latents; then as many random ones of it; then floors and ceilings that do not use the codes."
    )
    return Table(["meaning", *PREDICTOR_NAMES.values()], rows, note, _PREDICTORS_SAY)


def _found_alone(figures: Mapping[str, Any]) -> Table:
    """F1 of the same, with one threshold for all t and with one for each bin."""
    rows = []
    for site, found in figures["meaning"].items():
        mean = found["mean"]
        ends = {f"{name}_interval": pair for name, pair in mean.get("f1_interval", {}).items()}
        rows.append([site, *(with_interval(mean.get("f1", {}) | ends, name, ".3f") for name in PREDICTORS)])
        rows.append([f"{site}, by bin", *(number(mean.get("f1_even", {}).get(name), ".3f") for name in PREDICTORS)])
    note = (
        "F1 on the same images, mean over factors, in brackets where 95 % of draws of other images lie. One threshold "
        "for all t rewards values that are scaled by t: amounts are values in the unit that moves activations alike at "
        "every t. By bin: thresholds, latents and probes of each bin of t, then the mean over bins. Always yes is what "
        "a latent scores that says nothing."
    )
    return Table(["meaning, F1", *PREDICTOR_NAMES.values()], rows, note, _PREDICTORS_SAY)


def _by_factor(ground: Ground, figures: Mapping[str, Any]) -> Table:
    rows = [
        [f"{site}: {PREDICTOR_NAMES[name]}"]
        + [number(found["factors"].get(factor, {}).get("auroc", {}).get(name), ".3f") for factor in ground.factors]
        for site, found in figures["meaning"].items()
        for name in ("best_latent", "latents_20", "dense", "known", "position")
    ]
    parts = [f"{', '.join(group)} from {next(iter(group.values())).read_from}" for group in groups(ground.factors)]
    columns = {
        factor: f"how well its values are told apart: {', '.join(ground.factors[factor][0])}"
        for factor in ground.factors
    }
    return Table(["factor", *ground.factors], rows, f"AUROC by factor. Read: {'; '.join(parts)}.", columns)


def _by_value(ground: Ground, figures: Mapping[str, Any]) -> Table:
    rows = []
    for factor, (values, *_) in ground.factors.items():
        for value in values:
            row = [f"{factor}: {value}"]
            for found in figures["meaning"].values():
                one = found["values"].get(factor, {}).get(value)
                row += (
                    [
                        str(one["latent"]),
                        number(one["auroc"]["best_latent"], ".3f"),
                        number(one["f1"]["best_latent"], ".3f"),
                    ]
                    if one
                    else ["-"] * 3
                )
            rows.append(row)
    head = ["value", *(name for site in figures["meaning"] for name in (f"{site} latent", "AUROC", "F1"))]
    columns = {f"{site} latent": "the number of the latent that best tells the value" for site in figures["meaning"]}
    columns |= {
        "AUROC": "the chance that it fires higher where the value is than where it is not; .5 is luck",
        "F1": "how well one threshold of its values tells the value, misses and false alarms counted: 1 is always",
    }
    return Table(head, rows, "The one latent that stands for each value, at each site.", columns)


def _readout(figures: Mapping[str, Any]) -> Table:
    rows = [
        [f"{site}: {label(figure)}", *(number(readers.get(name), ".3f") for name in READERS)]
        for site, found in figures["readout"].items()
        for figure, readers in found.items()
        if figure != "by_timestep"
    ]
    note = (
        "Linear read-out from single tokens, all timesteps together. Codes are read through as many latents as the "
        "activation has channels. Where the camera stands still, the place alone tells most of a map."
    )
    columns = {
        "codes": "read from latents",
        "random latents": "from as many latents taken at random",
        "dense activation": "from the activation itself",
        "known part": "from the known part alone",
        "position only": "from nothing but the token's place",
    }
    return Table(["read-out", *READER_NAMES.values()], rows, note, columns)


def _hierarchy(figures: Mapping[str, Any]) -> Table:
    hierarchy, sites = figures["hierarchy"], list(figures["meaning"])
    codes, dense = (hierarchy[reader]["concepts"] for reader in ("codes", "dense"))
    rows = [
        [
            f"{found['level']}: {name}",
            *(number(found["readable_from"].get(site), ".2f") for site in sites),
            found["first"]["site"],
            number(found["best"], ".3f"),
            number(dense.get(name, {}).get("first", {}).get("t"), ".2f"),
        ]
        for name, found in codes.items()
    ]
    rows += [
        [f"{level}, mean", *[""] * len(sites), "", "", number(hierarchy["dense"]["levels"].get(level), ".2f")]
        for level in hierarchy["codes"]["levels"]
    ]
    for row, t in zip(rows[len(codes) :], hierarchy["codes"]["levels"].values(), strict=True):
        row[len(sites) + 1] = f"t {t:.2f}"
    note = (
        f"From which t on, on the way from noise to image, 20 latents (maps and masks: as many as channels) reach "
        f"{hierarchy['share']:.0%} of the way from chance to the best of all sites and times. Larger is earlier; a "
        "dash means never at this site; no time before the noisiest bin's can be found. Captions are read too."
    )
    columns = dict.fromkeys(sites, "the time from which on it can be read there") | {
        "first at": "where it can be read first",
        "best score": "AUROC, or for maps and masks their fit, at the best site and time",
        "dense activation: first t": "the earliest time at which the activation itself tells it",
    }
    head = ["readable from t", *sites, "first at", "best score", "dense activation: first t"]
    return Table(head, rows, note, columns)


def _kept(figures: Mapping[str, Any]) -> Table | None:
    if "kept" not in figures:
        return None
    kept = figures["kept"]
    cases = {**kept["sites"], "all at once": kept.get("all"), "unrelated images": kept["unrelated"]}
    factors = list(kept["unrelated"]["factors"])
    rows = [
        [name, *(with_interval(found, key, ".1%") for key in ("mentioned", "open"))]
        + [
            with_interval(found.get("latents", {}), key, style)
            for key, style in (("mse", ".3f"), ("cosine_centred", ".3f"))
        ]
        + [number(found["factors"][factor], ".0%") for factor in factors]
        for name, found in cases.items()
        if found
    ]
    note = (
        f"The share of factor values that the judges read alike in {kept['images']} images and in the same with SAEs "
        "spliced at every step: of factors that the prompt mentions, and of those it leaves open; in brackets where "
        "95 % of draws of other prompts lie. Unrelated: images of different prompts and noise."
    )
    head = ["factors kept", "mentioned", "left open", "latents' MSE", "latents' centred cosine", *factors]
    columns = {
        "mentioned": "factors that the prompt says something about, which it says again at every step",
        "left open": "factors that only the activations carry",
        "latents' MSE": "of the final latents against those without splicing: 0 is the same image",
        "latents' centred cosine": "of the same, both less their mean: 1 is the same image",
        **dict.fromkeys(factors, "this factor alone, whether mentioned or not"),
    }
    return Table(head, rows, note, columns)


def _steering(figures: Mapping[str, Any]) -> list[Table]:
    steering = figures.get("steering", {})
    each = steering.get("sites", {"": steering} if "mean" in steering else {})
    return [table for site, found in each.items() for table in _steered(site, found, figures["settings"])]


def _steered(site: str, steering: Mapping[str, Any], settings: Mapping[str, Any]) -> list[Table]:
    mean = steering["mean"]
    checks = [key for key, value in mean["latent"].items() if key not in _STEERING_NAMES and isinstance(value, float)]
    rows = [
        [
            METHOD_NAMES[name],
            *(with_interval(found, key, ".1%") for key in (*_STEERING_NAMES, *checks)),
            str(found["images"]),
        ]
        for name, found in mean.items()
    ]
    where = f"steering at {site}" if site else "steering"
    head = [where, *_STEERING_NAMES.values(), *(name.replace("_", " ") for name in checks), "images"]
    note = (
        f"Prompts are {settings['steer_prompts']} about the steered factor. Success: a judge reads the target. Stable: "
        "another factor is read as without steering from the same noise. Random latents move tokens as far as the "
        "target's latent does. Beyond chance: 0 where a target is reached as often as without steering. In brackets "
        "where 95 % of draws of other prompts lie."
    )
    targets = [
        [f"{factor}: {value}", found["site"]["latent"], str(found["latent"]), number(found["auroc_train"], ".3f")]
        + [number(found["strength"]["latent"], "g")]
        + [number(found["methods"].get(name, {}).get("success"), ".0%") for name in METHODS]
        + [number(found["methods"]["latent"]["stability_mean"], ".0%")]
        for factor, values in steering["targets"].items()
        for value, found in values.items()
    ]
    names = [f"success, {METHOD_NAMES[name]}" for name in METHODS]
    head_targets = ["target", "site", "latent", "AUROC in training", "strength", *names, "others stable, one latent"]
    columns = {
        **dict.fromkeys(head[1:], "share of images of which this is true besides"),
        **_STEERING_SAYS,
        "images": "whose prompt does not ask for the target anyway",
    }
    of_targets = {
        "site": "where the latent is raised",
        "latent": "its number",
        "AUROC in training": "how surely it tells the value, on the images on which it was chosen",
        "strength": "how far tokens are pushed, in multiples of how far the value itself moves them",
        **dict.fromkeys(names, "the first judge reads the target"),
        "others stable, one latent": "how often other factors stay as they were",
    }
    of_all = Table(head, rows, note, columns)
    return [of_all, *_swept(where, steering), Table(head_targets, targets, "", of_targets)]


def _swept(where: str, steering: Mapping[str, Any]) -> list[Table]:
    """Success against what else changes."""
    if "sweep" not in steering:
        return []
    sweep = steering["sweep"]
    methods = {name: found for name, found in sweep.items() if name != "limit"}
    strengths = [point["strength"] for point in next(iter(methods.values()))["points"]]
    rows = [
        [METHOD_NAMES[name], number(found["success"], ".0%")]
        + [f"{number(point['success'], '.0%')}, {number(point['changed'], '.0%')}" for point in found["points"]]
        for name, found in methods.items()
    ]
    note = (
        "Success beyond chance, and the share of the other factors' readings that changed, at each strength. Before: "
        f"the highest success by the time {sweep['limit']:.0%} of them had changed."
    )
    head = [f"{where}, sweep", f"at {sweep['limit']:.0%} changed", *(f"strength {each:g}" for each in strengths)]
    columns = dict.fromkeys(
        head[2:], "success, and what else changed, at this many times how far the value moves tokens"
    )
    columns[head[1]] = "the highest success before more than that of the other factors' readings had changed"
    return [Table(head, rows, note, columns)]

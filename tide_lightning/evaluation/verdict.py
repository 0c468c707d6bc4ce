"""The report's first sentences: is a run good, by which measure, and how do cheaper predictors fare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tide_lightning.evaluation.headlines import ALL_SITES, fidelity_cases

GOOD, FAIR = 0.3, 1.0
"""Loss increases, in the mean over all times, up to which a run is called good, or fair."""


class Verdict(NamedTuple):
    """Good, fair or poor ("" where the denoiser's loss was not measured), and sentences, the first with the measure."""

    word: str
    lines: list[str]


def verdict(metrics: Mapping[str, Any]) -> Verdict:
    """Judge a run by its worst site: how much the denoiser loses with the site replaced by what its SAE makes of it."""
    sites, cases = metrics.get("sites", {}), fidelity_cases(metrics)
    losses = {name: _loss(found) for name, found in cases.items() if name != ALL_SITES and _loss(found) is not None}
    if not losses:
        return Verdict("", _unmeasured(sites))
    worst, lost = max(losses.items(), key=lambda one: one[1])
    word = "good" if lost <= GOOD else "fair" if lost <= FAIR else "poor"
    l0 = sites.get(worst, {}).get("l0")
    of = f"the worst of {len(losses)} sites" if len(losses) > 1 else "the site"
    lines = [
        f"This run is {word}, judged by the denoiser's loss: replaced by what its SAE makes of it"
        + (f" from {l0:.0f} latents a token" if l0 else "")
        + f", {of}, {worst}, raises it by {lost:.1%} in the mean over all times"
        f" (good: up to {GOOD:.0%}; fair: up to {FAIR:.0%})."
    ]
    known = cases[worst].get("loss_increase_known_even")
    if known is not None:
        lines.append(f"The linear baseline alone (the known part, no latent) raises it by {known:,.0%}.")
    together = _loss(cases[ALL_SITES]) if ALL_SITES in cases else None
    if together is not None:
        lines.append(f"With all sites replaced at once it rises by {together:.1%}.")
    return Verdict(word, lines + _images(metrics) + _dead(sites))


def _loss(found: Mapping[str, Any]) -> Any:
    return found.get("loss_increase_even", found.get("loss_increase"))


def _unmeasured(sites: Mapping[str, Any]) -> list[str]:
    known = {name: one["explained_variance"] for name, one in sites.items() if "explained_variance" in one}
    if not known:
        return ["Nothing was measured that says whether this run is good."]
    worst = min(known, key=lambda name: known[name])
    said = f"The worst site, {worst}, has an explained variance of {known[worst]:.3f}"
    return [f"{said}; what that means for images was not measured (evaluation.fidelity_samples: 0)."]


def _images(metrics: Mapping[str, Any]) -> list[str]:
    found = metrics.get("fidelity", {}).get("end_to_end", {})
    cases = [case for case in (found.get("all"), *found.get("sites", {}).values()) if case]
    if not cases or "cosine_centred" not in cases[0]:
        return []
    which = "with all sites replaced" if found.get("all") else "with the site replaced"
    unrelated = found.get("unrelated", {}).get("cosine_centred")
    beside = "" if unrelated is None else f", images of other prompts {unrelated:.2f}"
    alike = f"Images drawn {which} at every step are as before by {cases[0]['cosine_centred']:.2f}"
    return [f"{alike} (centred cosine of their latents: 1 is the same{beside})."]


def _dead(sites: Mapping[str, Any]) -> list[str]:
    alive = [one["alive_fraction"] for one in sites.values() if "alive_fraction" in one]
    if not alive:
        return []
    dead = 1 - min(alive)
    return ["Hardly a latent is dead." if dead < 0.01 else f"{dead:.1%} of the latents are dead where most are."]

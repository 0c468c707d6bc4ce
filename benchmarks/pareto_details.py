"""Two more tables of `benchmarks/pareto.py`, of rows with details: what tells each factor, what each push causes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.pages import over_seeds
from benchmarks.pareto_plot import mean

Seeds = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Rows of one size and k, by seed and SAE."""

FACTORS = {
    "always_yes": ("always yes", ".3f"),
    "best_channel": ("best channel", ".3f"),
    "best_latent": ("one latent", ".3f"),
    "latents_5": ("5 latents", ".3f"),
    "latents_20": ("20 latents", ".3f"),
    "dense": ("all channels", ".3f"),
    "rival": ("a rival's latent", ".3f"),
}
"""By what a factor is told, of the columns in order."""

CAUSES = {
    "success": ("judge a sees it", ".0%"),
    "success_judge_b": ("judge b", ".0%"),
    "confirmed": ("both", ".0%"),
    "stability_mean": ("other factors kept", ".0%"),
}
"""The shares of images, of the columns in order."""

PUSHES = {
    "none": "no push",
    "random": "a random latent of {name}",
    "latent": "the best latent of {name}",
    "dense": "difference of means",
    "dense_beyond_known": "difference of means beyond the known part",
    "supervised": "logistic regression",
    "prompt": "the prompt",
}
"""What stands for a target; latents are each SAE's own."""


def by_factor(seeds: Seeds, ours: str) -> str:
    """How well each factor is told by our latents; in the last column by those of the rival with the highest mean."""
    named = {name for rows in seeds.values() for name, row in rows.items() if "factors" in row and name != ours}
    rival = max(sorted(named), key=lambda name: mean(seeds, name, "f1") or 0.0, default=None)
    told: dict[str, dict[str, dict[str, float]]] = {}
    for seed, rows in seeds.items():
        for factor, found in rows.get(ours, {}).get("factors", {}).items():
            theirs = rows.get(rival, {}).get("factors", {}).get(factor) if rival else None
            told.setdefault(seed, {})[factor] = found | ({"rival": theirs["best_latent"]} if theirs else {})
    columns = FACTORS | {"rival": (f"one latent of {rival}", ".3f")}
    return over_seeds(told, list(dict.fromkeys(name for found in told.values() for name in found)), columns, "factor")


def causes(seeds: Seeds, ours: str) -> str:
    """How often the judges see what a push stands for: ours, then the rivals' latents."""
    pushed: dict[str, dict[str, dict[str, Any]]] = {}
    names = list(dict.fromkeys([ours, *(name for rows in seeds.values() for name in rows)]))
    order: dict[str, None] = {}
    for method, label in PUSHES.items():
        for name in names if method == "latent" else [ours]:
            for seed, rows in seeds.items():
                if found := rows.get(name, {}).get("pushes", {}).get(method):
                    pushed.setdefault(seed, {})[label.format(name=name)] = found
                    order[label.format(name=name)] = None
    return over_seeds(pushed, list(order), CAUSES, "what is done")

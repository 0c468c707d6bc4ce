"""Two more tables of `benchmarks/pareto.py`, of rows with details: what tells each factor, what each push causes."""

from __future__ import annotations

from typing import Any

from benchmarks.pages import over_seeds
from benchmarks.pareto_plot import mean
from benchmarks.pareto_tables import Seeds
from benchmarks.side_by_side import READ_BY

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
    rival = max(sorted(named), key=lambda name: mean(seeds, name, "f1") or 0.0, default="")
    told: dict[str, dict[str, dict[str, float]]] = {}
    for seed, rows in seeds.items():
        theirs = rows.get(rival, {}).get("factors", {})
        told[seed] = {
            factor: found | ({"rival": theirs[factor]["best_latent"]} if factor in theirs else {})
            for factor, found in rows.get(ours, {}).get("factors", {}).items()
        }
    columns = {way: (label, ".3f") for way, label in (READ_BY | {"rival": f"one latent of {rival}"}).items()}
    return over_seeds(told, list(dict.fromkeys(name for found in told.values() for name in found)), columns, "factor")


def causes(seeds: Seeds, ours: str) -> str:
    """How often the judges see what a push stands for: ours, then the rivals' latents."""
    names = list(dict.fromkeys([ours, *(name for rows in seeds.values() for name in rows)]))
    lines = [
        (label.format(name=name), name, method)
        for method, label in PUSHES.items()
        for name in (names if method == "latent" else [ours])
    ]
    pushed: dict[str, dict[str, Any]] = {
        seed: {
            label: found for label, name, method in lines if (found := rows.get(name, {}).get("pushes", {}).get(method))
        }
        for seed, rows in seeds.items()
    }
    return over_seeds(pushed, [label for label, *_ in lines], CAUSES, "what is done")

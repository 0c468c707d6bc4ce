"""The tables of `benchmarks/pareto.py`: every figure of every SAE, and the few lines that a page needs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from benchmarks.pages import cells, markdown
from benchmarks.pareto_plot import LOSS, finding, mean, parts

Seeds = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Rows of one size and k, by seed and SAE."""

MAIN = {
    LOSS: ("loss increase, even in t", ".1%"),
    f"{LOSS}_times": ("times ours", ".2f"),
    "latents_cosine": ("centred cosine", ".3f"),
    "kept_open": ("open factors kept", ".1%"),
    "f1": ("F1", ".3f"),
    "f1_20": ("20 latents", ".3f"),
    "steering_beyond_chance": ("steering beyond chance", ".0%"),
}
"""What a page shows."""

ALONE = {"times ours", "20 latents"}
"""Columns that a page shows without intervals."""

BESIDES = {
    "loss_increase_as_trained": ("loss increase, as trained", ".1%"),
    "loss_increase": ("loss increase, over all samples", ".1%"),
    "latents_mse": ("final latents' MSE", ".3f"),
    "kept_mentioned": ("mentioned factors kept", ".1%"),
    "l0_even": ("L0, even in t", ".1f"),
    "l0_largest": ("largest L0", ".1f"),
    "numbers_besides": ("numbers besides", ".0f"),
    "encoder_products": ("encoder products", ".1f"),
    "explained_variance": ("explained variance", ".3f"),
    "alive_fraction": ("alive", ".2f"),
    "lr": ("learning rate", "g"),
    "f1_amount": ("F1 of amounts", ".3f"),
    "f1_by_bin": ("F1 by bin of t", ".3f"),
    "f1_1": ("probe on 1 latent", ".3f"),
    "f1_5": ("probe on 5 latents", ".3f"),
    "f1_dense": ("probe on all channels", ".3f"),
    "f1_always_yes": ("always yes", ".3f"),
    "matched_share": ("found by other seeds", ".2f"),
    "steering_at_limit": ("steering at a tenth changed", ".0%"),
    "steering_random": ("steering by a random latent", ".0%"),
    "steering_dense": ("steering by difference of means", ".0%"),
    "steering_supervised": ("steering by logistic regression", ".0%"),
}
"""What the file of every figure has besides; the JSON file has the rest."""


def comparison(seeds: Seeds, names: Sequence[str], ours: str, aside: Collection[str]) -> str:
    """A page's table and the sentence below it: ours, what stands aside, and the best rivals.

    Those are, of each kind of equipment, the one of the least loss increase, and the best in any column.

    Args:
        seeds: the rows.
        names: of SAEs, in order.
        ours: the SAE that all are set beside.
        aside: SAEs that are always shown and never the best: of another L0, or no dictionaries.
    """
    losses = {name: loss for name in names if (loss := mean(seeds, name, LOSS)) is not None}
    rivals = [name for name in losses if name != ours and name not in aside]
    shown = {ours, *aside}
    for kind in dict.fromkeys(parts(name)[1] for name in rivals):
        shown.add(min((name for name in rivals if parts(name)[1] == kind), key=losses.__getitem__))
    for key in MAIN:
        found = {name: value for name in (ours, *rivals) if (value := mean(seeds, name, key)) is not None}
        if found and not key.startswith(LOSS):
            shown.add(max(found, key=found.__getitem__))
    ordered = sorted(losses, key=lambda name: (name != ours, name in aside, losses[name]))
    head, lines = cells(seeds, [name for name in ordered if name in shown], MAIN)
    alone = [number for number, name in enumerate(["SAE", *head]) if name in ALONE]
    for line in lines:
        for number in alone:
            line[number] = line[number].partition(" (")[0]
    table = markdown(["SAE", *head], lines)
    return f"{table}\n\n{finding({name: losses[name] for name in (ours, *rivals)}, ours)}."


def everything(pieces: Mapping[str, Seeds], names: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Heads and lines of every figure, in columns that some SAE of the pieces has."""
    columns = MAIN | BESIDES
    labels = {f"{piece}, {name}": [piece, name] for piece in pieces for name in names}
    joined = {
        seed: {f"{piece}, {name}": row for piece, seeds in pieces.items() for name, row in seeds.get(seed, {}).items()}
        for seed in dict.fromkeys(seed for seeds in pieces.values() for seed in seeds)
    }
    head, lines = cells(joined, list(labels), columns)
    return ["size and k", "SAE", *head], [[*labels[called], *line] for called, *line in lines]

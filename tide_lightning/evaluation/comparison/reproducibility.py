"""Do other seeds find the same features? Decoder directions of two runs, matched at each site."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tide_lightning.evaluation.assignment import assign
from tide_lightning.evaluation.bootstrap import Estimate, over_seeds
from tide_lightning.evaluation.comparison.runs import Group, TestedRun
from tide_lightning.evaluation.matching import best_by_direction, directions, random_like
from tide_lightning.evaluation.tracking import SAME
from tide_lightning.saes import SAE
from tide_lightning.saes.storage import read_cfg

MEASURES = {"max_cosine": ".3f", "max_cosine_chance": ".3f", "matched_share": "%", "matched_share_chance": "%"}
"""How each measure is written: mean highest cosine, the share of pairs above 0.7 when each latent has one partner, and
both against random rows."""


def reproducibility(group: Group, progress: Callable[[str], None] | None = None) -> dict[str, dict[str, Estimate]]:
    """For each site that runs of a group share, every measure over all pairs of them."""
    found: dict[str, dict[str, list[float]]] = {}
    for first, second in combinations(group.runs, 2):
        ours, theirs = _folders(first), _folders(second)
        for site in (site for site in ours if site in theirs):
            if progress is not None:
                progress(f"matching features of {first.name} and {second.name} at {site}")
            a, b = live_directions(first.folder, ours[site]), live_directions(second.folder, theirs[site])
            if a.shape[1] == b.shape[1] and len(a) and len(b):
                for name, value in match(a, b).items():
                    found.setdefault(site, {}).setdefault(name, []).append(value)
    return {site: {name: over_seeds(values) for name, values in by_name.items()} for site, by_name in found.items()}


def match(a_FD: Tensor, b_GD: Tensor) -> dict[str, float]:
    """Every measure of two sets of unit directions."""
    random = random_like(a_FD)
    return {
        "max_cosine": float(best_by_direction(a_FD, b_GD).score.mean()),
        "max_cosine_chance": float(best_by_direction(random, b_GD).score.mean()),
        "matched_share": _matched_share(a_FD @ b_GD.mT),
        "matched_share_chance": _matched_share(random @ b_GD.mT),
    }


def live_directions(run: Path, sae_folder: Path) -> Tensor:
    """The directions of the latents that fired in the test; of all where that is not known."""
    rows = directions(SAE.from_pretrained(sae_folder))
    try:
        rates = load_file(run / "feature_times.safetensors")[read_cfg(sae_folder)["site"]]
    except (OSError, SafetensorError, KeyError):
        return rows
    return rows[rates.sum(1) > 0] if len(rates) == len(rows) else rows


def _matched_share(cosines_FG: Tensor) -> float:
    partner = assign(cosines_FG)
    rows = (partner >= 0).nonzero().squeeze(1)
    return float((cosines_FG[rows, partner[rows]] >= SAME).double().sum()) / max(cosines_FG.shape)


def _folders(run: TestedRun) -> dict[str, Path]:
    configs: Sequence[tuple[dict[str, Any], Path]] = [
        (read_cfg(path.parent), path.parent) for path in sorted(run.folder.glob("saes/*/cfg.json"))
    ]
    return {str(cfg["site"]): folder for cfg, folder in configs if "site" in cfg}

"""Which way of choosing a latent by words finds one that causes what they say?

    python -m benchmarks.retrieval runs/quickstart-0/latest --out docs/retrieval.json --page docs/retrieval.md

On the toybox. For each value of some factors the latents that `find_by_text` tries are pushed one by one, on training
prompts that do not mention the factor; an oracle says how many images show the value. The same pushes then answer for
every way of choosing among them. A target's row is kept, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.pages import markdown, write
from tide_lightning.benchmark.prompts import SteeringPrompts, steering_prompts
from tide_lightning.diffusion import sample
from tide_lightning.explore import Found, Run, find_by_text, open_run
from tide_lightning.grounds.toybox import Toybox
from tide_lightning.grounds.toybox.factors import FACTORS
from tide_lightning.grounds.toybox.oracle import load_oracle
from tide_lightning.intervene import Edit, steer
from tide_lightning.intervene.amounts import full_amounts

_PUSHES = (0.45, 0.8)
"""How far tokens are moved, as a share of what they hold besides the known part."""

_CANDIDATES = 4
"""Of each site."""

Rule = Callable[[dict[str, Any]], float]
RULES: dict[str, Rule] = {
    "contrast times effect squared": lambda row: float(row["contrast"] * row["effect"] * abs(row["effect"])),
    "contrast times effect": lambda row: float(row["contrast"] * row["effect"]),
    "contrast alone": lambda row: float(row["contrast"]),
    "effect alone": lambda row: float(row["effect"]),
    "the best, seen afterwards": lambda row: float(row["success"]),
}


def main() -> None:
    """Measure what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--out", type=Path, default=Path("retrieval.json"))
    parser.add_argument("--page", type=Path, help="Markdown whose marked table is replaced")
    parser.add_argument("--factors", nargs="+", default=["colour", "shape", "size"], choices=list(FACTORS))
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--targets", type=int, default=1000, help="measure at most so many more")
    given = parser.parse_args()
    rows: dict[str, list[dict[str, Any]]] = json.loads(given.out.read_text()) if given.out.is_file() else {}
    run = open_run(given.run)
    torch.set_float32_matmul_precision("medium")
    wanted = [(factor, value) for factor in given.factors for value in FACTORS[factor]]
    for factor, value in [one for one in wanted if ":".join(one) not in rows][: given.targets]:
        rows[f"{factor}:{value}"] = _measure(run, factor, value, given.prompts)
        given.out.write_text(json.dumps(rows, indent=1) + "\n")
        print(f"{factor}:{value}", {name: _chosen(rows[f"{factor}:{value}"], rule) for name, rule in RULES.items()})
    table = _table(rows, given.factors)
    print(table)
    if given.page is not None:
        write(given.page, "choice", table)


@torch.no_grad()
def _measure(run: Run, factor: str, value: str, num_prompts: int) -> list[dict[str, Any]]:
    boards = steering_prompts(Toybox(), run.denoiser, factor, "silent", "train", num_prompts, seed=2)
    found = find_by_text(run, value, top=1000, num_candidates=_CANDIDATES)
    oracle, units = load_oracle("a"), {site: full_amounts(sae) for site, sae in run.saes.items()}
    number = FACTORS[factor].index(value)

    def success(one: Found) -> float:
        shares = []
        for push in _PUSHES:
            amount = push * float(units[one.site][one.latent])
            images = _pushed(run, one, amount, boards)
            shares.append(float((oracle.read(images)[factor].argmax(1) == number).float().mean()))
        return max(shares)

    return [
        {
            "site": one.site,
            "latent": one.latent,
            "contrast": one.contrast,
            "effect": one.effect,
            "success": success(one),
        }
        for one in found
    ]


def _pushed(run: Run, one: Found, amount: float, boards: SteeringPrompts) -> Tensor:
    edit = Edit(one.site, one.latent, "add", amount, region=boards.tokens, half="conditional")
    with steer(run.denoiser, run.saes, [edit]) as steered:
        latents = sample(steered, boards.prompts, num_inference_steps=10, initial_noise=boards.noise)
    return run.denoiser.decode_latents(latents)


def _chosen(rows: list[dict[str, Any]], rule: Rule) -> float:
    return float(max(rows, key=rule)["success"])


def _table(rows: dict[str, list[dict[str, Any]]], factors: list[str]) -> str:
    measured = [factor for factor in factors if any(target.startswith(f"{factor}:") for target in rows)]
    lines = []
    for name, rule in RULES.items():
        cells = []
        for factor in measured:
            targets = [found for target, found in rows.items() if target.startswith(f"{factor}:")]
            cells.append(f"{sum(_chosen(found, rule) for found in targets) / len(targets):.0%}")
        lines.append([name, *cells])
    return markdown(["chosen by", *measured], lines)


if __name__ == "__main__":
    main()

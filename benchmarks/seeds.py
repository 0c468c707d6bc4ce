r"""Tables over the runs of several seeds, from their metrics.json: mean and, in brackets, its interval over seeds.

for seed in 3 4 5; do
  tide fit --config quickstart --run_name quickstart-$seed --seed_everything $seed --data.seed $seed
  tide test --run_name quickstart-$seed
  tide fit --config quickstart --config encoder-only --run_name mean-$seed --seed_everything $seed --data.seed $seed \
    --model.sae.init_args.known_part mean
  tide test --run_name mean-$seed
done
python -m benchmarks.seeds runs/quickstart-{3,4,5}/latest --mean runs/mean-{3,4,5}/latest \
  --toybox docs/results/toybox-benchmark.md --csv docs/results/summaries/toybox-benchmark.csv
python -m benchmarks.seeds runs/quickstart-{3,4,5}/latest --headlines --figures README.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.pages import averaged, markdown, write, write_csv

Metrics = dict[str, Any]
Read = Callable[[Metrics, str], float]


_MEAN = "Where only the mean is known and nothing is pursued (`--config encoder-only`, `known_part: mean`)"


def by_the_mean(losses: dict[str, float]) -> float:
    """The loss increase where a site is replaced by its mean."""
    return losses["loss_ablated"] / losses["loss_original"] - 1


Columns = dict[str, tuple[Read, str]]
Table = tuple[list[str], list[list[str]]]
"""Heads and lines."""

FIGURES: Columns = {
    "explained variance": (lambda m, s: m["sites"][s]["explained_variance"], ".4f"),
    "beyond known": (lambda m, s: m["sites"][s]["explained_variance_beyond_known"], ".3f"),
    "known alone": (lambda m, s: m["floors"][s]["known"]["explained_variance"], ".4f"),
    "PCA 2k": (lambda m, s: m["floors"][s]["pca_2k"]["explained_variance"], ".4f"),
    "loss increase, even in t": (lambda m, s: m["fidelity"]["sites"][s]["loss_increase_even"], "%"),
    "loss increase": (lambda m, s: m["fidelity"]["sites"][s]["loss_increase"], "%"),
    "by known alone": (lambda m, s: m["fidelity"]["sites"][s]["loss_increase_known"], "%"),
    "by the mean": (lambda m, s: by_the_mean(m["fidelity"]["sites"][s]), "%"),
    "alive": (lambda m, s: m["sites"][s]["alive_fraction"], ".3f"),
    "L0": (lambda m, s: m["sites"][s]["l0"], ".1f"),
}

HEADLINES: Columns = {
    "explained variance": FIGURES["explained variance"],
    "linear baseline's": FIGURES["known alone"],
    "loss increase, even in t": FIGURES["loss increase, even in t"],
    "linear baseline's ": (lambda m, s: m["fidelity"]["sites"][s]["loss_increase_known_even"], "%"),
    "over all samples": FIGURES["loss increase"],
    "alive": FIGURES["alive"],
    "L0": FIGURES["L0"],
    "in the largest tenth of t": (lambda m, s: m["sites"][s]["l0_largest"], ".1f"),
}
"""Those that README shows; the known part is called what it is: a linear baseline."""

PROBES = {
    "best latent": "best_latent",
    "5 latents": "latents_5",
    "20 latents": "latents_20",
    "20 random": "random_20",
    "best channel": "best_channel",
    "dense": "dense",
    "known alone": "known",
    "position": "position",
    "always yes": "always_yes",
}

READOUTS = {"codes": "codes", "random": "random", "dense": "dense", "known alone": "known", "position": "position"}

STEERING = {
    "no steering": "none",
    "one latent": "latent",
    "random latent": "random",
    "dense mean difference": "dense",
    "the same beyond known": "dense_beyond_known",
    "changed prompt": "prompt",
}


MEANING = {"AUROC, mean over factors": "auroc", "F1, mean over factors": "f1"}

READ_OUT = {"Depth, R² beyond position": "depth_r2_beyond_position", "Mask, IoU": "mask_iou"}

ASIDE = {
    *("AUROC", "Depth", "Mask", "Factors kept"),
    *("5 latents", "20 random", "best channel", "position", "confirmed by both judges"),
}
"""Tables, by how their titles begin, and columns that are in the CSV file alone."""


def figures(runs: Sequence[Metrics], columns: Columns = FIGURES) -> str:
    """Reconstruction, floors and fidelity by site."""
    rows = [
        [site, *(averaged([read(run, site) for run in runs], form) for read, form in columns.values())]
        for site in runs[0]["sites"]
    ]
    table = markdown(["site", *columns], rows)
    plain, even = (
        averaged([run["fidelity"]["all"][f"loss_increase{key}"] for run in runs], "%") for key in ("", "_even")
    )
    return f"{table}\n\nAll {len(rows)} sites spliced at once: loss increase {plain}, even in t {even}."


def toybox(runs: Sequence[Metrics]) -> dict[str, Table]:
    """Meaning, read-out, factors kept and steering, by title."""
    boxes = [run["toybox"] for run in runs]
    found: dict[str, Table] = {}
    for title, measure in MEANING.items():
        rows = [
            [
                site,
                *(
                    averaged([box["meaning"][site]["mean"][measure][key] for box in boxes], ".3f")
                    for key in PROBES.values()
                ),
            ]
            for site in boxes[0]["meaning"]
        ]
        found[title] = ["site", *PROBES], rows
    for title, measure in READ_OUT.items():
        rows = [
            [
                site,
                *(averaged([box["readout"][site][measure][key] for box in boxes], ".3f") for key in READOUTS.values()),
            ]
            for site in boxes[0]["readout"]
        ]
        found[title] = ["site", *READOUTS], rows
    spliced = {site: [box["kept"]["sites"][site] for box in boxes] for site in boxes[0]["kept"]["sites"]}
    spliced |= {name: [box["kept"][name] for box in boxes] for name in ("all", "unrelated")}
    rows = [
        [name, *(averaged([each[which] for each in kept], "%") for which in ("mentioned", "open"))]
        for name, kept in spliced.items()
    ]
    title = f"Factors kept, {boxes[0]['kept']['images']} images a seed"
    found[title] = ["spliced", "mentioned by the prompt", "left open"], rows
    columns = {"success": "success", "confirmed by both judges": "confirmed", "other factors stable": "stability_mean"}
    rows = [
        [name, *(averaged([box["steering"]["mean"][key][column] for box in boxes], "%") for column in columns.values())]
        for name, key in STEERING.items()
    ]
    title = f"Steering, {boxes[0]['steering']['mean']['latent']['images']} images a method and seed"
    found[title] = ["method", *columns], rows
    return found


def shown(tables: Mapping[str, Table]) -> str:
    """What a page has of the toybox's tables: without those of `ASIDE`, and without these columns."""
    parts = []
    for title, (head, rows) in tables.items():
        kept = [number for number, name in enumerate(head) if name not in ASIDE]
        lines = [[row[number] for number in kept] for row in rows]
        if title.split(",")[0] not in ASIDE:
            parts.append(f"{title}:\n\n{markdown([head[number] for number in kept], lines)}")
    return "\n\n".join(parts)


def read_metrics(run: Path) -> Metrics:
    """What `tide test` left in a run's folder."""
    metrics: Metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def main() -> None:
    """Read the runs; print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--mean", type=Path, nargs="*", default=[], help="the same with known_part: mean, encoder-only")
    parser.add_argument("--headlines", action="store_true", help="README's columns")
    parser.add_argument("--figures", type=Path, help="page whose table is replaced")
    parser.add_argument("--mark", default="figures", help="what that table is called in the page")
    parser.add_argument("--toybox", type=Path, help="page whose `toybox` section is replaced")
    parser.add_argument("--csv", type=Path, help="every figure of the toybox's tables")
    options = parser.parse_args()
    runs, plain = ([read_metrics(run) for run in paths] for paths in (options.runs, options.mean))
    columns = HEADLINES if options.headlines else FIGURES
    table = figures(runs, columns)
    if plain:
        table += f"\n\n{_MEAN}:\n\n{figures(plain)}"
    print(table)
    if options.figures:
        write(options.figures, options.mark, table)
    tables = toybox(runs) if options.toybox or options.csv else {}
    if options.toybox:
        write(options.toybox, "toybox", shown(tables))
    if options.csv:
        cells = [
            [title, row[0], name, cell]
            for title, (head, rows) in tables.items()
            for row in rows
            for name, cell in zip(head[1:], row[1:], strict=True)
        ]
        write_csv(options.csv, ["table", "row", "column", "figure"], cells)


if __name__ == "__main__":
    main()

r"""Tables over the runs of several seeds, from their metrics.json: mean and, in brackets, its interval over seeds.

for seed in 3 4 5; do
  tide fit --config quickstart --run_name quickstart-$seed --seed_everything $seed --data.seed $seed
  tide test --run_name quickstart-$seed
  tide fit --config quickstart --config encoder-only --run_name mean-$seed --seed_everything $seed --data.seed $seed \
    --model.sae.init_args.known_part mean
  tide test --run_name mean-$seed
done
python -m benchmarks.seeds runs/quickstart-{3,4,5}/latest --mean runs/mean-{3,4,5}/latest \
  --toybox docs/results/toybox-benchmark.md
python -m benchmarks.seeds runs/quickstart-{3,4,5}/latest --headlines --figures README.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.pages import averaged, markdown, write

Metrics = dict[str, Any]
Read = Callable[[Metrics, str], float]


_MEAN = "Where only the mean is known and nothing is pursued (`--config encoder-only`, `known_part: mean`)"


def by_the_mean(losses: dict[str, float]) -> float:
    """The loss increase where a site is replaced by its mean."""
    return losses["loss_ablated"] / losses["loss_original"] - 1


Columns = dict[str, tuple[Read, str]]

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


def toybox(runs: Sequence[Metrics]) -> str:
    """Meaning, read-out, factors kept and steering."""
    boxes = [run["toybox"] for run in runs]
    parts = []
    for measure, form in (("auroc", ".3f"), ("f1", ".3f")):
        rows = [
            [
                site,
                *(
                    averaged([box["meaning"][site]["mean"][measure][key] for box in boxes], form)
                    for key in PROBES.values()
                ),
            ]
            for site in boxes[0]["meaning"]
        ]
        parts.append(f"{measure.upper()}, mean over factors:\n\n" + markdown(["site", *PROBES], rows))
    for measure, name in (("depth_r2_beyond_position", "Depth, R² beyond position"), ("mask_iou", "Mask, IoU")):
        rows = [
            [
                site,
                *(averaged([box["readout"][site][measure][key] for box in boxes], ".3f") for key in READOUTS.values()),
            ]
            for site in boxes[0]["readout"]
        ]
        parts.append(f"{name}:\n\n" + markdown(["site", *READOUTS], rows))
    spliced = {site: [box["kept"]["sites"][site] for box in boxes] for site in boxes[0]["kept"]["sites"]}
    spliced |= {name: [box["kept"][name] for box in boxes] for name in ("all", "unrelated")}
    rows = [
        [name, *(averaged([each[which] for each in found], "%") for which in ("mentioned", "open"))]
        for name, found in spliced.items()
    ]
    parts.append(
        f"Factors kept, {boxes[0]['kept']['images']} images a seed:\n\n"
        + markdown(["spliced", "mentioned by the prompt", "left open"], rows)
    )
    columns = {"success": "success", "confirmed by both judges": "confirmed", "other factors stable": "stability_mean"}
    rows = [
        [name, *(averaged([box["steering"]["mean"][key][column] for box in boxes], "%") for column in columns.values())]
        for name, key in STEERING.items()
    ]
    images = boxes[0]["steering"]["mean"]["latent"]["images"]
    parts.append(f"Steering, {images} images a method and seed:\n\n" + markdown(["method", *columns], rows))
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
    options = parser.parse_args()
    runs, plain = ([read_metrics(run) for run in paths] for paths in (options.runs, options.mean))
    columns = HEADLINES if options.headlines else FIGURES
    table = figures(runs, columns)
    if plain:
        table += f"\n\n{_MEAN}:\n\n{figures(plain)}"
    print(table)
    if options.figures:
        write(options.figures, options.mark, table)
    if options.toybox:
        write(options.toybox, "toybox", toybox(runs))


if __name__ == "__main__":
    main()

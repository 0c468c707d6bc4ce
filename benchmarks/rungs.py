r"""What each rung of the known part is worth on real trajectories: a table over the runs of several seeds.

for seed in 0 1 2; do
  tide fit --config quickstart --config rungs --run_name rungs-$seed --seed_everything $seed --data.seed $seed
  tide test --run_name rungs-$seed
done
python -m benchmarks.rungs runs/rungs-{0,1,2}/latest --table docs/ablation.md
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from benchmarks.seeds import Metrics, read_metrics
from benchmarks.tables import averaged, markdown, write

COLUMNS: dict[str, tuple[Callable[[Metrics, str], float], str]] = {
    "known alone": (lambda m, s: m["floors"][s]["known"]["explained_variance"], ".4f"),
    "explained variance": (lambda m, s: m["sites"][s]["explained_variance"], ".4f"),
    "beyond known": (lambda m, s: m["sites"][s]["explained_variance_beyond_known"], ".3f"),
    "alive": (lambda m, s: m["sites"][s]["alive_fraction"], ".3f"),
    "L0": (lambda m, s: m["sites"][s]["l0"], ".1f"),
    "final latent, MSE": (lambda m, s: _images(m)["sites"][s]["mse"], ".3f"),
    "centred cosine": (lambda m, s: _images(m)["sites"][s]["cosine_centred"], ".3f"),
    "Fréchet to original": (lambda m, s: _images(m)["sites"][s]["frechet_to_original"], ".1f"),
}


def _images(metrics: Metrics) -> Metrics:
    found: Metrics = metrics["fidelity"]["end_to_end"]
    return found


def main() -> None:
    """Read the runs; print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--table", type=Path, help="page whose `rungs` section is replaced")
    options = parser.parse_args()
    runs = [read_metrics(run) for run in options.runs]
    rows = [
        [
            site.split("@")[1],
            *(averaged([read(run, site) for run in runs], form) for read, form in COLUMNS.values()),
        ]
        for site in runs[0]["sites"]
    ]
    unrelated = averaged([_images(run)["unrelated"]["mse"] for run in runs], ".2f")
    images = _images(runs[0])["images"]
    text = markdown(["known part", *COLUMNS], rows)
    text += f"\n\nFinal latents of {images} images a seed; unrelated images are {unrelated} apart."
    print(text)
    if options.table:
        write(options.table, "rungs", text)


if __name__ == "__main__":
    main()

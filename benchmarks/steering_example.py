"""README's steering example on ten seeds: does it change what it says, and keep everything else, by both judges?

python -m benchmarks.steering_example quickstart --page docs/how-to/steer.md

One latent is found by a word, once, and raised as `tide steer --find` raises it: in the prompt's half, where the latent
fires when the prompt says the word. Beside it: raised everywhere, and the word in the prompt.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.pages import markdown, save, write
from tide_lightning.diffusion import Denoiser, sample_images
from tide_lightning.explore import open_run
from tide_lightning.explore.consequences import difference
from tide_lightning.explore.places import Activity, where_it_fires
from tide_lightning.explore.question import said_in
from tide_lightning.explore.steer_command import first_found
from tide_lightning.grounds import likeliest
from tide_lightning.grounds.toybox import Toybox
from tide_lightning.grounds.toybox.factors import FACTORS
from tide_lightning.intervene import Edit, steer
from tide_lightning.intervene.recording import recorded

PROMPT = "a large cube in the centre nearby, in front of a sky wall, lit from the left"
_STEPS = 20  # those of `tide steer`


@torch.no_grad()
def measure(
    where: str, prompt: str, query: str, factor: str, num_seeds: int, times: Sequence[float] = ()
) -> dict[str, Any]:
    """Figures of each way, by name; also where it fires at other amounts, in times of what the word does."""
    run = open_run(where, device="cpu")
    denoiser, found = run.denoiser, first_found(run, query)
    print(f"{query}: {found.site}/{found.latent}, {found.amount / found.rise:.2f} times what the word does", flush=True)
    noise = torch.cat([denoiser.noise(seed, "sample", numbers=[0]) for seed in range(num_seeds)])

    def draw(by: Denoiser, words: str) -> Tensor:
        return sample_images(by, [words] * num_seeds, initial_noise=noise, **run.trajectory(_STEPS))

    activity = Activity(run.saes, [(found.site, found.latent)])
    before = draw(denoiser, prompt)
    with_word = said_in(prompt, query, run.captions)
    images = {"the word in the prompt": draw(recorded(denoiser, activity.saes, activity.take), with_word)}
    grid = run.sae(found.site).shape.grid
    places = [where_it_fires(one, grid) for one in activity.maps()[found.site, found.latent]]
    everywhere = torch.ones(len(activity.maps()[found.site, found.latent][0]), dtype=torch.bool)
    firing = torch.stack([everywhere if one is None else one for one in places])
    ways: dict[str, tuple[Tensor | None, float]] = {
        "one latent, where it fires": (firing, found.amount),
        "one latent, everywhere": (None, found.amount),
        **{f"one latent, where it fires, {one:g}x": (firing, one * found.rise) for one in times},
    }
    for name, (region, amount) in ways.items():
        edit = Edit(found.site, found.latent, "add", amount, region=region, half="conditional")
        with steer(denoiser, run.saes, [edit]) as steered:
            images[name] = draw(steered, prompt)
    value = FACTORS[factor].index(query)
    figures = {name: _figures(before, images[name], factor, value) for name in (*ways, "the word in the prompt")}
    return {"prompt": prompt, "query": query, "latent": f"{found.site}/{found.latent}", "ways": figures}


def _figures(before: Tensor, after: Tensor, factor: str, value: int) -> dict[str, Any]:
    """Of N images: how many reach the value, keep each other factor and all of them, by both judges."""
    judges = Toybox().judges("cpu")
    read = [[likeliest(judge, images) for images in (before, after)] for judge in judges]
    reached = torch.stack([now[factor] == value for _, now in read]).all(0)
    kept = {
        name: torch.stack([was[name] == now[name] for was, now in read]).all(0) for name in FACTORS if name != factor
    }
    moved = torch.stack([difference(*pair) for pair in zip(before, after, strict=True)])
    return {
        "images": len(before),
        "said before": int(torch.stack([was[factor] == value for was, _ in read]).any(0).sum()),
        "reached": int(reached.sum()),
        "kept": {name: int(one.sum()) for name, one in kept.items()},
        "all kept": int(torch.stack(list(kept.values())).all(0).sum()),
        "pixels": float(moved.mean()),
    }


def table(figures: Mapping[str, Any]) -> str:
    """A row for each way."""
    ways = figures["ways"]
    head = ["way", f"{figures['query']}, by both judges", "every other factor kept, by both", "pixels moved"]
    rows = [
        [name, *(f"{one[key]} of {one['images']}" for key in ("reached", "all kept")), f"{one['pixels']:.1%}"]
        for name, one in ways.items()
    ]
    return markdown(head, rows)


def main() -> None:
    """Measure, write figures and the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("run", nargs="?", default="quickstart")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--find", default="red")
    parser.add_argument("--factor", default="colour", choices=list(FACTORS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument(
        "--times", type=float, nargs="*", default=[], help="other amounts, in times of what the word does"
    )
    parser.add_argument("--out", type=Path, help="JSON file of all figures")
    parser.add_argument("--page", type=Path, help="page whose `steering-example` section is replaced")
    options = parser.parse_args()
    figures = measure(options.run, options.prompt, options.find, options.factor, options.seeds, options.times)
    print(table(figures))
    if options.out:
        save(options.out, figures)
    if options.page:
        write(options.page, "steering-example", table(figures))


if __name__ == "__main__":
    main()

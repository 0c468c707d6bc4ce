r"""What style transfer and concept erasure do on the toybox, as its oracles see it.

python -m benchmarks.editing runs/quickstart/latest --prompts 6 --out docs/results/summaries/editing.json \
  --style-page docs/how-to/style.md --erasure-page docs/how-to/erase.md

Style: held-out prompts are drawn with the wall of a style prompt that shows nothing else; content should stay. Erasure:
of held-out prompts half call for a concept and should lose it, half do not and should stay. Latents are chosen by
prompts alone; erasure finds them on training prompts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.pages import averaged, markdown, read, save, write
from tide_lightning.benchmark.prompts import steering_prompts
from tide_lightning.diffusion import Denoiser, sample_images
from tide_lightning.diffusion.counters import stream
from tide_lightning.explore import Run, open_run
from tide_lightning.explore.erasure import erase, find_concept
from tide_lightning.explore.style import Style, separate_style, transfer_style
from tide_lightning.grounds import likeliest
from tide_lightning.grounds.toybox import Toybox
from tide_lightning.grounds.toybox.factors import FACTORS
from tide_lightning.grounds.toybox.judge import ToyboxJudge
from tide_lightning.grounds.toybox.oracle import load_oracle
from tide_lightning.intervene.recording import walk_prompts

CONCEPTS = ("colour:red", "colour:blue", "shape:ring", "wall:mint")
FACTORS_TRIED = (0.0, -1.0, -3.0)
_NUM_FINDING = 8  # training prompts of each kind to find a concept's latents by
METHODS = ("none", "style", "random latents", "prompt")
_OTHERS = tuple(name for name in FACTORS if name != "wall")
_SETTINGS: dict[str, Any] = {"num_inference_steps": 10, "guidance_scale": 4.5}

Read = dict[str, Tensor]


def style(run: Run, num_prompts: int) -> dict[str, Any]:
    """Every wall carried over to prompts with others, at the run's first site."""
    denoiser, oracle = run.denoiser, load_oracle("a")
    site = next(iter(run.saes))
    saes = {site: run.saes[site]}
    boards = steering_prompts(Toybox(), denoiser, "wall", "contrary", "test", num_prompts, seed=3)
    noises = denoiser.noise(3, "style", numbers=range(3))
    counts = {method: {"images": 0, "success": 0, **dict.fromkeys(FACTORS, 0)} for method in METHODS}

    @torch.no_grad()
    def read(by: Denoiser, prompt: str, noise: Tensor) -> Read:
        return likeliest(oracle, sample_images(by, [prompt], initial_noise=noise.unsqueeze(0), **_SETTINGS))

    for number, (prompt, noise) in enumerate(zip(boards.prompts, boards.noise, strict=True)):
        before = read(denoiser, prompt, noise)
        content = walk_prompts([prompt] * len(noises), noises, **_SETTINGS)
        for value, wall in enumerate(FACTORS["wall"]):
            if value == int(boards.own[number]):
                continue
            source = walk_prompts([f"an object, in front of a {wall} wall"] * len(noises), noises, **_SETTINGS)
            found = separate_style(denoiser, saes, source, content)
            after = {"none": before, "prompt": read(denoiser, boards.changed[value][number], noise)}
            for method, styles in (("style", found), ("random latents", _shuffled(found, saes[site].d_sae, number))):
                with transfer_style(denoiser, saes, styles) as styled:
                    after[method] = read(styled, prompt, noise)
            for method in METHODS:
                _count(counts[method], before, after[method], value)
    return _shares(counts)


def _shuffled(styles: Mapping[str, Style], d_sae: int, seed: int) -> dict[str, Style]:
    """The same differences, of other latents."""
    found = {}
    for site, one in styles.items():
        latents = torch.from_numpy(stream(seed, "random style").choice(d_sae, len(one.latents), replace=False))
        found[site] = Style(latents, one.extent, one.t, one.difference)
    return found


def _count(counts: dict[str, int], before: Read, after: Read, value: int) -> None:
    counts["images"] += 1
    counts["success"] += int(after["wall"][0] == value)
    for name in FACTORS:
        counts[name] += int(before[name][0] == after[name][0])


def _shares(counts: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    return {
        method: {name: number if name == "images" else number / some["images"] for name, number in some.items()}
        for method, some in counts.items()
    }


def erasure(run: Run, concept: str, num_prompts: int) -> dict[str, Any]:
    """One concept: what is left of it, and how the other half fares."""
    denoiser, oracle = run.denoiser, load_oracle("a")
    factor, value = concept.split(":")
    number = FACTORS[factor].index(value)
    lists: dict[str, tuple[list[str], list[str]]] = {}
    noise: dict[str, Tensor] = {}
    for split in ("train", "test"):
        count = num_prompts if split == "test" else _NUM_FINDING
        boards = steering_prompts(Toybox(), denoiser, factor, "contrary", split, 2 * count, seed=4)
        kept = [boards.prompts[row] for row in range(len(boards)) if int(boards.own[row]) != number]
        lists[split] = boards.changed[number][:count], kept[-count:]
        noise[split] = boards.noise
    latents = find_concept(denoiser, run.saes, *lists["train"], noise["train"][: len(lists["train"][0])], **_SETTINGS)
    start = noise["test"][: len(lists["test"][0]) + len(lists["test"][1])]
    outcomes = erase(
        denoiser, run.saes, latents, FACTORS_TRIED, *lists["test"], start, ToyboxJudge(concept), **_SETTINGS
    )
    before = likeliest(oracle, outcomes[0].kept)
    found: dict[str, Any] = {"latents": [[one.site, one.latent] for one in latents]}
    for one in outcomes:
        after = likeliest(oracle, one.kept)
        stable = {name: float((before[name] == after[name]).double().mean()) for name in FACTORS}
        found[f"{one.factor:g}"] = {
            "shown": one.shown,
            "shown_elsewhere": one.shown_elsewhere,
            "changed": one.changed,
            "unrelated": one.unrelated,
            "stability": {**stable, "mean": sum(stable.values()) / len(stable)},
        }
    return found


def style_table(seeds: Sequence[Mapping[str, Any]]) -> str:
    """Success and what stays, by method; the JSON file has each factor."""
    rows = []
    for method in METHODS:
        measured = [seed["style"][method] for seed in seeds]
        others = [sum(one[name] for name in _OTHERS) / len(_OTHERS) for one in measured]
        rows.append([method, averaged([one["success"] for one in measured], ".0%"), averaged(others, ".0%")])
    return markdown(["method", "wall carried over", "other factors as before"], rows)


def erasure_table(seeds: Sequence[Mapping[str, Any]]) -> str:
    """What is left of concepts and how others fare, in the mean; the JSON file has each concept."""
    rows = []
    for factor in (f"{one:g}" for one in FACTORS_TRIED):

        def mean(read: Callable[[Mapping[str, Any]], float], factor: str = factor) -> str:
            each = [[read(seed["erasure"][concept][factor]) for concept in CONCEPTS] for seed in seeds]
            return averaged([sum(values) / len(values) for values in each], ".1%")

        rows.append(
            [
                factor,
                mean(lambda one: one["shown"]),
                mean(lambda one: one["shown_elsewhere"]),
                mean(lambda one: one["changed"]),
                mean(lambda one: one["stability"]["mean"]),
            ]
        )
    return markdown(
        ["factor", "still seen", "seen in others", "others' pixels moved", "others' factors as before"], rows
    )


def main() -> None:
    """Measure, write figures and tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("runs", type=Path, nargs="+", help="one of each seed; or figures (.json) measured before")
    parser.add_argument("--prompts", type=int, default=8, help="held-out ones, for each style and concept")
    parser.add_argument("--out", type=Path, help="JSON file of all figures")
    parser.add_argument("--style-page", type=Path, help="page whose `style` section is replaced")
    parser.add_argument("--erasure-page", type=Path, help="page whose `erasure` section is replaced")
    options = parser.parse_args()
    seeds: list[dict[str, Any]] = []
    for path in options.runs:
        if path.suffix == ".json":
            seeds += read(path)["seeds"].values()
            continue
        run = open_run(path, device="cpu")
        found: dict[str, Any] = {"style": style(run, options.prompts)}
        print(path, found["style"], flush=True)
        found["erasure"] = {}
        for concept in CONCEPTS:
            found["erasure"][concept] = erasure(run, concept, options.prompts)
            print(concept, found["erasure"][concept], flush=True)
        seeds.append(found)
    if options.out:
        save(options.out, {"seeds": {str(number): found for number, found in enumerate(seeds)}})
    for page, mark, table in (
        (options.style_page, "style", style_table(seeds)),
        (options.erasure_page, "erasure", erasure_table(seeds)),
    ):
        print(table, end="\n\n")
        if page:
            write(page, mark, table)


if __name__ == "__main__":
    main()

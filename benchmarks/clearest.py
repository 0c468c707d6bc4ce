"""For each value of a factor, the latent of a run that tells it best, as a picture and a table.

    python -m benchmarks.clearest runs/photos/latest --out docs/images/photos-features.png

A latent's score of an image is its largest value over the tokens, at one time t and without a prompt, so that it speaks
of what is to be seen. For each value the latent with the highest AUROC on training images is shown with the held-out
images on which it scores highest, and the tokens where it fires.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.pages import markdown, write
from benchmarks.worlds import WORLDS
from tide_lightning.diffusion.counters import normals
from tide_lightning.evaluation.scores import auroc, auroc_paired
from tide_lightning.explore import open_run
from tide_lightning.explore.pictures import save_picture, sheet
from tide_lightning.explore.run import Run
from tide_lightning.grounds.ground import LabelledImages
from tide_lightning.intervene.recording import record

BATCH = 50


class Clearest(NamedTuple):
    """The latent that tells a value best, and its AUROC on the images on which it was chosen and on others."""

    value: str
    site: str
    latent: int
    train: float
    test: float


def read(run: Run, images: LabelledImages, t: float, seed: int) -> dict[str, Tensor]:
    """Every latent's value at each token [N, T, F], by site."""
    denoiser = run.denoiser
    found: dict[str, list[Tensor]] = {site: [] for site in run.saes}
    raw_t = denoiser.schedule.raw_t(torch.tensor([t]))
    for index in torch.arange(len(images.images)).split(BATCH):
        x0 = denoiser.encode_images(images.images[index])
        noise = normals(seed, "clearest", numbers=index.tolist(), shape=tuple(x0.shape[1:]))
        times = raw_t.expand(len(index))
        x_t = denoiser.schedule.add_noise(x0, noise, times)
        seen = record(denoiser, run.saes, x_t, times, denoiser.encode_prompts([""] * len(index)))
        for site, sae in run.saes.items():
            dense = seen.code(site, sae).to_dense().unflatten(0, (len(index), -1))
            found[site].append(dense.half())
    return {site: torch.cat(parts) for site, parts in found.items()}


def labels_of(images: LabelledImages, factor: str, count: int) -> Tensor:
    """Whether each image shows each value, in any of its units [N, values]."""
    return torch.stack([(images.labels[factor] == number).any(1) for number in range(count)], 1)


def main() -> None:
    """Choose, measure, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--ground", choices=list(WORLDS), default="photos")
    parser.add_argument("--factor", default="class")
    parser.add_argument("--images", type=int, default=1500, help="to choose on, and as many others to measure on")
    parser.add_argument("--t", type=float, default=0.1)
    parser.add_argument("--shown", type=int, default=6, help="images a latent")
    parser.add_argument("--values", type=int, default=0, help="draw only the clearest so many; 0 for all")
    parser.add_argument("--out", type=Path, default=Path("clearest.png"))
    parser.add_argument("--page", type=Path, help="a Markdown file whose table `clearest` to replace")
    options = parser.parse_args()
    run, ground = open_run(options.run), WORLDS[options.ground].ground()
    values = ground.factors[options.factor].values
    train, test = (ground.labelled(split, options.images, seed=1) for split in ("train", "test"))
    chosen_on, shown_on = (labels_of(images, options.factor, len(values)) for images in (train, test))
    scores = {site: auroc(found.float().mean(1), chosen_on) for site, found in read(run, train, options.t, 1).items()}
    there = read(run, test, options.t, 2)
    rows, drawn = [], []
    for number, value in enumerate(values):
        site = max(scores, key=lambda one: float(scores[one][number].nan_to_num(0).amax()))
        latent = int(scores[site][number].nan_to_num(0).argmax())
        fires_NT = there[site][:, :, latent].float()
        held_out = auroc_paired(fires_NT.mean(1, keepdim=True), shown_on[:, number : number + 1])
        rows.append(Clearest(value, site, latent, float(scores[site][number, latent]), float(held_out)))
        drawn.append(_row(rows[-1], test.images, fires_NT, options.shown))
    order = sorted(range(len(rows)), key=lambda one: -rows[one].train)[: options.values or len(rows)]
    save_picture(sheet([drawn[one] for one in order]), options.out)
    table = markdown(
        [options.factor, "latent", "AUROC, chosen on", "AUROC, held out"],
        [[one.value, f"{one.site}/{one.latent}", f"{one.train:.3f}", f"{one.test:.3f}"] for one in rows],
    )
    print(table)
    if options.page:
        write(options.page, "clearest", table)


def _row(one: Clearest, images: Tensor, fires_NT: Tensor, shown: int) -> list[tuple[str, Tensor]]:
    side = int(fires_NT.shape[1] ** 0.5)
    row = []
    for place, number in enumerate(fires_NT.mean(1).topk(shown).indices.tolist()):
        light_TT = fires_NT[number].view(1, 1, side, side)
        light = torch.nn.functional.interpolate(light_TT / light_TT.amax().clamp(min=1e-6), images.shape[-2:])[0]
        lit = -1 + (images[number] + 1) * (0.35 + 0.65 * light)
        title = f"{one.value}: {one.site.rpartition('.')[2]}/{one.latent}" if not place else ""
        row += [(title, images[number]), ("", lit)]
    return row


if __name__ == "__main__":
    main()

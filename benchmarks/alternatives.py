"""Other ways to train than the quickstart's, and what they gain.

    python -m benchmarks.alternatives

On the block of the toybox on which settings are found (`benchmarks.worlds`). Pairs of tokens: of one image, place and
noise, read with a prompt in which one word is changed (their codes should differ by one or two latents), or at a
neighbouring t (their codes should not differ); what else differs is added to the loss, with some weight. Weight 0 shows
what pairs alone do: they are of half as many images. A warm start: the rows of an SAE that was trained with an L1
penalty for a third of the steps. And no other training at all: the quickstart's SAE read by its encoder's code, without
the pursuit that it was trained with. Resumable: what the JSON file holds is not measured again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.ablation import COLUMNS
from benchmarks.pages import over_seeds, read, save, write
from benchmarks.side_by_side import (
    Builder,
    Rows,
    Way,
    add_options,
    builder,
    changed,
    harvest,
    kept,
    key_of,
    measured,
    sae_of,
    train,
)
from tide_lightning.datamodules import ActivationDataModule
from tide_lightning.datamodules.harvest import Harvester
from tide_lightning.datamodules.sampling import noised_call
from tide_lightning.diffusion.counters import normal, stream
from tide_lightning.grounds.toybox.captions import Mentions, compose, parse
from tide_lightning.grounds.toybox.factors import FACTORS
from tide_lightning.kernels import Encoded
from tide_lightning.saes import SAE, TideSAE
from tide_lightning.saes.code import SparseCode
from tide_lightning.saes.frame import Frame
from tide_lightning.tokens import SiteShape, TokenBatch

OURS = "the quickstart's"
READ = "the same, read before its pursuit"
WARM = "rows of an SAE with an L1 penalty at the start"
STEPS_OF_FIRST = 1 / 3
"""Of `warm`: the share of the steps in which the other SAE is trained."""
FARTHEST = 0.15
"""Neighbouring t are at most as far apart."""

Change = Literal["word", "time"]


class Pairing(NamedTuple):
    """How tokens are paired, and what of their codes' difference is added to the loss.

    Fields:
        change: what the second of a pair has different.
        weight: of the difference, the sum of its absolute values over that of both codes.
        spared: how many latents may differ freely, those that differ most.
    """

    change: Change
    weight: float
    spared: int = 0


PAIRINGS = {
    "pairs: another word": Pairing("word", 0),
    "pairs: another word, weight .03": Pairing("word", 0.03, spared=2),
    "pairs: another word, weight .3": Pairing("word", 0.3, spared=2),
    "pairs: neighbouring times": Pairing("time", 0),
    "pairs: neighbouring times, weight .03": Pairing("time", 0.03),
    "pairs: neighbouring times, weight .3": Pairing("time", 0.3),
}

WAYS = [OURS, READ, *PAIRINGS, WARM]
"""The rows, in order."""


class PairedSAE(TideSAE):
    """TideSAE, trained on batches whose second half are the partners of the first.

    Args:
        shape: the site's sizes.
        pairing: what is added to the loss.
        common: what TideSAE has.
    """

    def __init__(self, shape: SiteShape, pairing: Pairing, **common: Any) -> None:
        super().__init__(shape, **common)
        self.pairing = pairing

    def _penalties(self, u: Tensor, encoded: Encoded, code: SparseCode, frame: Frame) -> dict[str, Tensor]:
        penalties = super()._penalties(u, encoded, code, frame)
        one, other = self._code(encoded).to_dense().float().chunk(2)
        difference = (one - other).abs()
        counted = difference.sum(1) - difference.topk(self.pairing.spared, dim=1).values.sum(1)
        share = counted.sum() / (one.sum() + other.sum()).detach().clamp(min=1e-6)
        return penalties | {"pairs": self.pairing.weight * share}


class Pairs(ActivationDataModule):
    """Training batches of pairs: as many tokens, of half as many images.

    Args:
        change: what the second of a pair has different.
        given: the datamodule's arguments.
    """

    def __init__(self, *given: Any, change: Change, **named: Any) -> None:
        super().__init__(*given, **named)
        self.change: Change = change

    def train_dataloader(self) -> Iterator[dict[str, TokenBatch]]:  # type: ignore[override]
        """The endless stream."""
        harvester = Harvester(self.denoiser, self.denoiser.resolve_sites(self.site_patterns), None)
        number = 0
        while True:
            yield self._pairs(harvester, number)
            number += 1

    def _pairs(self, harvester: Harvester, number: int) -> dict[str, TokenBatch]:
        rng, latents = stream(self.seed, "pairs", number), self.latents("train")
        size = self.samples_per_batch // 2
        x0, prompts = latents.fetch(rng.integers(len(latents), size=size).tolist())
        noise = normal(rng, (size, *self.denoiser.latent_shape))
        t = (np.arange(size) + rng.random(size)) / size
        far = rng.uniform(-FARTHEST, FARTHEST, size)
        others = [_another_word(prompt, rng) for prompt in prompts]
        t_other, prompts_other = (t, others) if self.change == "word" else (np.clip(t + far, 0, 1), prompts)
        sample = number * size + torch.arange(size)
        (layout,) = harvester.layouts
        assert isinstance(self.tokens_per_sample, int)
        places = torch.stack([torch.randperm(layout.num_tokens)[: self.tokens_per_sample] for _ in range(size)])
        halves = [
            harvester.read(noised_call(harvester, x0, noise, torch.from_numpy(times), said, sample), {layout: places})
            for times, said in ((t, prompts), (t_other, prompts_other))
        ]
        return {site: TokenBatch.concatenate([half[site] for half in halves]) for site in halves[0]}


def _another_word(prompt: str, rng: np.random.Generator) -> str:
    """The prompt with one value exchanged for another one of its factor; the same where it mentions none."""
    said = parse(prompt)
    parts = [dict(part) for part in (*said.objects, said.scene)]
    places = [(part, factor) for part in parts for factor in part]
    if places:
        part, factor = places[rng.integers(len(places))]
        part[factor] = str(rng.choice([value for value in FACTORS[factor] if value != part[factor]]))
    return compose(Mentions(tuple(parts[:-1]), parts[-1]))


def train_paired(names: list[str], seed: int, folder: Path, options: argparse.Namespace) -> None:
    """Train the missing SAEs on pairs, those of one change side by side, and keep them as plain ones."""
    for change in ("word", "time"):
        missing = {
            key_of(name): partial(builder_of_pair, PAIRINGS[name])
            for name in names
            if PAIRINGS[name].change == change and not (folder / key_of(name) / "cfg.json").is_file()
        }
        if missing:
            data = harvest(seed, options, partial(Pairs, change=change))
            module = train(data, missing, Way(), seed, options)
            for key in missing:
                plain(module.sae(f"{options.site}@{key}")).save_pretrained(folder / key, site=options.site)


def builder_of_pair(pairing: Pairing, shape: SiteShape) -> SAE:
    """The quickstart's SAE, trained on pairs."""
    return PairedSAE(shape, pairing, **sae_of("quickstart")["init_args"])


def train_warm(seed: int, folder: Path, options: argparse.Namespace) -> None:
    """Train an SAE with an L1 penalty, then the quickstart's from its rows, in as many steps together."""
    if (folder / key_of(WARM) / "cfg.json").is_file():
        return
    first = round(STEPS_OF_FIRST * options.steps)
    given = sae_of("quickstart")["init_args"]
    taken = ("known_part", "fidelity_weight", "fidelity_loss", "scale_by_timestep")
    film = builder(
        sae_of("rivals/film"), expansion_factor=given["expansion_factor"], **{key: given[key] for key in taken}
    )
    data = harvest(seed, options)
    start = train(data, {"film": film}, Way(), seed, changed(options, steps=first)).sae(f"{options.site}@film")
    warm = partial(_started_from, start, builder(sae_of("quickstart")))
    module = train(data, {"warm": warm}, Way(), seed, changed(options, steps=options.steps - first))
    module.sae(f"{options.site}@warm").save_pretrained(folder / key_of(WARM), site=options.site)


def _started_from(start: SAE, build: Builder, shape: SiteShape) -> SAE:
    sae = build(shape)
    for name in ("W_enc", "W_dec", "b_enc"):
        getattr(sae, name).data.copy_(getattr(start, name).data)
    return sae


def plain(sae: SAE, **changes: Any) -> TideSAE:
    """The same weights in a TideSAE, with some arguments changed; what it has no use for then is left out."""
    config: dict[str, Any] = sae.config | changes
    made = TideSAE(sae.shape, **config)
    made.load_state_dict({name: value for name, value in sae.state_dict().items() if name in made.state_dict()})
    return made


def main() -> None:
    """Measure what is missing, then print and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--variants", nargs="+", choices=WAYS, default=WAYS)
    folders = {"json": Path("docs/results/summaries/alternatives.json"), "folder": Path("runs/alternatives")}
    settings = {"calibration_samples": 4096, "lr": 5e-3}
    add_options(parser, seeds=[100, 101], steps=1000, test_samples=2048, **folders, **settings)
    options = parser.parse_args()
    torch.set_float32_matmul_precision("medium")
    rows: dict[str, Rows] = read(options.json)
    for seed in [] if options.only_table else options.seeds:
        have, folder = rows.setdefault(str(seed), {}), options.folder / f"seed-{seed}"
        missing = [name for name in options.variants if name not in have]
        if not missing:
            continue
        print(f"seed {seed}: {', '.join(missing)}", flush=True)
        train_paired([name for name in missing if name in PAIRINGS], seed, folder, options)
        if WARM in missing:
            train_warm(seed, folder, options)
        if OURS in missing:
            have |= measured({OURS: builder(sae_of("quickstart"))}, Way(), seed, folder, options)
        if READ in missing:
            ours = SAE.from_pretrained(folder / key_of(OURS))
            plain(ours, pursuits=0).save_pretrained(folder / key_of(READ), site=options.site)
        others = [name for name in missing if name != OURS]
        have |= measured(dict.fromkeys(others, kept), Way(), seed, folder, options) if others else {}
        save(options.json, rows)
    text = over_seeds(rows, WAYS, COLUMNS, "way to train")
    print(text)
    if options.page:
        write(options.page, "alternatives", text)


if __name__ == "__main__":
    main()

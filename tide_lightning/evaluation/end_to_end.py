"""End to end: whole guided trajectories from the same noise, with original and with spliced activations.

Prompts are sampled in chunks, and each rank takes its share of the chunks, so that any number of ranks makes the same
images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tide_lightning.datamodules.sources import Images
from tide_lightning.diffusion import Denoiser, Replicas, unlabelled
from tide_lightning.diffusion.counters import torch_generator
from tide_lightning.diffusion.trajectories import sample
from tide_lightning.evaluation.bootstrap import interval_of_ratio
from tide_lightning.evaluation.budget import is_late
from tide_lightning.evaluation.figures import measured
from tide_lightning.evaluation.image_quality import ImageQuality
from tide_lightning.intervene.splicing import ALL, known_alone, reconstruct_by, splice_cases, splice_denoiser, why_not
from tide_lightning.reduction import all_reduce_sum, rank_and_world
from tide_lightning.saes import SAE

ORIGINAL, KNOWN = "original", "known part alone"

Watch = Callable[[Denoiser, range], Denoiser]
"""Makes of the denoiser the one that samples the originals of some prompts, by their numbers."""

NUM_SHOWN = 8
"""Images that are kept to be looked at."""


class EndToEnd(NamedTuple):
    """Trajectories and what was measured on them.

    Fields:
        figures: the entry `end_to_end` of metrics.json.
        cases: the columns: original, each site, all sites, all sites' known parts.
        prompts: the rows, a few of them.
        images: [cases, prompts, 3, H, W] in [-1, 1], on the CPU.
    """

    figures: dict[str, Any]
    cases: list[str]
    prompts: list[str]
    images: Tensor


class RealImages:
    """Held-out images [N, 3, H, W] in [-1, 1], made when a slice of them is asked for."""

    def __init__(self, images: Images, count: int) -> None:
        self._images, self._places = images, evenly_chosen(len(images), count)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, numbers: slice) -> Tensor:
        return torch.stack([item["image"] for item in self._images.items(self._places[numbers])])


def evenly_chosen(total: int, count: int) -> list[int]:
    """So many places, or all, spread evenly over those there are."""
    count = min(count, total)
    return [number * total // count for number in range(count)]


class Trajectories:
    """Samples every prompt as it is, with each SAE spliced, with all, and with all known parts alone.

    Where sites have several SAEs there is no "all", and the known part alone is that of each site's first.

    Args:
        denoiser: the frozen denoiser.
        saes: by site; those that must not be spliced are left out.
        num_inference_steps: length of the schedule.
        guidance_scale: of classifier-free guidance; both halves are spliced.
        seed: of the initial noise.
        features: makes features of images in [0, 1], for Fréchet distances.
        clip: folder or hub id of a CLIP, for scores.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        saes: Mapping[str, SAE],
        *,
        num_inference_steps: int,
        guidance_scale: float,
        seed: int,
        features: nn.Module | None = None,
        clip: str | None = None,
    ) -> None:
        saes = {site: sae for site, sae in saes.items() if why_not(sae) is None}
        splices = {
            name: {site: reconstruct_by(saes[site]) for site in sites} for name, sites in splice_cases(saes).items()
        }
        firsts = list({unlabelled(site): site for site in reversed(saes)}.values())[::-1]  # one SAE of each site
        if saes:
            splices[KNOWN] = {site: known_alone(saes[site]) for site in firsts}
        self.sites = list(saes)
        self.denoiser = denoiser
        self.splices, self.replicas = splices, Replicas(denoiser)
        self.num_inference_steps, self.guidance_scale, self.seed = num_inference_steps, guidance_scale, seed
        self.cases = [ORIGINAL, *splices]
        self.quality = ImageQuality(self.cases, features, clip, denoiser.device)

    @torch.no_grad()
    def run(
        self,
        prompts: Sequence[str],
        real: RealImages | None = None,
        *,
        chunk_size: int = NUM_SHOWN,
        watch: Watch | None = None,
        progress: Callable[[int], None] | None = None,
        deadline: float | None = None,
    ) -> EndToEnd:
        """Sample and measure; the figures are the same on every rank, the images are those that it sampled first.

        Args:
            prompts: held-out ones.
            real: for Fréchet distances; as many as there are prompts, or fewer.
            chunk_size: prompts sampled together.
            watch: looks at how the originals are sampled.
            progress: called with how many prompts are done.
            deadline: of `time.monotonic`, after which no chunk is begun but the first.
        """
        rank, world = rank_and_world()
        chunks = [range(start, min(start + chunk_size, len(prompts))) for start in range(0, len(prompts), chunk_size)]
        latents = torch.zeros(len(self.cases), len(prompts), *self.denoiser.latent_shape, device=self.denoiser.device)
        shown: list[Tensor] = []
        shown_prompts: list[str] = []
        done = 0
        for first in range(0, len(chunks), world):
            if first and is_late(deadline, self.denoiser.device):
                break
            if first + rank < len(chunks):
                numbers = chunks[first + rank]
                some = [prompts[number] for number in numbers]
                found = self._sample(some, numbers, watch)
                latents[:, numbers.start : numbers.stop] = found
                images = [self.denoiser.decode_latents(part) for part in found]
                for case, part in zip(self.cases, images, strict=True):
                    self.quality.update(case, part, some)
                if real is not None and numbers.start < len(real):
                    self.quality.update_real(real[numbers.start : numbers.stop])
                if len(shown_prompts) < NUM_SHOWN:
                    shown.append(torch.stack(images).cpu())
                    shown_prompts += some
            done = chunks[min(first + world, len(chunks)) - 1].stop
            if progress is not None:
                progress(done)
        by_case = dict(zip(self.cases, all_reduce_sum(latents)[:, :done], strict=True))
        num_real = 0 if real is None or self.quality.features is None else min(done, len(real))
        figures = self._figures(by_case, self.quality.compute(done, num_real))
        figures |= {"real_images": num_real} if num_real else {}
        images_shown = torch.cat(shown, 1) if shown else torch.zeros(len(self.cases), 0, 3, 1, 1)
        return EndToEnd(measured(figures), self.cases, shown_prompts[:NUM_SHOWN], images_shown[:, :NUM_SHOWN])

    def _sample(self, prompts: list[str], numbers: range, watch: Watch | None) -> Tensor:
        """Final latents of every case [cases, N, *latent_shape], each image from the noise of its number."""
        noise = self.denoiser.noise(self.seed, "sample", numbers=numbers)

        def latents(denoiser: Denoiser, case: str) -> Tensor:
            if case != ORIGINAL:
                denoiser = splice_denoiser(denoiser, self.splices[case])
            elif watch is not None:
                denoiser = watch(denoiser, numbers)
            return sample(
                denoiser,
                prompts,
                num_inference_steps=self.num_inference_steps,
                guidance_scale=self.guidance_scale,
                initial_noise=noise,
                generator=[torch_generator(self.seed, "sampler", number) for number in numbers],
            ).float()

        return torch.stack(list(self.replicas.map(latents, self.cases)))

    def _figures(self, latents: dict[str, Tensor], quality: dict[str, dict[str, float]]) -> dict[str, Any]:
        original = latents[ORIGINAL]
        cases = {case: similarity(original, latents[case], original) | quality.get(case, {}) for case in self.cases[1:]}
        figures: dict[str, Any] = {
            "images": len(original),
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "original": quality.get(ORIGINAL, {}),
            "unrelated": unrelated(original),
            "sites": {site: cases[site] for site in self.sites},
        }
        figures |= {key: cases[name] for key, name in ((ALL, ALL), ("known_alone", KNOWN)) if name in cases}
        return figures | {"absent": self.quality.absent()}


def similarity(a: Tensor, b: Tensor, reference: Tensor, seed: int = 0) -> dict[str, Any]:
    """Means over samples, with intervals: cosine, cosine about the mean of `reference`'s samples, squared error."""
    a, b, reference = (x.double().flatten(1).cpu() for x in (a, b, reference))
    mean = reference.mean(0)
    cosine = torch.nn.functional.cosine_similarity
    samples = {"cosine": cosine(a, b), "mse": (a - b).square().mean(1)}
    if len(reference) > 1:
        samples["cosine_centred"] = cosine(a - mean, b - mean)
    found: dict[str, Any] = {}
    for name, values_N in samples.items():
        found[name] = float(values_N.mean())
        found[f"{name}_interval"] = list(interval_of_ratio(values_N, torch.ones_like(values_N), seed))
    return found


def unrelated(latents: Tensor) -> dict[str, float]:
    """The same figures between the images of different prompts: what similarity is worth nothing."""
    number = len(latents)
    if number < 2:
        return {}
    x = latents.double().flatten(1)
    products, others = x @ x.mT, ~torch.eye(number, dtype=torch.bool, device=x.device)
    squares = products.diagonal()
    distances = squares[:, None] + squares - 2 * products
    found = {"mse": float(distances[others].mean()) / x.shape[1]}
    for name, rows in (("cosine", x), ("cosine_centred", x - x.mean(0))):
        directions = torch.nn.functional.normalize(rows, dim=1)
        found[name] = float((directions @ directions.mT)[others].mean())
    return found

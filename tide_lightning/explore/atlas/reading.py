"""What an atlas is made from: samples, each read at many times at all sites.

With a run on noised images every held-out image is noised at the middle of each bin of t, always by the same noise,
so that what changes from bin to bin is time alone. With a run on trajectories held-out prompts are walked from noise to
image, and every step counts for the bin that it lies in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tide_lightning.datamodules.harvest import Harvester
from tide_lightning.datamodules.sampling import noised_call
from tide_lightning.diffusion import sample_images, unlabelled
from tide_lightning.explore.run import Run
from tide_lightning.intervene.recording import recorded
from tide_lightning.saes import SAE
from tide_lightning.tokens import TokenBatch

Labels = Mapping[str, Sequence[str]]
"""What is known of a sample: for each factor the values that it shows."""


class Look(NamedTuple):
    """One forward over a group's samples, all at one time, and every token of each site, sample by sample."""

    t: float
    tokens: dict[str, TokenBatch]


class Group(NamedTuple):
    """Some samples: captions, labels (empty where nothing is known), images [N, 3, H, W] in [-1, 1], and all looks."""

    captions: list[str]
    labels: Sequence[Labels]
    images: Tensor
    looks: list[Look]


def num_samples_of(run: Run, wanted: int) -> int:
    """How many samples an atlas can have."""
    if _is_walked(run):
        return min(wanted, len(run.data.corpus.prompts("heldout")))
    return min(wanted, len(run.data.latents("heldout")))


def read_groups(
    run: Run, saes: Mapping[str, SAE], num_samples: int, num_bins: int, group_size: int, seed: int
) -> Iterator[Group]:
    """Held-out samples in groups, each with all looks at it."""
    for start in range(0, num_samples, group_size):
        numbers = list(range(start, min(start + group_size, num_samples)))
        if _is_walked(run):
            yield _read_walked(run, saes, numbers, seed)
        else:
            yield _read_noised(run, list(dict.fromkeys(map(unlabelled, saes))), numbers, num_bins, seed)


def _is_walked(run: Run) -> bool:
    return run.data.source == "denoise"


@torch.no_grad()
def _read_noised(run: Run, sites: list[str], numbers: list[int], num_bins: int, seed: int) -> Group:
    data, denoiser = run.data, run.denoiser
    harvester = Harvester(denoiser, denoiser.resolve_sites(sites), data.forward_batch_size)
    x0, captions = data.latents("heldout").fetch(numbers)
    noise = denoiser.noise(seed, "atlas", numbers=numbers)
    looks = []
    for place in range(num_bins):
        u = torch.full((len(numbers),), (place + 0.5) / num_bins)
        call = noised_call(harvester, x0, noise, u, captions, torch.tensor(numbers))
        tokens = harvester.read(call, harvester.everywhere(len(numbers)))
        looks.append(Look(float(call.t.mean()), tokens))
    images = data.corpus.images("heldout")
    labels = [{} for _ in numbers] if images is None else images.factors(numbers)
    return Group(captions, labels, denoiser.decode_latents(x0), looks)


@torch.no_grad()
def _read_walked(run: Run, saes: Mapping[str, SAE], numbers: list[int], seed: int) -> Group:
    data, denoiser = run.data, run.denoiser
    prompts = data.corpus.prompts("heldout")
    captions = [prompts[number] for number in numbers]
    looks: list[Look] = []
    images = sample_images(
        recorded(denoiser, saes, lambda forward: looks.append(Look(float(forward.t[0]), forward.tokens))),
        captions,
        **run.trajectory(data.trajectories.num_inference_steps),
        initial_noise=denoiser.noise(seed, "atlas", numbers=numbers),
    )
    return Group(captions, [{} for _ in numbers], images, looks)

"""End to end: whole guided trajectories from the same noise, with original and with spliced activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tide_lightning.callbacks.splicing import known_alone, reconstruct_by, splice_denoiser, why_not
from tide_lightning.diffusion import Denoiser, unlabelled
from tide_lightning.diffusion.trajectories import sample
from tide_lightning.evaluation.fidelity import ALL
from tide_lightning.evaluation.figures import measured
from tide_lightning.saes import SAE

ORIGINAL, KNOWN = "original", "known part alone"


class EndToEnd(NamedTuple):
    """Trajectories and what was measured on them.

    Fields:
        figures: the entry `end_to_end` of metrics.json.
        cases: the columns: original, each site, all sites, all sites' known parts.
        prompts: the rows.
        images: [cases, prompts, 3, H, W] in [-1, 1], on the CPU.
    """

    figures: dict[str, Any]
    cases: list[str]
    prompts: list[str]
    images: Tensor


@torch.no_grad()
def run_trajectories(
    denoiser: Denoiser,
    saes: Mapping[str, SAE],
    prompts: Sequence[str],
    *,
    num_inference_steps: int,
    guidance_scale: float,
    seed: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> EndToEnd:
    """Sample every prompt once as it is, once with each SAE spliced and once with all; compare final latents.

    Where sites have several SAEs there is no "all", and the known part alone is that of each site's first.

    Args:
        denoiser: the frozen denoiser.
        saes: by site; those that must not be spliced are left out.
        prompts: held-out ones.
        num_inference_steps: length of the schedule.
        guidance_scale: of classifier-free guidance; both halves are spliced.
        seed: of the initial noise.
        progress: called before each case with its name, its number and how many there are.
    """
    saes = {site: sae for site, sae in saes.items() if why_not(sae) is None}
    shapes = {site: sae.shape for site, sae in saes.items()}
    splices = {site: {site: reconstruct_by(sae)} for site, sae in saes.items()}
    firsts = list({unlabelled(site): site for site in reversed(saes)}.values())[::-1]  # one SAE of each site
    if len(saes) == len(firsts) > 1:
        splices[ALL] = {site: reconstruct_by(sae) for site, sae in saes.items()}
    if saes:
        splices[KNOWN] = {site: known_alone(saes[site]) for site in firsts}
    denoisers = {ORIGINAL: denoiser} | {
        name: splice_denoiser(denoiser, predictors, shapes) for name, predictors in splices.items()
    }
    latents, images = {}, []
    for number, (name, spliced) in enumerate(denoisers.items()):
        if progress is not None:
            progress(name, number, len(denoisers))
        latents[name] = sample(
            spliced, prompts, seed=seed, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale
        )
        images.append(denoiser.decode_latents(latents[name]).cpu())
    original = latents.pop(ORIGINAL)
    figures: dict[str, Any] = {
        "images": len(prompts),
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "unrelated": unrelated(original),
        "sites": {site: similarity(original, latents[site], original) for site in saes},
    }
    for key, name in ((ALL, ALL), ("known_alone", KNOWN)):
        if name in latents:
            figures[key] = similarity(original, latents[name], original)
    return EndToEnd(measured(figures), list(denoisers), list(prompts), torch.stack(images))


def similarity(a: Tensor, b: Tensor, reference: Tensor) -> dict[str, float]:
    """Means over samples: cosine, cosine about the mean of `reference`'s samples, squared error."""
    a, b, reference = (x.double().flatten(1) for x in (a, b, reference))
    mean = reference.mean(0)
    cosine = torch.nn.functional.cosine_similarity
    found = {"cosine": float(cosine(a, b).mean()), "mse": float((a - b).square().mean())}
    if len(reference) > 1:
        found["cosine_centred"] = float(cosine(a - mean, b - mean).mean())
    return found


def unrelated(latents: Tensor) -> dict[str, float]:
    """The same figures between the images of different prompts: what similarity is worth nothing."""
    number = len(latents)
    if number < 2:
        return {}
    first, second = torch.triu_indices(number, number, offset=1)
    return similarity(latents[first], latents[second], latents)

"""What is kept of an image with SAEs spliced at every step: factors that the judges read alike, and the final latents.

What a prompt mentions is easily kept, for the prompt is told again at each step; what it leaves open is decided by what
the activations carry. Shapes: N prompts, J judges, F factors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tide_lightning.diffusion import Denoiser, Replicas, sample
from tide_lightning.evaluation.bootstrap import interval_of_ratio
from tide_lightning.evaluation.end_to_end import similarity, unrelated
from tide_lightning.grounds import Ground, Judge, likeliest
from tide_lightning.intervene.splicing import Predictor, reconstruct_by, splice_cases, splice_denoiser, why_not
from tide_lightning.saes import SAE

_BATCH = 16


@torch.no_grad()
def factors_kept(
    ground: Ground,
    denoiser: Denoiser,
    saes: Mapping[str, SAE],
    prompts: Sequence[str],
    *,
    num_inference_steps: int,
    guidance_scale: float,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """The entry `kept`: for each site spliced alone, and for all, shares of factor values with their intervals.

    `latents` says how near the final latents come to the original ones, from the same noise (`similarity`). Beside them
    stands what images of different prompts and noise have in common. Both halves of a guided forward are spliced.
    """
    saes = {site: sae for site, sae in saes.items() if why_not(sae) is None}
    judges = ground.judges(str(denoiser.device))
    splices = {name: {site: reconstruct_by(saes[site]) for site in sites} for name, sites in splice_cases(saes).items()}
    cases: dict[str, Mapping[str, Predictor]] = {"original": {}, **splices}
    replicas = Replicas(denoiser)
    seen: dict[str, list[dict[str, Tensor]]] = {name: [] for name in cases}
    made: dict[str, list[Tensor]] = {name: [] for name in seen}
    settings: dict[str, Any] = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
    for numbers in torch.arange(len(prompts)).split(_BATCH):
        noise = denoiser.noise(seed, "kept", numbers=numbers.tolist()).to(denoiser.device)
        some = [prompts[number] for number in numbers.tolist()]

        def images(
            denoiser: Denoiser, splice: Mapping[str, Predictor], some: list[str] = some, noise: Tensor = noise
        ) -> tuple[Tensor, Tensor]:
            runner = splice_denoiser(denoiser, splice) if splice else denoiser
            latents = sample(runner, some, initial_noise=noise, **settings)
            return latents.float().cpu(), denoiser.decode_latents(latents)

        for name, (latents, decoded) in zip(cases, replicas.map(images, cases.values()), strict=True):
            made[name].append(latents)
            seen[name].append(_read(judges, decoded))
            if progress is not None:
                progress(len(some))
    values = {
        name: {factor: torch.cat([part[factor] for part in parts]) for factor in parts[0]}
        for name, parts in seen.items()
    }
    original = values.pop("original")
    said = {factor: torch.tensor([factor in ground.mentioned(prompt) for prompt in prompts]) for factor in original}
    shares = {name: _shares(original, spliced, said, seed) for name, spliced in values.items()}
    ends = {name: torch.cat(parts) for name, parts in made.items()}
    for name, found in shares.items():
        found["latents"] = similarity(ends["original"], ends[name], ends["original"], seed)
    others = {factor: each.roll(1, 0) for factor, each in original.items()}
    return {
        "images": len(prompts),
        "sites": {name: found for name, found in shares.items() if name in saes},
        **{name: found for name, found in shares.items() if name not in saes},
        "unrelated": _shares(original, others, said, seed) | {"latents": unrelated(ends["original"])},
    }


def num_images(saes: Mapping[str, SAE], num_prompts: int) -> int:
    """How many images will be sampled."""
    spliced = [site for site, sae in saes.items() if why_not(sae) is None]
    return num_prompts * (1 + len(splice_cases(spliced)))


def _read(judges: Sequence[Judge], images: Tensor) -> dict[str, Tensor]:
    """The likeliest value of each factor, as each judge sees it [N, J]."""
    read = [likeliest(judge, images) for judge in judges]
    return {factor: torch.stack([each[factor].cpu() for each in read], 1) for factor in read[0]}


def _shares(
    original: Mapping[str, Tensor], other: Mapping[str, Tensor], said: Mapping[str, Tensor], seed: int
) -> dict[str, Any]:
    alike_NF = torch.stack([(original[factor] == other[factor]).double().mean(1) for factor in original], 1)
    said_NF = torch.stack([said[factor] for factor in original], 1)
    found: dict[str, Any] = {}
    for name, counted_NF in (("mentioned", said_NF), ("open", ~said_NF)):
        parts, wholes = (alike_NF * counted_NF).sum(1), counted_NF.sum(1)
        if int(wholes.sum()):
            found[name] = float(parts.sum() / wholes.sum())
            found[f"{name}_interval"] = list(interval_of_ratio(parts, wholes, seed))
    return found | {"factors": dict(zip(original, alike_NF.mean(0).tolist(), strict=True))}

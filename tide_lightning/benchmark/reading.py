"""One pass of the denoiser over labelled images in one bin of t: what every site, and every control, says of them.

Shapes: N images, U units an image, T tokens, B = N T tokens, D channels, F latents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tide_lightning.benchmark.examples import Examples
from tide_lightning.datamodules.harvest import Call, Harvester
from tide_lightning.diffusion import Denoiser
from tide_lightning.diffusion.counters import stream
from tide_lightning.saes import SAE, SparseCode
from tide_lightning.tokens import TokenBatch

SOURCES = ("codes", "dense", "known", "position")
"""What can be read: the sparse codes; and beside them the activation, the SAE's known part, the place alone."""


@dataclass(frozen=True)
class Reading:
    """One site of some images in one bin of t.

    Args:
        pooled: each source's mean over the tokens of each unit [N, U, its channels]; and "unit" [N, 1, 1], the value by
            which a latent moves an activation as far as one of 1 does on average over t (`SAE.unit_at`).
        codes: of every token, image by image in grid order.
        x: activations [B, D].
        known: known parts [B, D].
        input: what the denoiser was given of each token [B, P]; None where a site's tokens have none.
    """

    pooled: dict[str, Tensor]
    codes: list[SparseCode]
    x: Tensor
    known: Tensor
    input: Tensor | None = None


def calls(denoiser: Denoiser, examples: Examples, low: float, high: float, seed: int, batch_size: int) -> list[Call]:
    """Forwards on the images, each noised by its own noise at its own time, evenly spread from `low` to `high`."""
    key = (examples.ground.name, examples.split, round(low * 1_000_000))
    order = torch.from_numpy(stream(seed, *key).permutation(len(examples)))
    t = low + (high - low) * (order + 0.5) / len(examples)
    raw_t = denoiser.schedule.raw_t(t.float()).to(denoiser.device)
    found = []
    for index in torch.arange(len(examples)).split(batch_size):
        noise = denoiser.noise(seed, *key, numbers=index.tolist())
        noise, here = noise.to(denoiser.device), index.to(denoiser.device)
        x0, raw = examples.latents[here], raw_t[here]
        found.append(
            Call(
                x_t=denoiser.schedule.add_noise(x0, noise, raw),
                raw_t=raw,
                t=denoiser.schedule.t(raw),
                conditioning=examples.conditioning.select(here),
                sample=here,
                unconditional=torch.zeros_like(here, dtype=torch.bool),
                x0=x0,
                noise=noise,
            )
        )
    return found


@torch.no_grad()
def read(
    harvester: Harvester,
    saes: Mapping[str, SAE],
    examples: Examples,
    bounds: tuple[float, float],
    seed: int,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Reading]:
    """Every site's reading, from one forward an image."""
    denoiser = harvester.denoiser
    parts: dict[str, list[Reading]] = {site: [] for site in saes}
    for call in calls(denoiser, examples, *bounds, seed, batch_size):
        weights = examples.weights[call.sample]
        for site, tokens in harvester.read(call, harvester.everywhere(len(call))).items():
            parts[site].append(_reading(saes[site], tokens, weights))
        if progress is not None:
            progress(len(call))
    return {site: _joined(some) for site, some in parts.items()}


def _reading(sae: SAE, tokens: TokenBatch, weights_NUT: Tensor) -> Reading:
    x = tokens.x.float()
    code = sae.encode(x, tokens.context)
    known = sae.known(tokens.context).expand(len(tokens), -1)
    per_token = {"codes": code.to_dense(), "dense": x, "known": known}
    pooled = {
        name: weights_NUT @ value.float().unflatten(0, (len(weights_NUT), -1)) for name, value in per_token.items()
    }
    t_N = tokens.context.t.unflatten(0, (len(weights_NUT), -1))[:, 0]
    return Reading(
        {**pooled, "position": weights_NUT, "unit": sae.unit_at(t_N).unsqueeze(2)},
        [code],
        x,
        known,
        tokens.context.input,
    )


def _joined(parts: list[Reading]) -> Reading:
    inputs = [part.input for part in parts if part.input is not None]
    return Reading(
        pooled={name: torch.cat([part.pooled[name] for part in parts]) for name in parts[0].pooled},
        codes=[code for part in parts for code in part.codes],
        x=torch.cat([part.x for part in parts]),
        known=torch.cat([part.known for part in parts]),
        input=None if not inputs else torch.cat(inputs),
    )

"""What steering starts from: prompts about one object, their noise, and where in the image the object will stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tide_lightning.benchmark.scenes import GROUPS, object_tokens
from tide_lightning.diffusion import Denoiser
from tide_lightning.diffusion.counters import normal, stream
from tide_lightning.errors import UserError
from tide_lightning.grounds.toybox.captions import Mentions, compose, describe, is_reserved
from tide_lightning.grounds.toybox.factors import FACTORS, OBJECT_FACTORS
from tide_lightning.grounds.toybox.renderer import render
from tide_lightning.grounds.toybox.world import Split, draw_scenes

About = Literal["silent", "contrary"]
"""Prompts that do not mention the steered factor, or that mention another value than the target."""

_PIECE = 256
_TOUCHED = 0.1  # of a patch, from which on steering an object includes it


@dataclass(frozen=True)
class Canvases:
    """P prompts on which one factor is steered.

    Args:
        factor: the one.
        prompts: every other factor is mentioned.
        changed: the same prompts with each value of the factor [values][P].
        own: the value that each prompt's scene has [P].
        noise: initial noise [P, *latent_shape].
        tokens: what is steered [P, T]: the object's patches for its shape and colour, else all.
    """

    factor: str
    prompts: list[str]
    changed: list[list[str]]
    own: Tensor
    noise: Tensor
    tokens: Tensor

    def __len__(self) -> int:
        return len(self.prompts)


def canvases(denoiser: Denoiser, factor: str, about: About, split: Split, count: int, seed: int) -> Canvases:
    """Prompts of scenes with one object.

    Those of "test" are reserved captions, which neither the pipeline nor its SAEs were trained on; those of other
    splits are not reserved, so the two never meet.
    """
    index, mentions = _scenes(factor, about, split, count, seed)
    prompts = [compose(said if about == "contrary" else _changed(said, factor, None)) for said in mentions]
    if factor in GROUPS["object"]:
        masks = render(index, split=split, seed=seed).masks[:, :1]
        tokens = object_tokens(denoiser, masks)[:, 0] >= _TOUCHED
    else:
        tokens = torch.ones(count, denoiser.num_tokens, dtype=torch.bool)
    noise = [normal(stream(seed, "canvas", split, factor, i), denoiser.latent_shape) for i in range(count)]
    own = getattr(draw_scenes(split, index, seed)[0], factor)
    return Canvases(
        factor=factor,
        prompts=prompts,
        changed=[[compose(_changed(said, factor, value)) for said in mentions] for value in FACTORS[factor]],
        own=(own if own.ndim == 1 else own[:, 0]).to(denoiser.device),
        noise=torch.stack(noise).to(denoiser.device),
        tokens=tokens.to(denoiser.device),
    )


def parse_targets(texts: list[str]) -> dict[str, list[int]]:
    """Read "factor:value", or "factor" for all of its values, into values by factor."""
    targets: dict[str, list[int]] = {}
    for text in texts:
        factor, _, value = text.partition(":")
        if factor not in FACTORS or (value and value not in FACTORS[factor]):
            known = ", ".join(FACTORS[factor]) if factor in FACTORS else ", ".join(FACTORS)
            raise UserError(f"steer: the toybox knows no {text!r}; choose of {known}")
        chosen = [FACTORS[factor].index(value)] if value else list(range(len(FACTORS[factor])))
        targets[factor] = list(dict.fromkeys([*targets.get(factor, []), *chosen]))
    return targets


def _scenes(factor: str, about: About, split: Split, count: int, seed: int) -> tuple[Tensor, list[Mentions]]:
    found: list[int] = []
    kept: list[Mentions] = []
    seen: set[str] = set()
    start = 0
    while len(found) < count:
        index = torch.arange(start, start + _PIECE)
        start += _PIECE
        labels, _ = draw_scenes(split, index, seed)
        columns = [label.tolist() for label in labels]
        for place in (labels.num_objects == 1).nonzero().squeeze(1).tolist():
            said = describe([column[place] for column in columns])
            shown = said if about == "contrary" else _changed(said, factor, None)
            caption = compose(shown)
            if caption not in seen and is_reserved(caption, shown.num_factors) == (split == "test"):
                seen.add(caption)
                found.append(int(index[place]))
                kept.append(said)
    return torch.tensor(found[:count]), kept[:count]


def _changed(said: Mentions, factor: str, value: str | None) -> Mentions:
    """The same with another value of one factor, or (None) without it."""
    if factor not in OBJECT_FACTORS:
        return said._replace(scene=_with(said.scene, factor, value))
    return said._replace(objects=(_with(said.objects[0], factor, value),))


def _with(said: dict[str, str], factor: str, value: str | None) -> dict[str, str]:
    rest = {name: old for name, old in said.items() if name != factor}
    return rest if value is None else {**rest, factor: value}

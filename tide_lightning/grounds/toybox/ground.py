"""The toybox as a ground: labelled scenes, prompts about one factor, and the two oracles as judges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import torch
from torch import Tensor

from tide_lightning.diffusion import Denoiser, load_denoiser
from tide_lightning.grounds.ground import About, Cases, Factor, Judge, LabelledImages, Split
from tide_lightning.grounds.toybox.captions import Mentions, compose, describe, is_reserved, parse
from tide_lightning.grounds.toybox.dataset import Scenes
from tide_lightning.grounds.toybox.factors import ABSENT, FACTORS, OBJECT_FACTORS, Labels
from tide_lightning.grounds.toybox.oracle import ORACLES, load_oracle
from tide_lightning.grounds.toybox.renderer import RESOLUTION, render
from tide_lightning.grounds.toybox.world import draw_scenes

PIPELINE: Final = "package:tide_lightning.grounds.toybox/pipeline"
"""The address of the shipped pipeline."""

_OBJECT: Final = "the tokens in an object's mask (its outline alone tells some of the shape)"
_ALONE: Final = "all tokens of scenes with one object (its mask would give the answer)"
_ROOM: Final = "all tokens"

_VARIANTS: Final = 6  # captions of a scene that are tried
_PIECE: Final = 256


class Toybox:
    """The miniature PixArt's world of rendered scenes. A scene has three units: its two object slots, and the whole."""

    name = "toybox"
    image_shape = (3, RESOLUTION, RESOLUTION)
    factors: Mapping[str, Factor] = {
        "shape": Factor(FACTORS["shape"], "class", _OBJECT),
        "colour": Factor(FACTORS["colour"], "semantics", _OBJECT),
        "size": Factor(FACTORS["size"], "layout", _ALONE),
        "place": Factor(FACTORS["place"], "layout", _ALONE),
        "distance": Factor(FACTORS["distance"], "layout", _ALONE),
        "wall": Factor(FACTORS["wall"], "semantics", _ROOM),
        "light": Factor(FACTORS["light"], "semantics", _ROOM),
    }

    def denoiser(self) -> Denoiser:
        """The shipped pipeline's."""
        return load_denoiser(PIPELINE)

    def judges(self, device: str) -> tuple[Judge, ...]:
        """Oracle a, a convolutional network, and oracle b, a mixer."""
        return tuple(load_oracle(name).to(device) for name in ORACLES)

    def labelled(self, split: Split, count: int, seed: int, taken: frozenset[str] = frozenset()) -> LabelledImages:
        """Scenes by number; "test" also shows (shape, colour) pairs that training never saw.

        Where all of a scene's captions are taken, its prompt is the empty one.
        """
        scenes, index = Scenes(split, count, seed), torch.arange(count)
        rendered = scenes.rendered(index)
        captions = [scenes.prompts(index, variant) for variant in range(_VARIANTS if taken else 1)]
        return LabelledImages(
            images=rendered.image,
            prompts=[next((each for each in some if each not in taken), "") for some in zip(*captions, strict=True)],
            labels=_by_unit(rendered.labels, rendered.masks.flatten(2).sum(2) > 0),
            units=torch.cat([rendered.masks, torch.ones_like(rendered.masks[:, :1])], 1),
            maps={"depth": rendered.depth},
            masks={"mask": rendered.masks.sum(1)},
        )

    def cases(self, factor: str, about: About, split: Split, count: int, seed: int) -> Cases:
        """Captions of scenes with one object that mention every other factor.

        Those of "test" are reserved captions, which neither the pipeline nor its SAEs were trained on; those of "train"
        are not reserved, so the two never meet.
        """
        drawn = list(_one_object(factor, about, split, count, seed))
        said = [mentions for _, mentions in drawn]
        silent = [compose(_changed(each, factor, None)) for each in said]
        index = torch.tensor([number for number, _ in drawn])
        labels = draw_scenes(split, index, seed)[0]
        own: Tensor = getattr(labels, factor)
        return Cases(
            prompts=[compose(each) for each in said] if about == "contrary" else silent,
            own=(own if own.ndim == 1 else own[:, 0]) if about == "contrary" else torch.full((count,), ABSENT),
            changed=[[compose(_changed(each, factor, value)) for each in said] for value in FACTORS[factor]],
            region=render(index, split=split, seed=seed).masks[:, 0] if factor in ("shape", "colour") else None,
        )

    def mentioned(self, prompt: str) -> frozenset[str]:
        """What the caption says of any object, or of the room."""
        said = parse(prompt)
        return frozenset(said.scene).union(*said.objects)


def _by_unit(labels: Labels, visible_N2: Tensor) -> dict[str, Tensor]:
    """Labels [N, 3]: an object's shape and colour where it is to be seen, the rest of the whole scene."""
    nothing = torch.full_like(labels.shape, ABSENT)
    alone = labels.num_objects == 1
    of_scene = {name: getattr(labels, name)[:, 0].where(alone, ABSENT) for name in ("size", "place", "distance")}
    of_scene |= {"wall": labels.wall, "light": labels.light}
    of_objects = {name: getattr(labels, name).where(visible_N2, ABSENT) for name in ("shape", "colour")}
    columns = {name: torch.cat([each, nothing[:, :1]], 1) for name, each in of_objects.items()}
    return columns | {name: torch.cat([nothing, each.unsqueeze(1)], 1) for name, each in of_scene.items()}


def _one_object(factor: str, about: About, split: Split, count: int, seed: int) -> Iterator[tuple[int, Mentions]]:
    """Numbers of scenes with one object, and all there is to say of them; no two with the same prompt."""
    seen: set[str] = set()
    start = 0
    while True:
        index = torch.arange(start, start + _PIECE)
        start += _PIECE
        labels, _ = draw_scenes(split, index, seed)
        columns = [label.tolist() for label in labels]
        for place in (labels.num_objects == 1).nonzero().squeeze(1).tolist():
            if len(seen) == count:
                return
            said = describe([column[place] for column in columns])
            shown = said if about == "contrary" else _changed(said, factor, None)
            caption = compose(shown)
            if caption not in seen and is_reserved(caption, shown.num_factors) == (split == "test"):
                seen.add(caption)
                yield int(index[place]), said


def _changed(said: Mentions, factor: str, value: str | None) -> Mentions:
    """The same with another value of one factor, or (None) without it."""
    if factor not in OBJECT_FACTORS:
        return said._replace(scene=_with(said.scene, factor, value))
    return said._replace(objects=(_with(said.objects[0], factor, value),))


def _with(said: dict[str, str], factor: str, value: str | None) -> dict[str, str]:
    rest = {name: old for name, old in said.items() if name != factor}
    return rest if value is None else {**rest, factor: value}

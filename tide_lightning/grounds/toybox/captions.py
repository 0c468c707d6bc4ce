"""A small grammar that mentions any subset of a scene's factors, and its inverse.

caption  := object ["and" object] {"," clause}
object   := ("a" | "an") [size] [colour] (shape | "object") [place] [distance]
place    := "on the left" | "in the centre" | "on the right"
distance := "nearby" | "far away"
clause   := "in front of a" wall "wall" | "lit from the" light
"""

import re
import zlib
from typing import Final, NamedTuple

from torch import Tensor

from tide_lightning.grounds.toybox.factors import (
    ABSENT,
    FACTORS,
    HELD_OUT_PAIRS,
    OBJECT_FACTORS,
    Labels,
)
from tide_lightning.grounds.toybox.world import SPLIT_START, Split, uniforms

_PLACE: Final = {"left": "on the left", "centre": "in the centre", "right": "on the right"}
_DISTANCE: Final = {"near": "nearby", "far": "far away"}

_FRAME: Final = "a an and , object on in the nearby far away front of wall lit from"

WORDS: Final = tuple(
    dict.fromkeys(_FRAME.split() + [value for name in FACTORS if name != "distance" for value in FACTORS[name]])
)
"""Every word of the grammar, in a fixed order."""

_ATTEMPTS: Final = 6
_RESERVED_SHARE: Final = 8


class Mentions(NamedTuple):
    """What a caption says: factor values by name, a dictionary an object and one for the scene."""

    objects: tuple[dict[str, str], ...]
    scene: dict[str, str]

    @property
    def num_factors(self) -> int:
        """How many factors are mentioned."""
        return len(self.scene) + sum(len(o) for o in self.objects)


def compose(mentions: Mentions, *, light_first: bool = False) -> str:
    """The caption that says this."""
    clauses = [" and ".join(_object_phrase(o) for o in mentions.objects)]
    if "wall" in mentions.scene:
        clauses.append(f"in front of a {mentions.scene['wall']} wall")
    if "light" in mentions.scene:
        clauses.insert(1 if light_first else 2, f"lit from the {mentions.scene['light']}")
    return ", ".join(clauses)


def _object_phrase(said: dict[str, str]) -> str:
    article = "a" if {"size", "colour", "shape"} & said.keys() else "an"
    words = [article, said.get("size"), said.get("colour"), said.get("shape", "object")]
    words += [_PLACE.get(said.get("place", "")), _DISTANCE.get(said.get("distance", ""))]
    return " ".join(word for word in words if word)


def _alternatives(name: str, values: tuple[str, ...]) -> str:
    return f"(?P<{name}>{'|'.join(values)})"


_OBJECT: Final = re.compile(
    rf"an?(?: {_alternatives('size', FACTORS['size'])})?"
    rf"(?: {_alternatives('colour', FACTORS['colour'])})?"
    rf" (?:{_alternatives('shape', FACTORS['shape'])}|object)"
    rf"(?: (?:on|in) the {_alternatives('place', FACTORS['place'])})?"
    r"(?: (?P<distance>nearby|far away))?"
)
_WALL: Final = re.compile(rf"in front of a {_alternatives('wall', FACTORS['wall'])} wall")
_LIGHT: Final = re.compile(rf"lit from the {_alternatives('light', FACTORS['light'])}")


def parse(caption: str) -> Mentions:
    """What a caption says. The empty prompt says nothing; ValueError outside the grammar."""
    head, *clauses = caption.strip().split(", ")
    objects, scene = [], {}
    for phrase in head.split(" and ") if head else []:
        match = _OBJECT.fullmatch(phrase)
        if match is None:
            raise ValueError(f"not in the toybox grammar: {phrase!r} in {caption!r}")
        said = {name: value for name, value in match.groupdict().items() if value}
        if "distance" in said:
            said["distance"] = "near" if said["distance"] == "nearby" else "far"
        objects.append(said)
    for clause in clauses:
        match = _WALL.fullmatch(clause) or _LIGHT.fullmatch(clause)
        if match is None:
            raise ValueError(f"not in the toybox grammar: {clause!r} in {caption!r}")
        scene.update(match.groupdict())
    return Mentions(tuple(objects), scene)


def unknown_words(prompt: str) -> list[str]:
    """The words of a prompt that the toybox has never heard, in order, without repeats."""
    words = re.findall(r"[^\s,]+", prompt.lower())
    return [word for word in dict.fromkeys(words) if word not in WORDS]


def shows_held_out(mentions: Mentions) -> bool:
    """Whether a (shape, colour) pair kept out of training is mentioned."""
    return any((o.get("shape"), o.get("colour")) in HELD_OUT_PAIRS for o in mentions.objects)


def is_reserved(caption: str, num_factors: int) -> bool:
    """Whether a caption is kept for testing: an eighth of those that mention four factors or more."""
    return num_factors >= 4 and zlib.crc32(caption.encode()) % _RESERVED_SHARE == 0


def caption_scenes(labels: Labels, index_B: Tensor, *, split: Split, seed: int = 0, variant: int = 0) -> list[str]:
    """A caption for each scene, a function of (scene, seed, variant); outside "test" never a reserved one."""
    columns = 12
    u = uniforms(seed + 7919 * (variant + 1), index_B + SPLIT_START[split], columns * _ATTEMPTS)
    draws = u.view(-1, _ATTEMPTS, columns).tolist()
    values = [label.tolist() for label in labels]
    return [
        _caption([value[i] for value in values], draws[i], allow_reserved=split == "test") for i in range(len(draws))
    ]


def _caption(values: list[list[int] | int], draws: list[list[float]], allow_reserved: bool) -> str:
    for draw in draws:
        mentions = _choose(values, draw)
        caption = compose(mentions, light_first=draw[11] < 0.5)
        if allow_reserved or not is_reserved(caption, mentions.num_factors):
            return caption
    # Too few factors to be reserved: always allowed.
    shape_only = [{"shape": o["shape"]} for o in describe(values).objects]
    return compose(Mentions(tuple(shape_only), {}))


def _choose(values: list[list[int] | int], draw: list[float]) -> Mentions:
    """Keep a random subset of what there is to say: sometimes everything, sometimes little."""
    everything = describe(values)
    talkative = 0.35 + 0.65 * draw[0]
    if draw[0] > 0.75:
        talkative = 1.0
    objects = []
    for slot, said in enumerate(everything.objects):
        kept = {}
        for column, name in enumerate(OBJECT_FACTORS):
            # Shape and colour are what captions are mostly about.
            bonus = 0.3 if name in ("shape", "colour") else 0.0
            salt = (draw[1 + column] + 0.618 * slot) % 1
            if salt < talkative + bonus:
                kept[name] = said[name]
        objects.append(kept)
    if len(objects) == 2 and draw[10] < 0.5:
        objects.reverse()
    scene = {
        name: value for column, (name, value) in enumerate(everything.scene.items()) if draw[6 + column] < talkative
    }
    return Mentions(tuple(objects), scene)


def describe(values: list[list[int] | int]) -> Mentions:
    """Everything there is to say about a scene, from its labels as plain numbers in `Labels` order."""
    named = dict(zip(Labels._fields, values, strict=True))
    slots: list[list[int]] = [named[name] for name in OBJECT_FACTORS]  # type: ignore[misc]
    objects = tuple(
        {name: FACTORS[name][column[slot]] for name, column in zip(OBJECT_FACTORS, slots, strict=True)}
        for slot in range(len(slots[0]))
        if slots[0][slot] != ABSENT
    )
    scene = {name: FACTORS[name][named[name]] for name in ("wall", "light")}  # type: ignore[index]
    return Mentions(objects, scene)

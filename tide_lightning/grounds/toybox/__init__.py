"""The toybox: a miniature PixArt world with ground truth.

A renderer of small 3D scenes with labels, a genuine diffusers pipeline trained on it, and two oracles that read
the factors back from an image.
"""

from pathlib import Path

from tide_lightning.grounds.toybox.captions import Mentions, parse, unknown_words
from tide_lightning.grounds.toybox.dataset import Scene, Scenes
from tide_lightning.grounds.toybox.factors import (
    ABSENT,
    FACTORS,
    HELD_OUT_PAIRS,
    OBJECT_FACTORS,
    Labels,
)
from tide_lightning.grounds.toybox.features import OracleFeatures
from tide_lightning.grounds.toybox.ground import PIPELINE, Toybox
from tide_lightning.grounds.toybox.oracle import Oracle, load_oracle
from tide_lightning.grounds.toybox.prompts import (
    held_out_prompts,
    prompt_file,
    prompts,
    warn_unknown_words,
)
from tide_lightning.grounds.toybox.renderer import RESOLUTION, Rendered, render
from tide_lightning.grounds.toybox.world import Split

__all__ = [
    "ABSENT",
    "FACTORS",
    "HELD_OUT_PAIRS",
    "OBJECT_FACTORS",
    "PIPELINE",
    "RESOLUTION",
    "Labels",
    "Mentions",
    "Oracle",
    "OracleFeatures",
    "Rendered",
    "Scene",
    "Scenes",
    "Split",
    "Toybox",
    "held_out_prompts",
    "load_oracle",
    "parse",
    "pipeline_path",
    "prompt_file",
    "prompts",
    "render",
    "unknown_words",
    "warn_unknown_words",
]


def pipeline_path() -> Path:
    """The folder of the shipped pipeline: `PixArtAlphaPipeline.from_pretrained(pipeline_path())`."""
    return Path(__file__).parent / "pipeline"

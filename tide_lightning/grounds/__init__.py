"""Grounds: worlds in which features can be checked, for what an image shows is known there."""

from tide_lightning.grounds.ground import (
    ABSENT,
    About,
    Cases,
    Factor,
    Ground,
    Judge,
    LabelledImages,
    Level,
    Split,
    likeliest,
)

__all__ = ["ABSENT", "About", "Cases", "Factor", "Ground", "Judge", "LabelledImages", "Level", "Split", "likeliest"]

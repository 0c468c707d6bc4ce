"""Steering from the command line: requests read, latents found and tried, changes shown."""

from tide_lightning.explore.steering.comparison import Change, change, difference

__all__ = ["Change", "change", "difference"]

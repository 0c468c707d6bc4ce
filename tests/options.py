"""Datamodules from plain values, as a config gives them."""

from __future__ import annotations

from typing import Any

from tide_lightning.datamodules import (
    ActivationDataModule,
    HeldOutOptions,
    LoadingOptions,
    NoisedOptions,
    TrajectoryOptions,
)

_OPTIONS = {
    "loading": LoadingOptions,
    "noised": NoisedOptions,
    "trajectories": TrajectoryOptions,
    "heldout": HeldOutOptions,
}


def datamodule(pretrained: str, arguments: dict[str, Any], changes: dict[str, Any]) -> ActivationDataModule:
    """A datamodule by its arguments and changes of them; `changes` of what is nested are made key by key."""
    merged = arguments | changes
    for name, kind in _OPTIONS.items():
        merged[name] = kind(**(arguments.get(name, {}) | changes.get(name, {})))
    return ActivationDataModule(pretrained, **merged)

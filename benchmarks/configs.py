"""What the packaged configs say, for benchmarks that train their SAEs side by side."""

from __future__ import annotations

from typing import Any

import yaml

from tide_lightning.command_line import packaged_configs


def sae_of(config: str) -> dict[str, Any]:
    """The class and the arguments of a config's SAE."""
    sae: dict[str, Any] = yaml.safe_load(packaged_configs()[config].read_text(encoding="utf-8"))["model"]["sae"]
    return sae

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tests.diffusion.miniature import save_miniature
from tests.options import datamodule
from tide_lightning.datamodules import ActivationDataModule

MakeData = Callable[..., ActivationDataModule]

PROMPTS = [
    f"a {size} {colour} {shape}"
    for size in ("small", "large")
    for colour in ("red", "blue")
    for shape in ("ball", "cube")
]


class Patches(Dataset[dict[str, Any]]):
    """Twenty images that differ, with captions."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(index)) * 2 - 1
        return {"image": image, "prompt": PROMPTS[index % len(PROMPTS)]}


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_miniature(tmp_path_factory.mktemp("miniature"))


@pytest.fixture
def make_data(pretrained: Path) -> MakeData:
    def make(**changes: Any) -> ActivationDataModule:
        arguments: dict[str, Any] = {
            "sites": ["transformer_blocks.0", "transformer_blocks.1:mlp"],
            "images": Patches(),
            "prompts": PROMPTS,
            "samples_per_batch": 8,
            "tokens_per_sample": 4,
            "batches_per_epoch": 5,
            "num_calibration_samples": 16,
            "trajectories": {"num_inference_steps": 4},
            "noised": {"num_generated": 6},
            "heldout": {"num_validation_samples": 16, "num_test_samples": 16},
        }
        return datamodule(str(pretrained), arguments, changes)

    return make


@pytest.fixture
def collect_open_files() -> Iterator[None]:
    """What `datasets` leaves open is collected while its warnings are expected, not in somebody else's test."""
    yield
    gc.collect()

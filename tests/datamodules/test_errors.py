from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from tests.datamodules.conftest import MakeData
from tide_lightning.datamodules import ActivationDataModule, Shard
from tide_lightning.errors import UserError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens_per_sample": 0}, "tokens_per_sample must be"),
        ({"tokens_per_sample": 1.5}, "tokens_per_sample must be"),
        ({"source": "both", "samples_per_batch": 7}, "even samples_per_batch, not 7"),
        ({"source": "denoise", "trajectories": {"halves": "both", "guidance_scale": 1.0}}, "only one half"),
        ({"noised": {"prompt_dropout": 1.5}}, "prompt_dropout must be"),
        ({"samples_per_batch": 0}, "samples_per_batch must be at least 1"),
        ({"forward_batch_size": 0}, "forward_batch_size must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"source": "renoise"}, "source must be one of noise, denoise, both, not 'renoise'"),
        ({"loading": {"dtype": "float64"}}, "dtype must be one of auto, float32, bfloat16, float16, not 'float64'"),
        ({"prompts": None, "images": None}, "needs prompts, images or both"),
    ],
)
def test_arguments_out_of_range(make_data: MakeData, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_data(**changes)


def test_more_tokens_than_there_are(make_data: MakeData) -> None:
    with pytest.raises(UserError, match="tokens_per_sample 17 is more than the 16 tokens"):
        _ = make_data(tokens_per_sample=17).site_shapes


def test_a_misspelt_site(make_data: MakeData) -> None:
    with pytest.raises(UserError, match=r"near matches: .*transformer_blocks.1"):
        _ = make_data(sites=["transformer_block.1"]).site_shapes


def test_samples_that_ranks_cannot_share(make_data: MakeData) -> None:
    with pytest.raises(UserError, match=r"samples_per_batch \(8\) must be divisible by the number of ranks \(3\)"):
        make_data().train_loader(Shard(0, 3))
    with pytest.raises(UserError, match=r"num_test_samples \(9\) must be divisible"):
        make_data(heldout={"num_test_samples": 9}).test_loader(Shard(0, 2))


class Nameless(Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"picture": torch.zeros(3, 16, 16)}


class Empty(Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 0


class Oversized(Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": torch.zeros(3, 64, 64), "prompt": "a ball"}


def test_images_of_another_kind(make_data: MakeData) -> None:
    with pytest.raises(UserError, match=r"Nameless must give dict\(image=.*'image'"):
        next(iter(make_data(images=Nameless()).train_loader(Shard())))
    with pytest.raises(UserError, match="Empty is empty"):
        make_data(heldout={"images": Empty()}).test_loader(Shard())
    with pytest.raises(UserError, match=r"images must be \[3, 16, 16\] for this denoiser, not \[3, 64, 64\]"):
        next(iter(make_data(images=Oversized()).train_loader(Shard())))


def test_a_single_prompt_cannot_be_split(make_data: MakeData) -> None:
    with pytest.raises(UserError, match=r"a single prompt cannot be split in two: set data.heldout.prompts"):
        make_data(prompts=["a red ball"], images=None)


def test_a_pipeline_that_is_not_there() -> None:
    with pytest.raises(UserError, match="no such folder"):
        _ = ActivationDataModule("no/such/folder", ["transformer_blocks.0"], prompts=["a", "b"]).site_shapes

"""Two processes that talk over gloo."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist

from tests.datamodules.conftest import PROMPTS
from tests.torchrun import run_ranks
from tide_lightning.datamodules import ActivationDataModule, NoisedOptions, Shard, TrajectoryOptions

SITE = "transformer_blocks.0"


def make(pretrained: str) -> ActivationDataModule:
    return ActivationDataModule(
        pretrained,
        [SITE],
        prompts=PROMPTS,
        source="both",
        samples_per_batch=8,
        tokens_per_sample=4,
        trajectories=TrajectoryOptions(num_inference_steps=4),
        noised=NoisedOptions(num_generated=5),
    )


def run(rank: int, pretrained: str, folder: str) -> None:
    dist.init_process_group("gloo")
    data = make(pretrained)
    loader = data.train_loader(Shard(rank, 2))
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    expected = next(batches)[SITE]
    loader.load_state_dict(state)
    again = next(iter(loader))[SITE]
    latents, _ = data._latents.of("train", Shard(rank, 2)).fetch(range(5))
    torch.save({"state": state, "equal": torch.equal(expected.x, again.x), "latents": latents}, f"{folder}/{rank}.pt")


def test_every_rank_holds_the_state_of_all(pretrained: Path, tmp_path: Path) -> None:
    """Only rank 0 writes checkpoints, so its state must be everyone's; generated latents are shared too."""
    run_ranks(run, str(pretrained), str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first["equal"]
    assert second["equal"]
    assert sorted(first["state"]["trajectories"]) == ["0", "1", "2", "3"]
    for slot, state in first["state"]["trajectories"].items():
        assert torch.equal(state["x"], second["state"]["trajectories"][slot]["x"])
    assert torch.equal(first["latents"], second["latents"])
    resumed = make(str(pretrained)).train_loader(Shard())
    resumed.load_state_dict(first["state"])
    assert len(next(iter(resumed))[SITE]) == 8 * 4

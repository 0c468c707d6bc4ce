"""Two processes that see different data end with the same weights, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from tests.training.fitting import SITES, make_data, make_module, make_trainer
from tide_lightning.callbacks import ExportSAEs, KeepPredictions, MonitorFeatures, ResampleDeadLatents
from tide_lightning.training import TideModule

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",  # Lightning's own, with torch 2.13
)


class Witness(Callback):
    """Writes down what a rank saw, and its weights at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.samples: list[int] = []
        self.auxk = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        assert isinstance(pl_module, TideModule)
        self.samples += batch[SITES[0]].sample.unique().tolist()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, TideModule)
        self.auxk = max(self.auxk, float(trainer.logged_metrics.get(f"train/{SITES[0]}/auxk", 0.0)))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        found = {"samples": self.samples, "auxk": self.auxk, "state": pl_module.state_dict()}
        torch.save(found, self.folder / f"rank-{trainer.global_rank}.pt")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """A forked process inherits OpenMP's state but not its threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    "sae",
    [{}, {"budget": "batch", "budget_over_time": 0.5, "refinements": 1, "pursuits": 1}],
    ids=["plain", "pursuing"],
)
def test_two_processes_end_with_the_same_weights(pretrained: Path, tmp_path: Path, sae: dict[str, Any]) -> None:
    data = make_data(pretrained, source="both")
    module = make_module(data, sae, dead_after_tokens=128)
    resample = ResampleDeadLatents(every_n_steps=14, until_fraction=1, num_candidates=8)
    monitor = MonitorFeatures(20, num_tokens=64, num_samples=8, num_images=1, num_inference_steps=2)
    through = KeepPredictions(from_fraction=0.8, num_samples=4)
    callbacks = [resample, monitor, through, ExportSAEs(), Witness(tmp_path)]
    trainer = make_trainer(tmp_path, 40, callbacks, strategy="ddp_fork", devices=2)
    trainer.fit(module, datamodule=data)

    one, other = (torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert not set(one["samples"]) & set(other["samples"])
    if not sae:  # hardly a latent dies where a pursuit finds it
        assert one["auxk"] > 0
        assert resampled(tmp_path / "run") > 0
    assert one["state"].keys() == other["state"].keys()
    for name, tensor in one["state"].items():
        assert torch.equal(tensor, other["state"][name]), name
    assert one["state"]["tokens_seen"] == 40 * 64


def resampled(folder: Path) -> float:
    """How many latents TensorBoard says were re-seeded."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.endswith("/resampled")]
    assert len(tags) == len(SITES)
    return sum(float(event.value) for tag in tags for event in events.Scalars(tag))

"""What a fit keeps to: norms, precision, checkpoints, exact resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from tests.training.fitting import SITES, make_data, make_module, make_trainer
from tide_lightning.callbacks import ResampleDeadLatents
from tide_lightning.datamodules.loader import ActivationLoader
from tide_lightning.errors import UserError
from tide_lightning.training import TideModule

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",  # Lightning's own, with torch 2.13
    "ignore:Checkpoint directory .* exists and is not empty:UserWarning",
)


class WatchNorms(Callback):
    """After each step: how far decoder rows are from unit norm, and the gradient that was left along them."""

    def __init__(self) -> None:
        self.off: list[float] = []
        self.along: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, TideModule)
        for site in SITES:
            W_dec = pl_module.sae(site).W_dec
            assert W_dec.grad is not None
            self.off.append(float((W_dec.detach().norm(dim=1) - 1).abs().max()))
            # Against the rows before the step, which are gone; they moved by no more than the learning rate.
            self.along.append(float((W_dec.grad * W_dec.detach()).sum(1).abs().max() / W_dec.grad.norm()))


def saved(folder: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(folder / "last.ckpt", weights_only=True)
    return checkpoint


def keep_last(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, save_last=True, every_n_train_steps=1)


def test_decoder_rows_have_unit_norm_after_each_step_and_in_the_checkpoint(pretrained: Path, tmp_path: Path) -> None:
    data, watch = make_data(pretrained), WatchNorms()
    module = make_module(data, lr=1e-2)
    trainer = make_trainer(tmp_path, 6, [watch, keep_last(tmp_path)], enable_checkpointing=True)
    trainer.fit(module, datamodule=data)
    assert len(watch.off) == 6 * len(SITES)
    assert max(watch.off) < 1e-6
    assert max(watch.along) < 0.02
    state = saved(tmp_path)["state_dict"]
    rows = [tensor for name, tensor in state.items() if name.endswith("W_dec")]
    assert len(rows) == len(SITES)
    for W_dec in rows:
        torch.testing.assert_close(W_dec.norm(dim=1), torch.ones(len(W_dec)), atol=1e-6, rtol=0)


def test_a_checkpoint_holds_no_weight_of_the_denoiser(pretrained: Path, tmp_path: Path) -> None:
    data = make_data(pretrained, source="both")
    module = make_module(data)
    trainer = make_trainer(tmp_path, 2, [keep_last(tmp_path)], enable_checkpointing=True)
    trainer.fit(module, datamodule=data)
    checkpoint = saved(tmp_path)
    expected = ("saes.", "clocks.", "tokens_seen", "is_calibrated")
    assert all(name.startswith(expected) for name in checkpoint["state_dict"])
    weights = {tensor.shape: tensor for tensor in data.denoiser.module.state_dict().values() if tensor.ndim == 2}
    for tensor in _tensors(checkpoint):
        twin = weights.get(tensor.shape)
        assert twin is None or not torch.equal(twin, tensor)


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_saes_learn_the_same_one_after_another_or_on_two_cores(
    precision: str, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(cores: int) -> dict[str, Any]:
        monkeypatch.setattr("tide_lightning.cores.usable_cores", lambda: cores)
        data = make_data(pretrained)
        sae = {"budget": "batch", "refinements": 1, "pursuits": 1}
        module = make_module(data, sae, dead_after_tokens=128)
        options = {"enable_checkpointing": True, "gradient_clip_val": 1.0, "precision": precision}
        trainer = make_trainer(tmp_path / str(cores), 32, [keep_last(tmp_path / str(cores))], **options)
        trainer.fit(module, datamodule=data)
        assert trainer.logged_metrics[f"train/{SITES[0]}/auxk"] > 0
        return saved(tmp_path / str(cores))

    one, two = fit(1), fit(64)
    _assert_same(one["state_dict"], two["state_dict"])
    _assert_same(one["optimizer_states"][0]["state"], two["optimizer_states"][0]["state"])


@pytest.mark.parametrize("source", ["noise", "both"])
def test_resuming_is_exact(pretrained: Path, tmp_path: Path, source: str) -> None:
    """n steps, stop, n more: bit for bit what 2 n steps give, with resampling and AuxK on the way."""

    def fit(folder: Path, stop_at: int, ckpt_path: Path | None = None) -> tuple[dict[str, Any], ResampleDeadLatents]:
        data = make_data(pretrained, source=source)
        module = make_module(data, dead_after_tokens=128)
        resample = ResampleDeadLatents(every_n_steps=14, until_fraction=1, num_candidates=8)
        stop = StopAt(stop_at)
        callbacks = [resample, stop, keep_last(folder)]
        trainer = make_trainer(folder, 60, callbacks, enable_checkpointing=True)
        trainer.fit(module, datamodule=data, ckpt_path=str(ckpt_path) if ckpt_path else None)
        if stop_at > 50:
            assert stop.auxk > 0
        return saved(folder), resample

    whole, _ = fit(tmp_path / "whole", 60)
    fit(tmp_path / "part", 31)
    resumed, _ = fit(tmp_path / "part", 60, tmp_path / "part" / "last.ckpt")
    assert resumed["global_step"] == whole["global_step"] == 60
    _assert_same(whole["state_dict"], resumed["state_dict"])
    _assert_same(whole["optimizer_states"][0]["state"], resumed["optimizer_states"][0]["state"])
    _assert_same(whole["lr_schedulers"][0], resumed["lr_schedulers"][0])


class StopAt(Callback):
    """Ends the run after a step, as an interruption would, and notes whether AuxK took part."""

    def __init__(self, step: int) -> None:
        self.step, self.auxk = step, 0.0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        auxk = trainer.logged_metrics.get(f"train/{SITES[0]}/auxk", 0.0)
        self.auxk = max(self.auxk, float(auxk))
        trainer.should_stop = trainer.global_step >= self.step


def _assert_same(left: Any, right: Any) -> None:
    assert type(left) is type(right)
    if isinstance(left, Tensor):
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            _assert_same(left[key], right[key])
    else:
        assert left == right


def test_bf16_mixed_trains_in_float32_weights(pretrained: Path, tmp_path: Path) -> None:
    data = make_data(pretrained)
    module = make_module(data, lr=3e-3)
    losses = Losses()
    make_trainer(tmp_path, 60, [losses, ResampleDeadLatents(20)], precision="bf16-mixed").fit(module, datamodule=data)
    assert all(parameter.dtype == torch.float32 for parameter in module.parameters())
    assert module.sae(SITES[0]).known.by_time.dtype == torch.float32
    assert sum(losses.seen[-5:]) < 0.8 * sum(losses.seen[:5])


class Losses(Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        self.seen.append(float(outputs["loss"]))


class Samples(Callback):
    """Which samples a fit has seen, batch by batch."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.seen.append(sorted(batch[SITES[0]].sample.unique().tolist()))


@pytest.mark.parametrize(
    ("stop_at", "changes"),
    [
        (2, {}),
        (5, {}),
        (6, {}),
        (3, {"accumulate_grad_batches": 2}),
        (4, {"val_check_interval": 2, "limit_val_batches": 1}),
        (4, {"limit_train_batches": 3}),
    ],
    ids=["first epoch", "mid-epoch", "at an epoch's end", "accumulating", "validating", "limited"],
)
def test_a_fit_by_epochs_resumes_behind_what_it_has_seen(
    pretrained: Path, tmp_path: Path, stop_at: int, changes: dict[str, Any]
) -> None:
    """In the middle of an epoch and at its end: the same batches and the same bits as in one go."""

    def fit(folder: Path, stop: bool = False, ckpt_path: Path | None = None) -> list[list[int]]:
        data = make_data(pretrained, batches_per_epoch=4 if "accumulate_grad_batches" in changes else 3)
        samples = Samples()
        callbacks = [samples, *([StopAt(stop_at)] if stop else []), keep_last(folder)]
        trainer = make_trainer(folder, -1, callbacks, max_epochs=3, enable_checkpointing=True, **changes)
        trainer.fit(make_module(data), datamodule=data, ckpt_path=ckpt_path)
        return samples.seen

    whole = fit(tmp_path / "whole")
    parts = fit(tmp_path / "part", stop=True) + fit(tmp_path / "part", ckpt_path=tmp_path / "part" / "last.ckpt")
    assert parts == whole
    ended, resumed = saved(tmp_path / "whole"), saved(tmp_path / "part")
    assert ended["global_step"] == resumed["global_step"]
    _assert_same(ended["state_dict"], resumed["state_dict"])
    _assert_same(ended["lr_schedulers"][0], resumed["lr_schedulers"][0])


def test_a_loader_before_its_checkpoints_place_is_refused(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data(pretrained)
    make_trainer(tmp_path, 2, [keep_last(tmp_path)], enable_checkpointing=True).fit(make_module(data), datamodule=data)
    monkeypatch.setattr(ActivationLoader, "load_state_dict", lambda self, state: None)
    again = make_data(pretrained)
    trainer = make_trainer(tmp_path, 4, [keep_last(tmp_path)], enable_checkpointing=True)
    with pytest.raises(UserError, match="trained on 2 batches, but the data would go on behind batch 0"):
        trainer.fit(make_module(again), datamodule=again, ckpt_path=tmp_path / "last.ckpt")

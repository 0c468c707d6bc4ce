"""NaN and infinity: in tokens, gradients, calibration, learning rates; nothing that is not finite is kept."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from tests.training.fitting import SITES, make_data, make_module, make_trainer
from tide_lightning.callbacks import ExportSAEs, ResampleDeadLatents
from tide_lightning.datamodules import ActivationDataModule
from tide_lightning.errors import UserError
from tide_lightning.saes import TideSAE
from tide_lightning.training import TideModule
from tide_lightning.training.finite import SkippedSteps, not_finite
from tide_lightning.training.metrics import quotient
from tide_lightning.training.optimisation import IndependentAdam

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",  # Lightning's own, with torch 2.13
    "ignore:Checkpoint directory .* exists and is not empty:UserWarning",
)


class Poison(Callback):
    """Puts a number into one token of a site before some batches."""

    def __init__(self, batches: set[int], number: float, site: str = SITES[0]) -> None:
        self.batches, self.number, self.site = batches, number, site

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx in self.batches:
            batch[self.site].x[3, 1] = self.number


def keep(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, save_last=True, every_n_train_steps=1)


def kept(checkpoint: Path) -> list[Any]:
    """Weights and moments; Lightning's own bookkeeping begins with infinities."""
    loaded = torch.load(checkpoint, weights_only=True)
    return [loaded["state_dict"], loaded["optimizer_states"]]


@pytest.mark.parametrize("number", [math.nan, math.inf, 1e30])
def test_a_step_that_is_not_finite_is_skipped_for_its_sae_alone(
    pretrained: Path, tmp_path: Path, number: float
) -> None:
    def fit(name: str, callbacks: list[Callback]) -> tuple[TideModule, Trainer]:
        data = make_data(pretrained)
        module = make_module(data, {"budget": "batch"}, dead_after_tokens=128)
        resample = ResampleDeadLatents(every_n_steps=3, until_fraction=1, num_candidates=64)
        callbacks = [*callbacks, resample, keep(tmp_path / name), ExportSAEs()]
        trainer = make_trainer(tmp_path / name, 8, callbacks, gradient_clip_val=1.0, enable_checkpointing=True)
        trainer.fit(module, datamodule=data)
        return module, trainer

    poisoned, trainer = fit("poisoned", [Poison({2, 5}, number)])  # a look for dead latents is at batch 2, too
    healthy, _ = fit("healthy", [])
    assert not_finite(kept(tmp_path / "poisoned" / "last.ckpt")) is None
    assert not_finite(dict(poisoned.state_dict())) is None
    assert trainer.logged_metrics[f"train/{SITES[0]}/skipped_steps"] == 2
    assert trainer.logged_metrics[f"train/{SITES[1]}/skipped_steps"] == 0
    assert not torch.equal(poisoned.sae(SITES[0]).W_dec, healthy.sae(SITES[0]).W_dec)
    assert torch.equal(poisoned.sae(SITES[1]).W_dec, healthy.sae(SITES[1]).W_dec)
    assert TideSAE.from_pretrained(tmp_path / "poisoned" / "run" / "saes" / SITES[0]).W_dec.isfinite().all()


def test_three_in_a_row_end_the_fit_and_leave_what_was_good(pretrained: Path, tmp_path: Path) -> None:
    data = make_data(pretrained)
    module = make_module(data)
    callbacks = [Poison({4, 5, 6}, math.nan), keep(tmp_path), ExportSAEs()]
    trainer = make_trainer(tmp_path, 20, callbacks, enable_checkpointing=True)
    said = rf"{SITES[0]}: .* not finite in 3 steps in a row, up to step 7.*last good checkpoint: .*last\.ckpt"
    with pytest.raises(UserError, match=said):
        trainer.fit(module, datamodule=data)
    assert not_finite(kept(tmp_path / "last.ckpt")) is None
    assert TideSAE.from_pretrained(tmp_path / "run" / "saes" / SITES[0]).W_enc.isfinite().all()


def test_a_learning_rate_far_too_high_ends_in_one_line(pretrained: Path, tmp_path: Path) -> None:
    data = make_data(pretrained)
    module = make_module(data, lr=1e30, warmup_steps=0)
    trainer = make_trainer(tmp_path, 50, [keep(tmp_path), ExportSAEs()], enable_checkpointing=True)
    with pytest.raises(UserError, match=r"lower model\.lr|Lower model\.lr"):
        trainer.fit(module, datamodule=data)
    for path in tmp_path.rglob("*.ckpt"):
        assert not_finite(kept(path)) is None
    for path in (tmp_path / "run" / "saes").glob("*"):
        assert not_finite(dict(TideSAE.from_pretrained(path).state_dict())) is None


def test_a_great_loss_after_warm_up_warns(pretrained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = make_data(pretrained)
    trainer = make_trainer(tmp_path, 6, [], log_every_n_steps=1)
    trainer.fit(make_module(data, lr=60, warmup_steps=0), datamodule=data)
    assert caplog.text.count("after warm-up: lower model.lr") == 1


def test_calibration_on_what_is_not_finite_is_refused(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data(pretrained)
    original = ActivationDataModule.calibration_batches

    def poisoned(self: ActivationDataModule) -> Any:
        for batch in original(self):
            x = batch[SITES[1]].x.clone()
            x[0, 0] = math.inf
            yield {**batch, SITES[1]: replace(batch[SITES[1]], x=x)}

    monkeypatch.setattr(ActivationDataModule, "calibration_batches", poisoned)
    with pytest.raises(UserError, match=rf"{SITES[1]}: the activations of 8 of 512 calibration tokens are not finite"):
        make_trainer(tmp_path, 2).fit(make_module(data), datamodule=data)


def test_a_checkpoint_that_is_not_finite_is_not_loaded(pretrained: Path, tmp_path: Path) -> None:
    data = make_data(pretrained)
    make_trainer(tmp_path, 1, [keep(tmp_path)], enable_checkpointing=True).fit(make_module(data), datamodule=data)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    name = next(name for name in checkpoint["state_dict"] if name.endswith("W_enc"))
    checkpoint["state_dict"][name][0, 0] = math.nan
    torch.save(checkpoint, tmp_path / "last.ckpt")
    trainer = make_trainer(tmp_path, 2, [keep(tmp_path)], enable_checkpointing=True)
    with pytest.raises(UserError, match=r"W_enc is not finite: use an older one"):
        trainer.fit(make_module(data), datamodule=data, ckpt_path=tmp_path / "last.ckpt")


def test_many_skipped_steps_far_apart_are_too_many() -> None:
    watch, none, first = SkippedSteps(), torch.tensor([False, False]), torch.tensor([False, True])
    for step in range(900):
        watch.add(first if step % 90 == 0 else none)
        assert (watch.too_many() is None) == (step < 9 * 90)
    assert watch.totals() == [0, 10]


def test_a_skipped_step_changes_nothing_but_its_own_group() -> None:
    groups = [[nn.Parameter(torch.ones(3))], [nn.Parameter(torch.ones(3))]]
    adam = IndependentAdam(groups, 0.1, (0.9, 0.999))
    for _ in range(2):
        for (parameter,) in groups:
            parameter.grad = torch.ones(3)
        skipped = adam.prepare_step(torch.tensor([math.inf, 1.0]))
        assert skipped.tolist() == [True, False]
        adam.step()
    assert torch.equal(groups[0][0], torch.ones(3))
    assert not torch.equal(groups[1][0], torch.ones(3))
    assert adam.state[groups[0][0]]["step"] == 0
    assert adam.state[groups[1][0]]["step"] == 2


def test_quotients_of_what_does_not_vary_are_defined() -> None:
    zero, one, tiny = (torch.tensor(number, dtype=torch.float64) for number in (0.0, 1.0, -1e-15))
    assert quotient(zero, zero, zero) == 0
    assert quotient(one, zero, one) == 1
    assert quotient(one, tiny, one) == 1
    assert quotient(one / 2, one, one) == 0.5

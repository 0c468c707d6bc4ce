"""Training through the denoiser, in real fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.training.fitting import SITES, make_data, make_module, make_trainer
from tide_lightning.callbacks import KeepPredictions
from tide_lightning.callbacks.predicting import prediction_change
from tide_lightning.datamodules import ActivationDataModule
from tide_lightning.errors import UserError
from tide_lightning.intervene.splicing import reconstruct_by, splice_cases, splice_denoiser
from tide_lightning.training import TideModule

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",  # Lightning's own, with torch 2.13
    "ignore:Checkpoint directory .* exists and is not empty:UserWarning",
)


def changes(module: TideModule, data: ActivationDataModule) -> list[float]:
    """What splicing each site alone, and both, does to predictions on samples that no step has seen."""
    saes = {site: module.sae(site).eval() for site in module.sites}
    call = data.noised_calls(32)(1_000_000)
    with torch.no_grad():
        return [
            float(prediction_change(data.denoiser, splice_denoiser(data.denoiser, predictors), call))
            for sites in splice_cases(saes).values()
            for predictors in [{site: reconstruct_by(saes[site]) for site in sites}]
        ]


def test_keeps_predictions_better_than_plain_training_does(pretrained: Path, tmp_path: Path) -> None:
    found = []
    for callbacks in ([], [KeepPredictions(from_fraction=0.5, weight=10, num_samples=8)]):
        data = make_data(pretrained)
        module = make_module(data, lr=3e-3)
        make_trainer(tmp_path / str(len(callbacks)), 80, list(callbacks)).fit(module, datamodule=data)
        found.append(changes(module, data))
    plain, through = found
    assert len(plain) == 3
    assert all(after < before for before, after in zip(plain, through, strict=True))


@pytest.mark.parametrize("pursuits", [0, 1])
def test_spliced_together_every_site_learns_what_the_others_make_of_it(pretrained: Path, pursuits: int) -> None:
    """All gradients pass through the sites behind, whose codes a pursuit may have chosen."""
    data = make_data(pretrained)
    module = make_module(data, {"pursuits": pursuits})
    make_trainer(pretrained.parent / f"run-{pursuits}", 1, []).fit(module, datamodule=data)
    saes = {site: module.sae(site) for site in module.sites}
    twin = splice_denoiser(data.denoiser, {site: reconstruct_by(sae) for site, sae in saes.items()})
    module.zero_grad()
    prediction_change(data.denoiser, twin, data.noised_calls(4)(0)).backward()
    for sae in saes.values():
        assert sae.W_dec.grad is not None
        assert sae.W_dec.grad.abs().sum() > 0


class Record(Callback):
    """Which cases were logged."""

    def __init__(self) -> None:
        self.seen: list[set[str]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.seen.append({name for name in trainer.callback_metrics if name.endswith("prediction_change")})


def test_begins_late_and_takes_turns(pretrained: Path, tmp_path: Path) -> None:
    data, record = make_data(pretrained), Record()
    module = make_module(data)
    trainer = make_trainer(tmp_path, 8, [KeepPredictions(from_fraction=0.5, num_samples=4), record])
    trainer.fit(module, datamodule=data)
    names = {f"train/{case}/prediction_change" for case in [*SITES, "all"]}
    assert record.seen[3] == set()
    assert record.seen[-1] == names
    assert module.further_loss is None


def test_resumes_exactly(pretrained: Path, tmp_path: Path) -> None:
    def fit(name: str, max_steps: int, ckpt_path: Path | None = None) -> TideModule:
        data = make_data(pretrained)
        module = make_module(data, decay_fraction=0.0)
        keep = ModelCheckpoint(tmp_path / name, save_last=True, every_n_train_steps=3)
        callbacks = [KeepPredictions(from_fraction=0.0, num_samples=4), keep]
        trainer = make_trainer(tmp_path / name, max_steps, callbacks, enable_checkpointing=True)
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
        return module

    through = fit("through", 6).state_dict()
    fit("begun", 3)
    resumed = fit("begun", 6, tmp_path / "begun" / "last.ckpt").state_dict()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in through.items())


def test_an_sae_that_must_not_be_spliced_is_refused(pretrained: Path, tmp_path: Path) -> None:
    data = make_data(pretrained)
    module = make_module(data, {"known_part": "noise_token"})
    with pytest.raises(UserError, match=r"transformer_blocks.0 cannot be spliced: its known_part noise_token"):
        make_trainer(tmp_path, 2, [KeepPredictions()]).fit(module, datamodule=data)


@pytest.mark.parametrize("arguments", [{"from_fraction": 1.0}, {"weight": 0}, {"num_samples": 0}])
def test_senseless_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="KeepPredictions"):
        KeepPredictions(**arguments)

"""SAEs appear in the run's folder, whole, whenever something was trained."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.training.fitting import SITES, make_data, make_module, make_trainer
from tide_lightning.callbacks import ExportSAEs
from tide_lightning.saes import TideSAE

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",  # Lightning's own, with torch 2.13
)


class FailAt(Callback):
    def __init__(self, step: int, error: type[BaseException]) -> None:
        self.step, self.error = step, error

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise self.error("here")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Lightning ignores a second Ctrl+C from the first on."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


def cfg(run: Path, site: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "saes" / site / "cfg.json").read_text())
    return found


def test_a_fit_leaves_every_sites_sae(pretrained: Path, tmp_path: Path) -> None:
    data = make_data(pretrained, sites=["transformer_blocks.0", "transformer_blocks.1:mlp"])
    module = make_module(data)
    make_trainer(tmp_path, 3, [ExportSAEs()]).fit(module, datamodule=data)
    folders = {"transformer_blocks.0": "transformer_blocks.0", "transformer_blocks.1:mlp": "transformer_blocks.1-mlp"}
    for site, folder in folders.items():
        sae = TideSAE.from_pretrained(tmp_path / "run" / "saes" / folder)
        assert sae.config == module.sae(site).config
        for name, tensor in module.sae(site).state_dict().items():
            assert torch.equal(sae.state_dict()[name], tensor), name
        found = cfg(tmp_path / "run", folder)
        assert found["site"] == site
        assert found["pretrained"] == str(pretrained)
        assert found["step"] == 3
        assert found["tokens_seen"] == 3 * 64
        assert found["timestep"] == {"normalised": "1 is pure noise", "raw_at_0": 0.0, "raw_at_1": 999.0}


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_fit_leaves_what_was_trained(
    pretrained: Path, tmp_path: Path, error: type[BaseException]
) -> None:
    data = make_data(pretrained)
    module = make_module(data)
    callbacks = [ExportSAEs(), FailAt(2, error)]
    trainer = make_trainer(tmp_path, 8, callbacks)
    with pytest.raises((RuntimeError, SystemExit)):  # Lightning leaves by SystemExit after an interrupt
        trainer.fit(module, datamodule=data)
    for site in SITES:
        found = cfg(tmp_path / "run", site)
        assert found["step"] == 2


def test_a_fit_that_fails_before_its_first_step_leaves_nothing(pretrained: Path, tmp_path: Path) -> None:
    data = make_data(pretrained)
    with pytest.raises(RuntimeError, match="here"):
        make_trainer(tmp_path, 8, [ExportSAEs(), FailAt(0, RuntimeError)]).fit(make_module(data), datamodule=data)
    assert not (tmp_path / "run" / "saes").exists()


@pytest.mark.parametrize(("megabytes", "steps"), [(256, {2, 4}), (0, set())])
def test_exports_with_each_checkpoint_where_that_is_cheap(
    pretrained: Path, tmp_path: Path, megabytes: int, steps: set[int]
) -> None:
    data, seen = make_data(pretrained), set()

    class Look(Callback):
        def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
            if (tmp_path / "run" / "saes").exists():
                seen.add(cfg(tmp_path / "run", SITES[0])["step"])

    callbacks = [Look(), ExportSAEs(megabytes), ModelCheckpoint(tmp_path / "kept", every_n_train_steps=2)]
    make_trainer(tmp_path, 6, callbacks, enable_checkpointing=True).fit(make_module(data), datamodule=data)
    assert seen == steps
    assert cfg(tmp_path / "run", SITES[0])["step"] == 6

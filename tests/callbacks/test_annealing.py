"""k falls over the first part of a run, in training forwards only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning import Callback, LightningModule, Trainer

from tests.training.fitting import SITES, make_data, make_module, make_trainer
from tide_lightning.callbacks import AnnealSparsity
from tide_lightning.errors import UserError
from tide_lightning.training import TideModule

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",  # Lightning's own, with torch 2.13
)


class WatchK(Callback):
    """The k of each training forward, and of each moment after it."""

    def __init__(self, fail_at: int = 10**9) -> None:
        self.during: list[tuple[int, int | None]] = []
        self.after: list[int] = []
        self.fail_at = fail_at

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, TideModule)
        sae = pl_module.sae(SITES[0])
        self.during.append((sae.k, sae.k_noisy))
        if trainer.global_step == self.fail_at:
            raise RuntimeError("interrupted")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, TideModule)
        self.after.append(pl_module.sae(SITES[0]).k)


def test_lowers_k_linearly_to_the_saes_own(pretrained: Path, tmp_path: Path) -> None:
    data, watch = make_data(pretrained), WatchK()
    module = make_module(data, {"k": 4, "k_noisy": 8})
    make_trainer(tmp_path, 10, [AnnealSparsity(24, over_fraction=0.5), watch]).fit(module, datamodule=data)
    assert [k for k, _ in watch.during] == [24, 20, 16, 12, 8, 4, 4, 4, 4, 4]
    assert [k for _, k in watch.during] == [24, 21, 18, 14, 11, 8, 8, 8, 8, 8]
    assert watch.after == [4] * 10
    assert module.sae(SITES[0]).config["k"] == 4


def test_a_fraction_is_one_of_d_sae(pretrained: Path, tmp_path: Path) -> None:
    data, watch = make_data(pretrained), WatchK()
    module = make_module(data)
    make_trainer(tmp_path, 2, [AnnealSparsity(0.25, over_fraction=1), watch]).fit(module, datamodule=data)
    assert watch.during[0][0] == module.sae(SITES[0]).d_sae // 4


def test_an_interrupted_step_leaves_the_saes_own_k(pretrained: Path, tmp_path: Path) -> None:
    data, watch = make_data(pretrained), WatchK(fail_at=1)
    module = make_module(data)
    with pytest.raises(RuntimeError, match="interrupted"):
        make_trainer(tmp_path, 4, [AnnealSparsity(24), watch]).fit(module, datamodule=data)
    assert module.sae(SITES[0]).k == 4


@pytest.mark.parametrize("k_start", [3, 129])
def test_refuses_a_start_below_k_or_above_d_sae(pretrained: Path, tmp_path: Path, k_start: int) -> None:
    data = make_data(pretrained)
    with pytest.raises(UserError, match=r"choose from the SAE's own k = 4 up to d_sae = 128"):
        make_trainer(tmp_path, 2, [AnnealSparsity(k_start)]).fit(make_module(data), datamodule=data)


def test_refuses_a_part_of_nothing() -> None:
    with pytest.raises(UserError, match="over_fraction"):
        AnnealSparsity(8, over_fraction=0)

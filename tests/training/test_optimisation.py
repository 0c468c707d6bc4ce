"""What happens inside the optimiser's pass, against doing it in passes of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import nn

from tests.training.fitting import make_data, make_module, make_trainer
from tide_lightning.training import TideModule
from tide_lightning.training.optimisation import clip_in_step, fused_adam


@pytest.mark.parametrize("max_norm", [0.1, 1e6])
def test_clipping_in_the_step_equals_clipping_before_it(max_norm: float) -> None:
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(20, 3)) for _ in range(2)]
    theirs = [nn.Parameter(parameter.detach().clone()) for parameter in ours]
    our_adam, their_adam = (fused_adam(parameters, 1e-2, (0.9, 0.999)) for parameters in (ours, theirs))
    for size in (1.0, 10.0, 0.01):
        for our, their in zip(ours, theirs, strict=True):
            our.grad = size * torch.randn(20, 3)
            their.grad = our.grad.clone()
        clip_in_step(our_adam, nn.utils.get_total_norm([p.grad for p in ours if p.grad is not None]), max_norm)
        our_adam.step()
        nn.utils.clip_grad_norm_(theirs, max_norm)
        their_adam.step()
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their)


class WatchNorm(Callback):
    """The gradients' norm after each step."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, TideModule)
        grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
        self.norms.append(float(nn.utils.get_total_norm(grads)))


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
def test_a_fit_clips_the_norm_of_all_its_gradients(pretrained: Path, tmp_path: Path) -> None:
    norms = {}
    for clip in (0.0, 0.05):
        data, watch = make_data(pretrained), WatchNorm()
        make_trainer(tmp_path, 3, [watch], gradient_clip_val=clip).fit(make_module(data), datamodule=data)
        norms[clip] = watch.norms
    assert min(norms[0.0]) > 0.05
    assert norms[0.05] == pytest.approx([0.05] * 3, rel=1e-3)

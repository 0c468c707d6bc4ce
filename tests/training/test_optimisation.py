"""What happens inside the optimiser's pass, against doing it in passes of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from tests.training.fitting import make_data, make_module, make_trainer
from tide_lightning.training import TideModule
from tide_lightning.training.optimisation import IndependentAdam


@pytest.mark.parametrize("max_norm", [0.1, 1e6])
def test_clipping_in_the_step_equals_clipping_each_group_before_it(max_norm: float) -> None:
    torch.manual_seed(0)
    ours = [[nn.Parameter(torch.randn(20, 3)) for _ in range(2)] for _ in range(3)]
    theirs = [[nn.Parameter(parameter.detach().clone()) for parameter in group] for group in ours]
    our_adam = IndependentAdam(ours, 1e-2, (0.9, 0.999))
    their_adams = [torch.optim.Adam(group, lr=1e-2) for group in theirs]

    def norm(group: list[nn.Parameter]) -> Tensor:
        return nn.utils.get_total_norm([p.grad for p in group if p.grad is not None])

    for size in (1.0, 10.0, 0.01):
        for number, (our, their) in enumerate(zip(ours, theirs, strict=True)):
            for mine, twin in zip(our, their, strict=True):
                mine.grad = size * 10**number * torch.randn(20, 3)
                twin.grad = mine.grad.clone()
            nn.utils.clip_grad_norm_(their, max_norm)
            their_adams[number].step()
        our_adam.prepare_step(torch.stack([norm(group) for group in ours]), max_norm)
        our_adam.step()
    for our, their in zip(ours, theirs, strict=True):
        for mine, twin in zip(our, their, strict=True):
            torch.testing.assert_close(mine, twin)


class WatchNorm(Callback):
    """The norm of each SAE's gradients after each step."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, TideModule)
        for site in pl_module.sites:
            grads = [p.grad for p in pl_module.sae(site).parameters() if p.grad is not None]
            self.norms.append(float(nn.utils.get_total_norm(grads)))


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
def test_a_fit_clips_the_norm_of_each_sae(pretrained: Path, tmp_path: Path) -> None:
    norms = {}
    for clip in (0.0, 0.05):
        data, watch = make_data(pretrained), WatchNorm()
        make_trainer(tmp_path, 3, [watch], gradient_clip_val=clip).fit(make_module(data), datamodule=data)
        norms[clip] = watch.norms
    assert min(norms[0.0]) > 0.05
    assert norms[0.05] == pytest.approx([0.05] * 6, rel=1e-3)

"""Resampling touches the dead rows, their moments and clocks, and nothing else."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from tests.training.fitting import SITES, make_data, make_module, make_trainer
from tide_lightning.callbacks import ResampleDeadLatents
from tide_lightning.errors import UserError
from tide_lightning.saes import SAE, MatchingPursuitSAE, TideSAE
from tide_lightning.tokens import TokenBatch
from tide_lightning.training import TideModule

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",  # Lightning's own, with torch 2.13
)

SITE = SITES[0]


def everything(module: TideModule) -> dict[str, Tensor]:
    """Each weight, buffer and Adam moment of the site, by name."""
    sae = module.sae(SITE)
    optimizer = module.optimizers(use_pl_optimizer=False)
    assert isinstance(optimizer, torch.optim.Optimizer)
    found = {f"sae.{name}": tensor.clone() for name, tensor in sae.state_dict().items()}
    for name, parameter in sae.named_parameters():
        for key, value in optimizer.state[parameter].items():
            found[f"adam.{name}.{key}"] = value.clone()
    return {**found, "clock": module.clock(SITE).since_fired.clone()}


class KillThenResample(Callback):
    """Declares some latents dead after the third step and resamples them."""

    def __init__(self, dead: list[int], resample: ResampleDeadLatents) -> None:
        self.dead, self.resample = dead, resample
        self.before: dict[str, Tensor] = {}
        self.after: dict[str, Tensor] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, TokenBatch], batch_idx: int
    ) -> None:
        assert isinstance(pl_module, TideModule)
        if trainer.global_step != 3:
            return
        clock = pl_module.clock(SITE)
        clock.since_fired.fill_(1)
        clock.since_fired[self.dead] = clock.dead_after_tokens
        self.before, self.tokens = everything(pl_module), batch[SITE]
        self.rows = self.resample.resample(pl_module, SITE, batch[SITE], step=3)
        self.after = everything(pl_module)


@pytest.fixture(scope="module")
def resampled(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[KillThenResample, SAE]:
    data = make_data(pretrained)
    module = make_module(data, dead_after_tokens=10**6)
    callback = KillThenResample([1, 5, 40], ResampleDeadLatents(encoder_scale=0.5))
    make_trainer(tmp_path_factory.mktemp("run"), 3, [callback]).fit(module, datamodule=data)
    return callback, module.sae(SITE)


def test_changes_exactly_the_dead_rows(resampled: tuple[KillThenResample, SAE]) -> None:
    callback, sae = resampled
    assert callback.rows.tolist() == callback.dead
    by_row = {"sae.W_enc", "sae.W_dec", "sae.b_enc", "clock"}
    by_row |= {f"adam.{name}.{key}" for name in ("W_enc", "W_dec", "b_enc") for key in ("exp_avg", "exp_avg_sq")}
    living = torch.ones(sae.d_sae, dtype=torch.bool)
    living[callback.dead] = False
    for name, before in callback.before.items():
        after = callback.after[name]
        if name in by_row:
            assert torch.equal(before[living], after[living]), name
            assert not torch.equal(before[~living], after[~living]), name
        else:
            assert torch.equal(before, after), name


def test_new_rows_moments_and_clocks(resampled: tuple[KillThenResample, SAE]) -> None:
    callback, _ = resampled
    after, dead = callback.after, callback.dead
    for name in ("W_enc", "W_dec", "b_enc"):
        assert not after[f"adam.{name}.exp_avg"][dead].any()
        assert not after[f"adam.{name}.exp_avg_sq"][dead].any()
    assert not after["clock"][dead].any()
    assert not after["sae.b_enc"][dead].any()
    W_enc, W_dec = after["sae.W_enc"], after["sae.W_dec"]
    torch.testing.assert_close(W_dec[dead].norm(dim=1), torch.ones(3))
    living = [row for row in range(len(W_enc)) if row not in dead]
    scale = 0.5 * W_enc[living].norm(dim=1).mean()
    torch.testing.assert_close(W_enc[dead].norm(dim=1), scale.expand(3))


def test_directions_are_those_of_errors_in_the_batch(resampled: tuple[KillThenResample, SAE]) -> None:
    callback, sae = resampled
    state = {name.removeprefix("sae."): t for name, t in callback.before.items() if name.startswith("sae.")}
    sae.load_state_dict(state)
    with torch.no_grad():
        output = sae(callback.tokens)
        assert sae.modulation is not None
        scale, _ = sae.modulation(callback.tokens.t)
        written = torch.nn.functional.normalize(output.u - output.u_hat, dim=1)
        read = torch.nn.functional.normalize((output.u - output.u_hat) * scale, dim=1)
    W_dec = callback.after["sae.W_dec"][callback.dead]
    W_enc = torch.nn.functional.normalize(callback.after["sae.W_enc"][callback.dead], dim=1)
    token = (W_dec @ written.mT).argmax(1)
    assert len(token.unique()) == 3  # without replacement
    torch.testing.assert_close(W_dec, written[token])
    torch.testing.assert_close(W_enc, read[token])


def test_without_an_encoder_the_decoders_rows_are_new(pretrained: Path, tmp_path: Path) -> None:
    data, dead = make_data(pretrained), [0, 7]
    callback = KillThenResample(dead, ResampleDeadLatents())
    module = TideModule(data.site_shapes, lambda shape: MatchingPursuitSAE(shape, expansion_factor=4, k=4))
    make_trainer(tmp_path, 3, [callback]).fit(module, datamodule=data)
    before, after = callback.before["sae.W_dec"], callback.after["sae.W_dec"]
    changed = (before != after).any(dim=1).nonzero().squeeze(1)
    assert changed.tolist() == dead
    torch.testing.assert_close(after[dead].norm(dim=1), torch.ones(2))


def test_badly_reconstructed_tokens_are_drawn_in_proportion_to_their_error() -> None:
    """Over many draws of one token each, the share of a token is its share of the squared error."""
    from tests.saes.synthetic import SHAPE, tokens

    torch.manual_seed(0)
    sae, batch = TideSAE(SHAPE, known_part="mean", k=4), tokens(12, rest=1.0)
    batch = replace(batch, x=batch.x * torch.arange(1, 13).unsqueeze(1))
    with torch.no_grad():
        output = sae(batch)
        error = (output.u - output.u_hat).square().sum(1)
        callback, drawn = ResampleDeadLatents(), torch.zeros(12)
        for step in range(2000):
            found = callback._candidates(sae, output, batch, "site", step)
            best = found.target[found.key.argmax()]
            drawn[(output.u - output.u_hat - best).abs().sum(1).argmin()] += 1
    torch.testing.assert_close(drawn / 2000, error / error.sum(), atol=0.03, rtol=0)


def test_says_when_it_can_never_find_a_dead_latent(
    pretrained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = make_data(pretrained)
    for dead_after_tokens, lines in ((10**6, 1), (64, 0)):
        caplog.clear()
        module = make_module(data, dead_after_tokens=dead_after_tokens)
        trainer = make_trainer(tmp_path, 4, [ResampleDeadLatents(2, until_fraction=1)])
        with caplog.at_level(logging.WARNING, logger="tide_lightning.callbacks.resampling"):
            trainer.fit(module, datamodule=data)
        found = [record for record in caplog.records if "never find a dead latent" in record.getMessage()]
        assert len(found) == lines
        assert all(", ".join(SITES) in record.getMessage() for record in found)


def test_refuses_a_period_of_nothing() -> None:
    with pytest.raises(UserError, match="every_n_steps"):
        ResampleDeadLatents(0)


def test_tensorboard_shows_each_look_and_the_recovery(pretrained: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    data = make_data(pretrained)
    module = make_module(data, dead_after_tokens=128)
    callback = ResampleDeadLatents(4, until_fraction=0.75, encoder_scale=1.0)
    make_trainer(tmp_path, 16, [callback]).fit(module, datamodule=data)
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    looks = {event.step: event.value for event in events.Scalars(f"train/{SITE}/resampled")}
    assert list(looks) == [3, 7, 11]
    assert sum(looks.values()) > 0
    alive = {event.step: event.value for event in events.Scalars(f"train/{SITE}/resampled_alive")}
    assert set(alive) == {step + 4 for step, count in looks.items() if count}
    assert all(0 < share <= 1 for share in alive.values())

"""Killed and resumed, a training continues exactly; all on a tiny configuration."""

from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tide_lightning.errors import UserError
from tools.toybox.autoencoder import AutoencoderModule
from tools.toybox.caches import LatentCache, cache_images, cached, encode_captions
from tools.toybox.denoiser import DenoiserModule
from tools.toybox.fitting import ToyModule, fit, load_average, read_checkpoint
from tools.toybox.muon import MuonAdamW, orthogonalise
from tools.toybox.oracle_training import OracleModule
from tools.toybox.text import TextModule, build_text_encoder, build_tokenizer


class KilledError(Exception):
    pass


class KillAt(Callback):
    """Stops like a killed process does: between two checkpoints, without saving."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            raise KilledError


def denoiser(num_steps: int = 6) -> DenoiserModule:
    torch.manual_seed(0)
    captions = encode_captions(8, build_text_encoder(32), build_tokenizer())
    return DenoiserModule(
        LatentCache(torch.randn(8, 4, 16, 16).half(), *captions),
        1.0,
        num_steps=num_steps,
        batch_size=4,
        num_layers=1,
    )


def autoencoder() -> AutoencoderModule:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (72, 3, 64, 64), dtype=torch.uint8)
    return AutoencoderModule(images, num_steps=6, batch_size=2, channels=(8, 8, 8))


def text() -> TextModule:
    torch.manual_seed(0)
    return TextModule(num_steps=6, batch_size=4, width=32)


def oracle() -> OracleModule:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (16, 3, 64, 64), dtype=torch.uint8)
    return OracleModule("b", images, images[:8], num_steps=6, batch_size=6)


@pytest.mark.parametrize("make", [denoiser, autoencoder, text, oracle])
def test_killed_and_resumed_equals_uninterrupted(make: Callable[[], ToyModule], tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    fit(make(), whole, steps_an_epoch=2, precision="32-true", accelerator="cpu")
    parts = tmp_path / "parts"
    with pytest.raises(KilledError):
        fit(make(), parts, steps_an_epoch=2, precision="32-true", accelerator="cpu", callbacks=[KillAt(3)])
    fit(make(), parts, steps_an_epoch=2, precision="32-true", accelerator="cpu")
    expected, resumed = read_checkpoint(whole), read_checkpoint(parts)
    assert expected.keys() == resumed.keys()
    for name, value in expected.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=0, msg=name)
    initial = make().state_dict()
    assert any(not torch.equal(initial[name], value) for name, value in expected.items())


def test_a_finished_training_can_be_given_more_steps(tmp_path: Path) -> None:
    fit(denoiser(2), tmp_path, steps_an_epoch=2, precision="32-true", accelerator="cpu")
    before = read_checkpoint(tmp_path)
    module = denoiser(4)
    fit(module, tmp_path, steps_an_epoch=2, precision="32-true", accelerator="cpu")
    assert module.global_step == 4
    after = read_checkpoint(tmp_path)
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_the_average_is_what_is_loaded(tmp_path: Path) -> None:
    module = denoiser(2)
    fit(module, tmp_path, steps_an_epoch=2, precision="32-true", accelerator="cpu")
    loaded = load_average(denoiser(2).network, tmp_path)
    state = module.ema.state_dict()
    for name, value in loaded.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)
    assert not torch.equal(module.network.proj_out.bias, module.ema.proj_out.bias)


def test_an_untrained_part_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train this part first"):
        read_checkpoint(tmp_path)


def test_the_loss_falls(tmp_path: Path) -> None:
    """Noise is soon predicted better than by saying zero, which is where the zero output starts."""
    module = denoiser(40)
    module.warmup_steps = 1
    fit(module, tmp_path, steps_an_epoch=10, precision="32-true", accelerator="cpu")
    mse = [scalar.value for scalar in EventAccumulator(str(tmp_path)).Reload().Scalars("mse")]
    assert mse[-1] < 0.8


def test_orthogonalise_brings_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((2, 32, 32), (3, 16, 64), (1, 64, 16)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)).float())
        assert values.max() < 1.3
        assert values.median() > 0.6


def test_adamw_group_equals_torch_adamw() -> None:
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.arange(6.0).view(2, 3)) for _ in range(2))
    mine = MuonAdamW([{"params": [ours], "lr": 0.1, "weight_decay": 0.02}])
    reference = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.02, betas=(0.9, 0.99))
    for _ in range(5):
        gradient = torch.randn(2, 3)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        mine.step()
        reference.step()
    torch.testing.assert_close(ours, theirs)


def test_caches_are_computed_once(tmp_path: Path) -> None:
    images = cache_images(tmp_path / "images.pt", 4)
    assert images.shape == (4, 3, 64, 64)
    assert torch.equal(cache_images(tmp_path / "images.pt", 3), images[:3])
    assert torch.equal(cached(tmp_path / "x.pt", lambda: torch.ones(2)), torch.ones(2))
    assert torch.equal(cached(tmp_path / "x.pt", lambda: torch.zeros(2)), torch.ones(2))
    assert not list(tmp_path.glob("*.part"))

"""Replayed training steps: the same fit to the last bit, and what they notice or refuse.

CUDA graphs need a GPU (`python -m benchmarks.gpu_check` compares them there); a tape of operations stands in for them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from tests.training.fitting import make_trainer
from tests.training.tape import Tape
from tide_lightning.callbacks import ResampleDeadLatents
from tide_lightning.saes import JumpReLUSAE, TideSAE
from tide_lightning.tokens import SiteShape, TokenBatch, TokenContext
from tide_lightning.training import TideModule
from tide_lightning.training.cuda_graphs import is_small, why_not_in_fit, why_not_of_sae

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",  # Lightning's own, with torch 2.13
    "ignore:You defined a `validation_step` but have no `val_dataloader`:UserWarning",
)

SHAPE: dict[str, int | list[int]] = {"d_in": 8, "grid": [2, 4], "d_input": 3}
SIMPLE: dict[str, Any] = {"expansion_factor": 4, "k": 2, "decode_backend": "dense"}
"""An SAE whose operations on a CPU are those that a GPU would be given."""
WHOLE: dict[str, Any] = {"expansion_factor": 2, "k": 2, "budget": "batch", "budget_over_time": 0.5, "pursuits": 1}


def batch(number: int, size: int = 8) -> dict[str, TokenBatch]:
    draw = torch.Generator().manual_seed(number)
    place = torch.arange(size) % 8
    context = TokenContext(
        torch.rand(size, generator=draw),
        torch.stack([place // 4, place % 4], 1),
        input=torch.randn(size, 3, generator=draw),
    )
    zeros = torch.zeros(size, dtype=torch.int8)
    x = torch.randn(size, 8, generator=draw)
    return {"block": TokenBatch(x, context, context.t, torch.arange(size), zeros, zeros)}


def module(sae: Callable[..., Any] = TideSAE, settings: dict[str, Any] = SIMPLE, **changes: Any) -> TideModule:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = TideModule({"block": SHAPE}, lambda shape: sae(shape, **settings), **({"warmup_steps": 4} | changes))
    made.is_calibrated.fill_(True)
    return made


class Watch(Callback):
    """What a fit's steps lose, and how many of them were replayed."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.replayed: list[int] = []
        self.figures: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        assert isinstance(pl_module, TideModule)
        self.losses.append(outputs["loss"].clone())
        self.replayed.append(pl_module.num_replayed)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.figures.append({name: float(value) for name, value in trainer.logged_metrics.items()})


def fit(folder: Path, trained: TideModule, batches: list[dict[str, TokenBatch]], **changes: Any) -> Watch:
    watch = Watch()
    callbacks = [watch, *changes.pop("callbacks", [])]
    trainer = make_trainer(folder, len(batches), callbacks, gradient_clip_val=0.05, **changes)
    trainer.fit(trained, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return watch


def assert_same(one: TideModule, other: TideModule) -> None:
    states = one.state_dict(), other.state_dict()
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), f"{name} differs by {(tensor - states[1][name]).abs().max()}"


@pytest.fixture
def twice(tmp_path: Path) -> Any:
    """Fit two equal modules, one of them replayed; what both showed."""

    def fitted(batches: list[dict[str, TokenBatch]], make: Callable[[], TideModule], **changes: Any) -> Any:
        plain, replayed = make(), make()
        replayed.recorder = tape = Tape()
        seen = (
            fit(tmp_path / "plain", plain, batches, **changes),
            fit(tmp_path / "replayed", replayed, batches, **changes),
        )
        assert_same(plain, replayed)
        assert list(map(str, seen[0].losses)) == list(map(str, seen[1].losses))  # NaN, too
        for name, value in seen[0].figures[0].items():
            assert str(seen[1].figures[0][name]) == str(value) or "per_second" in name, name
        return SimpleNamespace(replayed=seen[1].replayed, num_recorded=tape.num_recorded, module=replayed)

    return fitted


def test_the_default_sae_fits_to_the_same_bits_through_the_kernels_for_a_gpu(twice: Any) -> None:
    """Without its refinement, which is one more of the same; the interpreter takes a second a step."""
    settings = WHOLE | {"decode_backend": "triton", "scale_by_timestep": True}
    seen = twice([batch(number) for number in range(4)], lambda: module(settings=settings))
    assert seen.replayed == [
        0,
        0,
        0,
        1,
    ]  # the first step makes the sums, the second is one of its kind, then it is recorded


def test_weights_that_a_callback_re_seeds_are_seen_and_so_are_dead_latents(twice: Any) -> None:
    """The number of dead latents is a size: with another one the step is recorded anew."""
    seen = twice(
        [batch(number) for number in range(60)],
        lambda: module(dead_after_tokens=20),
        callbacks=[ResampleDeadLatents(10, until_fraction=0.6, num_candidates=2)],
    )
    assert seen.num_recorded > 2
    assert 30 < seen.replayed[-1] < 58
    assert float(seen.module.clock("block").dead().double().mean()) > 0


def test_batches_of_another_size_are_no_replay(twice: Any) -> None:
    sizes = [8, 8, 8, 8, 5, 8, 5, 8, 5, 5, 5]
    seen = twice([batch(number, size) for number, size in enumerate(sizes)], module)
    assert seen.replayed == [0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 4]


def test_precision_is_part_of_a_recording(twice: Any) -> None:
    seen = twice([batch(number) for number in range(5)], module, precision="bf16-mixed")
    assert seen.replayed[-1] == 2


def test_a_loss_that_is_not_finite_is_skipped_all_the_same(twice: Any) -> None:
    batches = [batch(number) for number in range(7)]
    batches[4]["block"].x[0, 0] = torch.nan
    assert twice(batches, module).replayed[-1] == 4


def test_settings_that_a_callback_changes_are_seen(twice: Any) -> None:
    class Anneal(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            assert isinstance(pl_module, TideModule)
            pl_module.sae("block").k = 4 if trainer.global_step < 4 else 2

    seen = twice([batch(number) for number in range(8)], module, callbacks=[Anneal()])
    assert seen.replayed == [0, 0, 0, 1, 1, 1, 2, 3]


def test_a_loss_of_several_saes_is_not_replayed(twice: Any) -> None:
    class Further(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            assert isinstance(pl_module, TideModule)
            sae = pl_module.sae("block")
            pl_module.further_loss = (lambda: sae.W_enc.square().mean()) if trainer.global_step >= 4 else None

    seen = twice([batch(number) for number in range(7)], module, callbacks=[Further()])
    assert seen.replayed == [0, 0, 0, 1, 1, 1, 1]


def test_what_makes_the_host_wait_is_told_once_and_the_fit_goes_on(
    twice: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"expansion_factor": 4, "k": 2, "budget": "batch"}  # by PyTorch's operations for a CPU
    with caplog.at_level(logging.WARNING, logger="tide_lightning"):
        seen = twice([batch(number, 8 + number // 3) for number in range(9)], lambda: module(settings=settings))
    assert seen.replayed[-1] == seen.num_recorded == 0
    said = [record.getMessage() for record in caplog.records if "replayed" in record.getMessage()]
    assert len(said) == 1
    assert "block" in said[0]
    assert "the host would wait" in said[0]


def test_a_recording_that_gives_other_bits_is_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Wrong(Tape):
        def record(self, function: Callable[[], Any]) -> Any:
            made, run = super().record(function)

            def off() -> None:
                run()
                made.gradients[0].add_(1e-3)

            return made, off

    plain, replayed = module(), module()
    replayed.recorder = Wrong()
    batches = [batch(number) for number in range(5)]
    fit(tmp_path / "plain", plain, batches)
    with caplog.at_level(logging.WARNING, logger="tide_lightning"):
        assert fit(tmp_path / "replayed", replayed, batches).replayed[-1] == 0
    assert_same(plain, replayed)
    assert [record for record in caplog.records if "other bits" in record.getMessage()]


def test_a_second_fit_of_a_module_begins_anew(tmp_path: Path) -> None:
    trained = module()
    trained.recorder = Tape()
    for replayed in ([0, 0, 0, 1], [0, 0, 1, 2]):  # the second time the sums are there
        assert fit(tmp_path, trained, [batch(number) for number in range(4)]).replayed == replayed


def trainer(**changes: Any) -> Any:
    plugin = SimpleNamespace(scaler=changes.pop("scaler", None))
    return SimpleNamespace(
        **{"world_size": 1, "accumulate_grad_batches": 1, "precision_plugin": plugin, "precision": "16-mixed"} | changes
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"world_size": 2}, "several processes"),
        ({"accumulate_grad_batches": 2}, "accumulated"),
        ({"scaler": object()}, "16-mixed scales the loss"),
        ({}, "Triton"),  # a CPU
    ],
)
def test_what_forbids_it_in_a_fit(changes: dict[str, Any], said: str) -> None:
    assert said in (why_not_in_fit(trainer(**changes), torch.device("cpu")) or "")


def test_anomaly_detection_forbids_it() -> None:
    with torch.autograd.set_detect_anomaly(True):
        assert "detect_anomaly" in (why_not_in_fit(trainer(), torch.device("cpu")) or "")


def test_only_small_saes_are_replayed() -> None:
    with torch.device("meta"):
        toybox = TideSAE(SiteShape(128, (8, 8), 16), expansion_factor=16)
        pixart = TideSAE(SiteShape(1152, (32, 32), 16), expansion_factor=16)
    assert is_small(toybox)
    assert not is_small(pixart)


def test_what_forbids_it_for_an_sae() -> None:
    shape = SiteShape.of(SHAPE)
    assert why_not_of_sae(TideSAE(shape, **WHOLE)) is None
    assert "JumpReLUSAE" in (why_not_of_sae(JumpReLUSAE(shape, k=2)) or "")
    assert "decode_backend coo" in (why_not_of_sae(TideSAE(shape, k=2, decode_backend="coo")) or "")
    hooked = TideSAE(shape, k=2, modulation="adaln")
    assert hooked.modulation is not None
    hooked.modulation.register_forward_hook(lambda *_: None)
    assert "hooks" in (why_not_of_sae(hooked) or "")
    compiled = TideSAE(shape, k=2)
    compiled.compile(backend="eager")
    assert "compiled" in (why_not_of_sae(compiled) or "")


def test_an_sae_that_forbids_it_is_named_in_one_line_and_others_are_replayed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trained = TideModule(
            {"block": SHAPE},
            saes={"topk": lambda shape: TideSAE(shape, **SIMPLE), "jump": lambda shape: JumpReLUSAE(shape, k=2)},
        )
    trained.is_calibrated.fill_(True)
    trained.recorder = Tape()
    with caplog.at_level(logging.WARNING, logger="tide_lightning"):
        assert fit(tmp_path, trained, [batch(number) for number in range(4)]).replayed[-1] == 1
    said = [record.getMessage() for record in caplog.records if "replayed" in record.getMessage()]
    assert len(said) == 1
    assert "block@jump" in said[0]
    assert "block@topk" not in said[0]

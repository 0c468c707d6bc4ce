"""SAEs of every class, side by side: trained, resampled, sharded, exported, and from their configs to `tide test`."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning import Callback
from lightning.pytorch.strategies import ModelParallelStrategy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tide_lightning.saes
from tests.saes.synthetic import SHAPE
from tests.torchrun import run_ranks
from tests.training.fitting import SITES, make_data, make_trainer
from tide_lightning.callbacks import ExportSAEs, ResampleDeadLatents
from tide_lightning.cli import main
from tide_lightning.command_line import packaged_configs
from tide_lightning.diffusion import folder_name
from tide_lightning.saes import SAE, GatedSAE, JumpReLUSAE, MatryoshkaSAE, PerBinSAE, ReLUSAE, TideSAE
from tide_lightning.tokens import SiteShape
from tide_lightning.training import TideModule

pytestmark = pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")

CLASSES: dict[str, tuple[type[SAE], dict[str, Any], set[str]]] = {
    "tide": (TideSAE, {}, set()),
    "pursuing": (TideSAE, {"refinements": 1, "pursuits": 1}, {"encoder"}),
    "matryoshka": (MatryoshkaSAE, {"budget": "token", "prefixes": [0.25]}, {"first_32"}),
    "relu": (ReLUSAE, {}, {"sparsity"}),
    "gated": (GatedSAE, {}, {"sparsity", "gate"}),
    "jumprelu": (JumpReLUSAE, {}, {"sparsity"}),
    "perbin": (PerBinSAE, {"num_saes": 4}, set()),
}
"""Arguments, and the loss's own terms."""


def sae_of(config: str) -> dict[str, Any]:
    """The class and the arguments that a packaged config names."""
    sae: dict[str, Any] = yaml.safe_load(packaged_configs()[config].read_text(encoding="utf-8"))["model"]["sae"]
    return sae


def builder(name: str) -> Any:
    cls, arguments, _ = CLASSES[name]

    def build(shape: SiteShape) -> SAE:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return cls(shape, expansion_factor=4, k=4, **arguments)

    return build


def fit(pretrained: Path, folder: Path, *callbacks: Callback, **changes: Any) -> TideModule:
    data = make_data(pretrained, num_calibration_samples=16)
    saes = {name: builder(name) for name in CLASSES}
    module = TideModule(data.site_shapes, saes=saes, warmup_steps=4, dead_after_tokens=128)
    make_trainer(folder, 6, [*callbacks, ExportSAEs()], gradient_clip_val=0.1, **changes).fit(module, datamodule=data)
    return module


def fit_half(rank: int, pretrained: str, folder: str) -> None:
    warnings.simplefilter("ignore")
    strategy = ModelParallelStrategy(2, 1, save_distributed_checkpoint=False)
    fit(Path(pretrained), Path(folder), strategy=strategy, devices=2)


@pytest.fixture(scope="module")
def whole(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TideModule, Path]:
    folder = tmp_path_factory.mktemp("whole")
    return fit(pretrained, folder, ResampleDeadLatents(3, until_fraction=1, num_candidates=8)), folder / "run"


@pytest.mark.parametrize("name", CLASSES)
def test_each_logs_its_own_terms_and_comes_back_from_disk(name: str, whole: tuple[TideModule, Path]) -> None:
    module, run = whole
    cls, _, terms = CLASSES[name]
    events = EventAccumulator(str(run)).Reload()
    for site in SITES:
        prefix = f"train/{site}@{name}/"
        logged = {tag.removeprefix(prefix) for tag in events.Tags()["scalars"] if tag.startswith(prefix)}
        assert terms <= logged
        assert not {"sparsity", "gate", "first_32"} & (logged - terms)
        last = {tag: events.Scalars(prefix + tag)[-1].value for tag in ("loss", "reconstruction", *terms)}
        auxk = events.Scalars(prefix + "auxk")[-1].value / 32
        parts = auxk + sum(value for tag, value in last.items() if tag != "loss")
        assert last["loss"] == pytest.approx(parts, rel=1e-5)
        if "sparsity" not in terms:  # without a bound on how many are active, none is dead so soon
            assert sum(e.value for e in events.Scalars(prefix + "resampled")) > 0
        loaded = SAE.from_pretrained(run / "saes" / folder_name(f"{site}@{name}"))
        assert type(loaded) is cls
        for key, tensor in module.sae(f"{site}@{name}").state_dict().items():
            assert torch.equal(loaded.state_dict()[key], tensor)


def test_two_processes_with_half_of_the_latents_each_train_the_same(pretrained: Path, tmp_path: Path) -> None:
    run_ranks(fit_half, str(pretrained), str(tmp_path / "halves"))
    alone = fit(pretrained, tmp_path / "whole")
    for site in alone.sites:
        halves = SAE.from_pretrained(tmp_path / "halves" / "run" / "saes" / folder_name(site)).state_dict()
        whole = alone.sae(site).state_dict()
        assert halves.keys() == whole.keys()
        for name, tensor in whole.items():
            torch.testing.assert_close(halves[name], tensor, rtol=1e-3, atol=1e-4)


def test_from_their_configs_to_the_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [name for name in packaged_configs() if name.startswith("rivals/")]
    assert len(names) == 12
    saes = {}
    for name in names:
        saes[name.removeprefix("rivals/")] = sae = sae_of(name)
        sae["init_args"]["expansion_factor"] = 4
        sae["init_args"]["k"] = 8
    (tmp_path / "all.yaml").write_text(yaml.safe_dump({"model": {"saes": saes}}))
    tiny = ["--trainer.max_steps=2", "--checkpoint.every_n_train_steps=2", "--trainer.log_every_n_steps=1"]
    assert main(["fit", "--config", "debug", "--config", "all.yaml", *tiny]) == 0
    assert main(["test", "--data.heldout.num_test_samples=16", "--evaluation.num_images=0"]) == 0
    metrics = json.loads((tmp_path / "runs" / "debug" / "latest" / "metrics.json").read_text())
    keys = {f"transformer_blocks.3@{name}" for name in saes}
    assert set(metrics["sites"]) == set(metrics["fidelity"]["sites"]) == keys
    assert main(["plan", "--config", "debug", "--config", "all.yaml"]) == 0


def test_nothing_of_the_quickstarts_own_is_left_on_a_rival() -> None:
    """On top of the quickstart a rival keeps what it does not name, so it names all that its class takes."""
    ours = sae_of("quickstart")["init_args"]
    rivals = [name for name in packaged_configs() if name.startswith("rivals/")]
    assert len(rivals) == 12
    for name in rivals:
        rival = sae_of(name)
        cls: type[SAE] = getattr(tide_lightning.saes, rival["class_path"].rpartition(".")[2])
        assert set(ours) & set(cls(SHAPE).config) <= set(rival["init_args"]), name


@pytest.mark.parametrize("rival", ["gated", "topk_per_timestep"])
def test_a_rivals_config_on_top_of_anothers(rival: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    quick = ["--trainer.max_steps=1", "--trainer.callbacks=[]", "--data.num_calibration_samples=64"]
    quick += ["--data.heldout.num_validation_samples=16", "--data.sites=[transformer_blocks.3]"]
    assert main(["fit", "--config", "quickstart", "--config", f"rivals/{rival}", *quick]) == 0
    wanted = sae_of(f"rivals/{rival}")
    sae = SAE.from_pretrained(tmp_path / "runs" / "quickstart" / "latest" / "saes" / "transformer_blocks.3")
    assert type(sae).__name__ == wanted["class_path"].rpartition(".")[2]
    assert wanted["init_args"].items() <= sae.config.items()

"""Floors that a fit keeps are those that `tide test` would fit, and are taken where they are of the same tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.saes.synthetic import SHAPE, tokens
from tide_lightning.cli import main
from tide_lightning.evaluation.floors import FloorStatistics, floors_of
from tide_lightning.evaluation.kept_floors import read_floors, write_floors
from tide_lightning.saes import SAE, TideSAE

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",  # Lightning's own, with torch 2.13
)

SITES = "--data.sites=[transformer_blocks.1, transformer_blocks.3]"
SHORT = [
    "--config=debug",
    SITES,
    "--trainer.max_steps=2",
    "--data.source=both",
    "--data.heldout.num_validation_samples=16",
]
FEW = ["--data.heldout.num_test_samples=16", "--evaluation.num_images=2", "--evaluation.num_inference_steps=2"]
TWO = "{class_path: tide_lightning.saes.TideSAE, init_args: {expansion_factor: 2, k: %d}}"
TOLD = "evaluate  the floors are those that the fit has kept"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two SAEs at each of two sites, stopped and resumed."""
    runs = tmp_path_factory.mktemp("runs")
    saes = f"--model.saes={{small: {TWO % 4}, large: {TWO % 12}}}"
    assert main(["fit", *SHORT, saes, f"--runs={runs}"]) == 0
    assert main(["fit", *SHORT, saes, f"--runs={runs}", "--trainer.max_steps=3", "--ckpt_path=last"]) == 0
    return (runs / "debug" / "latest").resolve()


def measured(run: Path, *options: str) -> dict[str, Any]:
    assert main(["test", f"--run={run}", *FEW, *options]) == 0
    found: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return {name: found[name] for name in ("sites", "floors", "fidelity") if name in found}


def numbers(value: Any, name: str = "") -> dict[str, float]:
    if isinstance(value, bool | str):
        return {}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {name: value}
    return {path: leaf for key, inner in items for path, leaf in numbers(inner, f"{name}/{key}").items()}


def test_figures_are_those_of_a_test_that_fits_its_floors_and_has_one_core(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = measured(run)
    assert TOLD in capsys.readouterr().out
    (run / "floors").rename(run / "elsewhere")
    monkeypatch.setattr("tide_lightning.cores.usable_cores", lambda: 1)
    fitted = measured(run)
    (run / "elsewhere").rename(run / "floors")
    assert TOLD not in capsys.readouterr().out
    sites = {f"transformer_blocks.{block}@{name}" for block in (1, 3) for name in ("small", "large")}
    assert set(kept["floors"]) == set(kept["fidelity"]["end_to_end"]["sites"]) == sites
    assert numbers(kept) == pytest.approx(numbers(fitted), rel=1e-6, abs=1e-9)


def test_of_other_tokens_floors_are_fitted_anew(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured(run, "--data.num_calibration_samples=32", "--evaluation.num_images=0", "--evaluation.fidelity_samples=0")
    assert TOLD not in capsys.readouterr().out


def saes(*ks: int) -> dict[str, SAE]:
    return {f"site@{k}": TideSAE(SHAPE, expansion_factor=2, k=k) for k in ks}


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    [floors] = (found := floors_of(saes(2, 3))).values()
    statistics = FloorStatistics(floors)
    statistics.update(tokens(500, seed=1, mean=1, input=0.3, rest=1))
    statistics.fit()
    write_floors(tmp_path, {"seed": 1}, found)
    return tmp_path


def test_a_smaller_k_takes_fewer_directions_and_a_larger_one_none(kept: Path) -> None:
    [small] = (found := floors_of(saes(1))).values()
    [whole] = (all_kept := floors_of(saes(3))).values()
    assert read_floors(kept, {"seed": 1}, found)
    assert read_floors(kept, {"seed": 1}, all_kept)
    assert small.components.shape[1] == 2
    assert torch.equal(small.components, whole.components[:, :2])
    assert torch.equal(small.rung("mean_t").by_time, whole.rung("mean_t").by_time)
    assert not read_floors(kept, {"seed": 1}, floors_of(saes(SHAPE.d_in)))
    assert not read_floors(kept, {"seed": 2}, floors_of(saes(1)))
    assert not read_floors(kept / "nowhere", {"seed": 1}, floors_of(saes(1)))


@pytest.mark.parametrize("name", ["cfg.json", "floors.safetensors"])
def test_what_is_damaged_is_said_and_fitted_anew(kept: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    path = kept / "floors" / name
    content = bytearray(path.read_bytes())
    place = content.index(b'"cfg_sha256": "') + 20 if name == "cfg.json" else len(content) - 3
    content[place] ^= 1
    path.write_bytes(content)
    assert not read_floors(kept, {"seed": 1}, floors_of(saes(1)))
    assert "fitted anew" in caplog.text

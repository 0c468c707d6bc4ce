"""The whole benchmark on a tiny budget, through Lightning's own test loop on the shipped pipeline."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from tests.training.fitting import make_data, make_module, make_trainer
from tests.untrained import PIPELINE
from tide_lightning.benchmark import GroundBenchmark
from tide_lightning.benchmark.causality import METHODS
from tide_lightning.benchmark.meaning import PREDICTORS
from tide_lightning.benchmark.readout import READERS
from tide_lightning.cores import core_to_spare
from tide_lightning.errors import UserError
from tide_lightning.evaluation import EvaluateProtocol
from tide_lightning.grounds.toybox import FACTORS, Scenes, Toybox

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",  # Lightning's own, with torch 2.13
)

SITES = ["transformer_blocks.1", "transformer_blocks.3"]
BUDGET: dict[str, Any] = {
    "num_train_images": 48,
    "num_test_images": 32,
    "num_bins": 2,
    "steer": ("colour:red", "wall:mint"),
    "num_steer_train_prompts": 1,
    "num_steer_prompts": 2,
    "strengths": (1.0,),
    "steer_sweep": True,
    "num_kept_images": 4,
    "num_inference_steps": 2,
    "print_every_seconds": 0.0,
}


def benchmark(
    folder: Path,
    sae: dict[str, Any] | None = None,
    budget: float | None = None,
    **changes: Any,
) -> Any:
    """Run `tide test`'s loop with the benchmark; the figures under `toybox`."""
    scenes = Scenes("test", 16)
    data = make_data(Path(), images=scenes, heldout={"images": scenes}, sites=SITES)
    data.pretrained = PIPELINE
    module = make_module(data, sae)
    module.calibrate(data)
    protocol = EvaluateProtocol(str(folder), budget, num_bins=2, fidelity_samples=0, num_images=0)
    callbacks = [GroundBenchmark(Toybox(), **(BUDGET | changes)), protocol]
    logger = TensorBoardLogger(folder, name="run", version="", default_hp_metric=False)
    make_trainer(folder, 1, callbacks, logger=logger).test(module, datamodule=data, verbose=False)
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["toybox"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def figures(run: Path) -> Any:
    return benchmark(run)


def numbers(tree: Any) -> list[float]:
    if isinstance(tree, dict):
        return [number for part in tree.values() for number in numbers(part)]
    if isinstance(tree, list):
        return [number for part in tree for number in numbers(part)]
    return [tree] if isinstance(tree, int | float) else []


def test_every_figure_has_its_floors_and_controls(figures: Any) -> None:
    assert set(figures["meaning"]) == set(figures["readout"]) == set(SITES)
    for site in SITES:
        meaning, readout = figures["meaning"][site], figures["readout"][site]
        for block in (meaning, *meaning["by_timestep"]):
            assert set(block["mean"]["auroc"]) == set(block["mean"]["f1"]) == set(PREDICTORS)
            for factor, values in block["values"].items():
                assert set(values) <= set(FACTORS[factor])
                for found in values.values():
                    assert set(found["auroc"]) == set(found["f1"]) == set(PREDICTORS)
                    assert 0 < found["positives"] < found["units"]
        assert set(meaning["factors"]) == set(FACTORS)
        for block in (readout, *readout["by_timestep"]):
            assert all(set(block[name]) == set(READERS) for name in ("depth_r2", "mask_iou"))
        assert [(row["low"], row["high"]) for row in meaning["by_timestep"]] == [(0, 0.5), (0.5, 1)]
    assert all(math.isfinite(number) for number in numbers(figures))


def test_floors_are_where_they_must_be(figures: Any) -> None:
    for site in SITES:
        # Where a thing stands is not said by the places of all tokens, which are the same in every scene.
        position = figures["meaning"][site]["factors"]["place"]["auroc"]["position"]
        assert position == pytest.approx(0.5)
        readout = figures["readout"][site]
        assert readout["depth_r2_beyond_position"]["position"] == pytest.approx(0, abs=0.05)
        assert readout["depth_r2"]["position"] > 0.5  # the camera stands still
        assert readout["mask_iou"]["dense"] > readout["mask_iou"]["position"]


def test_factors_are_kept_apart_by_what_the_prompt_says(figures: Any) -> None:
    kept = figures["kept"]
    assert kept["images"] == 4
    assert list(kept["sites"]) == SITES
    for found in (*kept["sites"].values(), kept["all"], kept["unrelated"]):
        for name in ("mentioned", "open"):
            low, high = found[f"{name}_interval"]
            assert 0 <= low <= found[name] <= high <= 1
        assert set(found["factors"]) == set(FACTORS)


def test_steering_has_its_controls(figures: Any) -> None:
    steering = figures["steering"]
    assert set(steering["mean"]) == set(METHODS)
    assert steering["mean"]["latent"]["images"] == 4
    for factor, value in (("colour", "red"), ("wall", "mint")):
        found = steering["targets"][factor][value]
        assert set(found["site"].values()) == {SITES[1]}
        assert set(found["methods"]) == set(METHODS)
        for method in found["methods"].values():
            assert factor not in method["stability"]
            assert len(method["stability"]) == len(FACTORS) - 1
            assert method["confirmed"] <= min(method["success"], method["success_judge_b"])
        assert set(found["methods"]["none"]["stability"].values()) == {1}


def test_the_report_shows_tables_and_plots(run: Path, figures: Any) -> None:
    page = (run / "report" / "index.html").read_text(encoding="utf-8")
    assert "One latent tells a value with an AUROC of " in page
    assert "Single latents tell " in page
    assert re.search(r"(Depth|Mask).*: -?\d\.\d\d from codes, -?\d\.\d\d from the whole activation", page)
    assert re.search(r"From noise to image .* is readable first \(t \d\.\d\d\) and .* last", page)
    mean = figures["meaning"][SITES[0]]["mean"]["auroc"]["best_latent"]
    for words in ("what latents mean and cause", "position only", "changed prompt", "colour: red", f"{mean:.3f}"):
        assert words in page
    assert "layout: depth" in page
    for name in (
        "toybox_hierarchy",
        "toybox_meaning",
        "toybox_factors",
        "toybox_readout",
        "toybox_steering",
        "toybox_steered",
    ):
        with Image.open(run / "report" / f"{name}.png") as picture:
            assert picture.width > 400


def test_what_does_not_fit_the_budget_is_cut(tmp_path: Path) -> None:
    found = benchmark(tmp_path, budget=1e-6)
    cut = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["budget"]["cut"]
    assert cut["toybox: train images"] == {"done": 32, "of": 48}
    assert cut["toybox: test images"] == {"done": 16, "of": 32}
    assert cut["toybox: images with factors kept"] == {"done": 0, "of": 4}
    assert cut["toybox: test prompts"] == {"done": 0, "of": 2}
    assert found["settings"]["train_images"] == 32
    assert found["steering"] == {"absent": {SITES[1]: "no time was left"}}


def test_a_run_on_one_core_or_two_gives_the_same_figures(
    figures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cores = 1 if core_to_spare(torch.device("cpu")) else 64
    monkeypatch.setattr("tide_lightning.cores.usable_cores", lambda: cores)
    again = benchmark(tmp_path)
    assert {**again, "seconds": 0} == {**figures, "seconds": 0}


def test_without_captions_less_is_known_in_noise(figures: Any, tmp_path: Path) -> None:
    silent = benchmark(tmp_path, captions=False, steer=())
    assert silent["settings"]["captions"] is False
    told, seen = (
        [found["meaning"][site]["by_timestep"][1]["mean"]["auroc"]["dense"] for site in SITES]
        for found in (figures, silent)
    )
    assert sum(seen) < sum(told)


def test_an_sae_of_few_latents_that_knows_the_noise_is_read_but_not_steered(tmp_path: Path) -> None:
    sae = {"known_part": "noise_token", "expansion_factor": 0.25}
    found = benchmark(tmp_path, sae, num_bins=1, num_train_images=32, num_test_images=16)
    assert set(found["meaning"]) == set(SITES)
    assert set(found["steering"]) == {"absent"}
    assert "kept" not in found


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_train_images": 8}, "num_train_images must be at least 32, not 8"),
        ({"window": (0.7, 0.2)}, "window must be two times"),
        ({"strengths": ()}, "strengths must be numbers"),
        ({"steer": ("colour:pink",)}, "no 'colour:pink'"),
    ],
)
def test_wrong_arguments_are_told(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        GroundBenchmark(Toybox(), **arguments)


def test_a_site_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"steer_sites has 'transformer_blocks.0'; this run's sites are"):
        benchmark(tmp_path, steer_sites=("transformer_blocks.0",))


def test_fitting_does_not_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hooks = [name for name in vars(GroundBenchmark) if name.startswith("on_") or name == "setup"]
    assert hooks == []
    assert not torch.is_inference_mode_enabled()

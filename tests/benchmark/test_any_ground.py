"""The benchmark on a ground with nothing that a ground may leave out, named by its class path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser
from lightning.pytorch.loggers import TensorBoardLogger

from tests.benchmark.flat import Flat
from tests.training.fitting import Blotches, make_data, make_module, make_trainer
from tide_lightning.benchmark import GroundBenchmark
from tide_lightning.diffusion import Denoiser
from tide_lightning.errors import UserError
from tide_lightning.evaluation import EvaluateProtocol
from tide_lightning.grounds import Ground
from tide_lightning.grounds.toybox import Toybox

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",  # Lightning's own, with torch 2.13
)


def test_a_ground_without_parts_maps_or_promptable_factors_is_measured(tmp_path: Path) -> None:
    ground = Flat(str(tmp_path / "pipeline"))
    ground.denoiser()
    data = make_data(tmp_path / "pipeline", images=Blotches())
    module = make_module(data)
    module.calibrate(data)
    benchmark = GroundBenchmark(
        ground,
        num_train_images=48,
        num_test_images=24,
        num_bins=2,
        steer=("hue:red", "brightness"),
        num_steer_prompts=2,
        num_steer_train_prompts=1,
        strengths=(1.0,),
        num_inference_steps=2,
        num_kept_images=2,
        steer_sites=tuple(module.sites),
        steer_each=True,
    )
    protocol = EvaluateProtocol(str(tmp_path), None, num_bins=2, fidelity_samples=0, num_images=0)
    logger = TensorBoardLogger(tmp_path, name="run", version="", default_hp_metric=False)
    make_trainer(tmp_path, 1, [benchmark, protocol], logger=logger).test(module, datamodule=data, verbose=False)
    found = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["flat"]
    for site in module.sites:
        assert set(found["meaning"][site]["factors"]) == {"hue", "brightness"}
        # An image of one colour is told by any of its tokens at the end, and by the prompt at the beginning.
        assert found["meaning"][site]["factors"]["hue"]["auroc"]["dense"] > 0.9
        assert found["meaning"][site]["factors"]["hue"]["auroc"]["position"] == pytest.approx(0.5)
        assert set(found["readout"][site]) == {"by_timestep"}
    assert set(found["hierarchy"]["codes"]["concepts"]) <= {"hue", "brightness"}
    assert {"mentioned", "open"} <= set(found["kept"]["unrelated"])
    assert list(found["steering"]["sites"]) == module.sites
    for site, steered in found["steering"]["sites"].items():
        assert set(steered["targets"]["hue"]["red"]["site"].values()) == {site}
        assert "prompt" in steered["targets"]["hue"]["red"]["methods"]
        assert "prompt" not in steered["targets"]["brightness"]["dark"]["methods"]
        assert steered["mean"]["prompt"]["images"] == 2
        assert steered["mean"]["latent"]["images"] == 6
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "Flat: what latents mean and cause" in page
    assert "hue, brightness from the whole image" in page
    assert "read-out" not in page
    assert all(f"steering at {site}" in page for site in module.sites)


@pytest.mark.parametrize(
    ("path", "arguments"),
    [("tide_lightning.grounds.toybox.Toybox", {}), ("tests.benchmark.flat.Flat", {"folder": "x"})],
)
def test_a_ground_is_named_by_its_class_path(path: str, arguments: dict[str, str]) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(GroundBenchmark, "benchmark")
    benchmark = {"class_path": "GroundBenchmark", "init_args": {"ground": {"class_path": path, "init_args": arguments}}}
    made = parser.instantiate(parser.parse_object({"benchmark": benchmark})).benchmark
    assert f"{type(made.ground).__module__}.{type(made.ground).__name__}".endswith(path.rsplit(".", 1)[1])
    ground: Ground = made.ground
    assert set(ground.factors)


def test_a_denoiser_of_other_images_is_refused(tmp_path: Path, denoiser: Denoiser) -> None:
    from tide_lightning.benchmark.examples import check_denoiser

    check_denoiser(Toybox(), denoiser)
    with pytest.raises(UserError, match=r"the images of flat are \[3, 16, 16\], this denoiser's \[3, 64, 64\]"):
        check_denoiser(Flat(str(tmp_path)), denoiser)

"""What the monitor writes for TensorBoard."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.training.fitting import SITES, make_data, make_module, make_trainer
from tide_lightning.callbacks import MonitorFeatures
from tide_lightning.callbacks.drawings import draw_images, draw_profiles
from tide_lightning.training import TideModule

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",  # Lightning's own, with torch 2.13
)

SMALL: dict[str, Any] = {"num_tokens": 64, "num_samples": 8, "num_images": 2, "num_inference_steps": 2}


def events(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder), size_guidance={"images": 0})
    found.Reload()
    return found


@pytest.fixture(scope="module")
def board(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> EventAccumulator:
    data, folder = make_data(pretrained, source="both"), tmp_path_factory.mktemp("run")
    trainer = make_trainer(folder, 5, [MonitorFeatures(2, **SMALL)])
    trainer.fit(make_module(data), datamodule=data)
    return events(folder / "run")


def test_draws_every_so_often_and_at_the_end(board: EventAccumulator) -> None:
    expected = {f"feature_time/{site}" for site in SITES}
    expected |= {"over_timestep/explained_variance", "over_timestep/loss_increase", "samples/original_and_spliced"}
    assert set(board.Tags()["images"]) == expected
    for tag in expected:
        assert [event.step for event in board.Images(tag)] == [1, 3, 4]
    assert set(board.Tags()["histograms"]) == {f"firing_rate_log10/{site}" for site in SITES}


def test_the_pictures_are_pictures(board: EventAccumulator) -> None:
    for tag in board.Tags()["images"]:
        picture = np.asarray(Image.open(io.BytesIO(board.Images(tag)[-1].encoded_image_string)))
        assert picture.ndim == 3
        assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 10


def test_histograms_hold_every_latent(board: EventAccumulator) -> None:
    values = board.Histograms(f"firing_rate_log10/{SITES[0]}")[-1].histogram_value
    assert values.num == 4 * 32
    assert values.min == pytest.approx(np.log10(0.5 / 64))  # some never fire on 64 tokens
    assert values.max <= 0


def test_the_loss_increase_is_that_of_the_splice(pretrained: Path, tmp_path: Path) -> None:
    """Against an explicit splice of the same forwards; and an SAE that reconstructs exactly changes nothing."""
    from tide_lightning.diffusion import Site, splice

    data = make_data(pretrained, sites=SITES[:1])
    module = make_module(data, {"known_part": "mean", "modulation": "none"})
    monitor = MonitorFeatures(1, **(SMALL | {"num_images": 0}))
    trainer = make_trainer(tmp_path, 1, [monitor])
    trainer.fit(module, datamodule=data)
    logged = events(tmp_path / "run").Scalars(f"monitor/{SITES[0]}/loss_increase")[-1].value

    (batch,) = data.test_dataloader()
    call, denoiser = batch.call, data.denoiser
    assert call.x0 is not None
    assert call.noise is not None
    target = denoiser.schedule.target(call.x0, call.noise, call.raw_t)
    sae = module.sae(SITES[0])

    def reconstruct(x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(0, 1)
        t = torch.zeros(len(flat))
        return sae.decode(sae.encode(flat, t), t).reshape(x.shape)

    def loss() -> torch.Tensor:
        predicted = denoiser.predict(call.x_t, call.raw_t, call.conditioning)
        return (predicted - target).double().square().mean()

    with torch.no_grad():
        original = loss()
        with splice(denoiser.module, {Site.parse(SITES[0]): reconstruct}):
            spliced = loss()
    assert logged == pytest.approx(float(spliced / original - 1), rel=1e-3)


def test_watching_changes_nothing(pretrained: Path, tmp_path: Path) -> None:
    def fit(callbacks: list[Any]) -> TideModule:
        data = make_data(pretrained, source="both")
        module = make_module(data)
        make_trainer(tmp_path, 5, callbacks).fit(module, datamodule=data)
        return module

    watched, alone = fit([MonitorFeatures(2, **SMALL)]), fit([])
    for name, tensor in alone.state_dict().items():
        assert torch.equal(tensor, watched.state_dict()[name]), name


def test_an_sae_that_knows_the_true_noise_is_never_spliced(pretrained: Path, tmp_path: Path) -> None:
    data = make_data(pretrained, sites=SITES[:1])
    module = make_module(data, {"known_part": "noise_token"})
    make_trainer(tmp_path, 1, [MonitorFeatures(1, **SMALL)]).fit(module, datamodule=data)
    tags = events(tmp_path / "run").Tags()
    assert "over_timestep/explained_variance" in tags["images"]
    assert "over_timestep/loss_increase" not in tags["images"]
    assert not [tag for tag in tags["scalars"] if tag.startswith("monitor/")]


def test_held_out_trajectories_have_no_loss_to_increase(
    pretrained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = make_data(pretrained, sites=SITES[:1], source="denoise", heldout={"test_source": "denoise"})
    make_trainer(tmp_path, 1, [MonitorFeatures(1, **SMALL)]).fit(make_module(data), datamodule=data)
    images = events(tmp_path / "run").Tags()["images"]
    assert {"over_timestep/explained_variance", "samples/original_and_spliced"} <= set(images)
    assert "over_timestep/loss_increase" not in images
    assert "no loss increase: data.heldout.test_source is denoise" in caplog.text


def test_without_a_logger_it_says_so(pretrained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = make_data(pretrained)
    make_trainer(tmp_path, 1, [MonitorFeatures(1)], logger=False).fit(make_module(data), datamodule=data)
    assert "the trainer has no logger" in caplog.text


def test_profiles_put_noisy_latents_at_the_bottom() -> None:
    rate = torch.zeros(3, 10)
    rate[0, 9], rate[1, 0] = 0.5, 0.1  # the third never fires
    rows = draw_profiles(rate, "site").astype(int).sum(2)[30:360, 30:590]
    top, bottom = rows[:100], rows[-100:]
    assert top[:, :60].mean() > 2 * top[:, -60:].mean()
    assert bottom[:, -60:].mean() > 2 * bottom[:, :60].mean()
    draw_profiles(torch.zeros(3, 10), "nothing fires")


def test_images_need_no_pyplot() -> None:
    loaded = "matplotlib.pyplot" in sys.modules
    assert draw_images({"original": torch.zeros(2, 3, 8, 8), "spliced": torch.ones(2, 3, 8, 8)}).shape[2] == 3
    assert ("matplotlib.pyplot" in sys.modules) == loaded

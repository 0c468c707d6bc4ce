"""The protocol through Lightning's own test loop, on a real pipeline in miniature."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.torchrun import run_ranks
from tests.training.fitting import SITES, make_data, make_module, make_trainer
from tide_lightning.cores import core_to_spare
from tide_lightning.errors import UserError
from tide_lightning.evaluation import EvaluateProtocol, Plot, Section, Table, headlines
from tide_lightning.evaluation.budget import Budget
from tide_lightning.evaluation.figures import measured
from tide_lightning.evaluation.plots import save_image
from tide_lightning.files import write_json
from tide_lightning.training import TideModule

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",  # Lightning's own, with torch 2.13
)

HOSTILE = '<script>alert("1 & 2")</script>'
PROMPTS = [HOSTILE, "red ball", "$blue$ cube", "green cone"]
FLOORS = {"mean", "mean_t", "mean_t_position", "known", "pca_k", "pca_2k"}
SITE_FIGURES = {
    *("tokens", "mse", "nmse", "fvu", "explained_variance", "explained_variance_beyond_known"),
    *("cosine", "cosine_centred", "l0"),
}


class Flat(nn.Module):
    """An image's first numbers as its features."""

    num_features = 3

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :3]


def evaluate(
    pretrained: Path,
    folder: Path,
    state: dict[str, Tensor] | None = None,
    budget: float | None = None,
    **changes: Any,
) -> Path:
    """Run the protocol on a calibrated module; changes of the trainer."""
    data = make_data(pretrained, heldout={"num_test_samples": 24, "prompts": PROMPTS}, forward_batch_size=2)
    module = make_module(data)
    if state is None:
        module.calibrate(data)
    else:
        module.load_state_dict(state)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(f"prompts: ['{HOSTILE}']\n")
    protocol = EvaluateProtocol(
        str(folder), budget, num_bins=4, fidelity_samples=16, num_images=3, num_inference_steps=2, features=Flat()
    )
    make_trainer(folder, 1, [protocol], **changes).test(module, datamodule=data, verbose=False)
    return folder


@pytest.fixture(scope="module")
def run(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate(pretrained, tmp_path_factory.mktemp("runs") / "<b>name" / "stamp")


@pytest.fixture(scope="module")
def metrics(run: Path) -> dict[str, Any]:
    return read(run)


def read(folder: Path) -> dict[str, Any]:
    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is not JSON")

    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"), parse_constant=refuse)
    return found


def test_metrics_hold_what_the_contract_names(metrics: dict[str, Any]) -> None:
    assert set(metrics) == {"schema", "test_source", "sites", "floors", "fidelity", "throughput", "time"}
    assert metrics["schema"] == 1
    assert set(metrics["sites"]) == set(metrics["floors"]) == set(metrics["fidelity"]["sites"]) == set(SITES)
    for site in SITES:
        found = metrics["sites"][site]
        assert {*SITE_FIGURES, "alive_fraction"} <= set(found)
        assert found["tokens"] == 24 * 16
        assert found["l0"] == 4
        assert found["explained_variance"] == pytest.approx(1 - found["fvu"])
        assert [(row["low"], row["high"]) for row in found["by_timestep"]] == [
            (0, 0.25),
            (0.25, 0.5),
            (0.5, 0.75),
            (0.75, 1),
        ]
        assert set(found["by_timestep"][0]) == {*SITE_FIGURES, "low", "high"}
        floors = metrics["floors"][site]
        assert set(floors) == FLOORS
        assert all({"mse", "explained_variance", "by_timestep"} <= set(floor) for floor in floors.values())
        known = 1 - found["fvu"] / (1 - found["explained_variance_beyond_known"])
        assert floors["known"]["explained_variance"] == pytest.approx(known)
    fidelity = metrics["fidelity"]
    assert fidelity["samples"] == 16
    for case in (*fidelity["sites"].values(), fidelity["all"]):
        assert {"loss_original", "loss_spliced", "loss_ablated", "loss_known"} <= set(case)
        assert {"loss_increase", "loss_increase_known", "loss_recovered", "by_timestep"} <= set(case)
        assert {"loss_increase_even", "loss_increase_as_trained", "loss_increase_even_interval"} <= set(case)
    whole = fidelity["end_to_end"]
    assert (whole["images"], whole["real_images"]) == (3, 2)
    assert set(whole["original"]) == {"frechet"}
    similar = {name + end for name in ("cosine", "cosine_centred", "mse") for end in ("", "_interval")}
    assert {"frechet", "frechet_to_original", *similar} == set(whole["all"])
    assert set(whole["known_alone"]) == set(whole["sites"][SITES[0]]) == set(whole["all"])
    assert set(whole["absent"]) == {"clip_score"}
    assert set(whole["unrelated"]) == {"cosine", "cosine_centred", "mse"}
    assert metrics["throughput"]["tokens_per_second"] > 0
    assert set(metrics["time"]["lifetimes"]) == set(metrics["time"]["tracking"]["over_time"]) == set(SITES)
    tracked = metrics["time"]["tracking"]["over_time"][SITES[0]]
    assert tracked["tokens"] == 3 * 16
    assert len(tracked["times"]) == 2
    assert [(pair["from"], pair["to"]) for pair in metrics["time"]["tracking"]["over_blocks"]] == [tuple(SITES)]


def test_firing_rates_lie_in_the_run_folder(run: Path, metrics: dict[str, Any]) -> None:
    rates = load_file(run / "feature_times.safetensors")
    for site in SITES:
        assert rates[site].shape == (4 * 32, 4)
        tokens = torch.tensor([row["tokens"] for row in metrics["sites"][site]["by_timestep"]])
        mean_l0 = (rates[site].sum(0) * tokens).sum() / tokens.sum()
        assert float(mean_l0) == pytest.approx(metrics["sites"][site]["l0"], rel=1e-5)


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_report_is_self_contained_and_escapes_what_users_wrote(run: Path, metrics: dict[str, Any]) -> None:
    page = Page((run / "report" / "index.html").read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert page.words.count(HOSTILE) == 2  # the prompt and the config
    assert "<b>name/stamp" in page.words
    assert page.links
    assert all(link.startswith(("data:image/png;base64,", "#")) or link == "data:," for link in page.links)
    assert f"{metrics['sites'][SITES[0]]['explained_variance']:.4f}" in page.words
    assert "viewport" in (run / "report" / "index.html").read_text(encoding="utf-8")


def test_every_column_is_explained(metrics: dict[str, Any]) -> None:
    for make in (
        headlines.overview,
        headlines.reconstruction,
        headlines.floors,
        headlines.fidelity,
        headlines.similarity,
    ):
        table = make(metrics)
        assert table.rows
        assert set(table.columns) == set(table.head[1:])


def test_plots_lie_beside_the_report(run: Path) -> None:
    names = {path.name for path in (run / "report").iterdir()}
    plots = {"explained_variance.png", "loss_increase.png", "l0.png", "firing_frequency.png"}
    plots |= {"feature_times.png", "feature_stays.png"}
    assert names == {"index.html", "images.png", *plots}
    page = (run / "report" / "index.html").read_text(encoding="utf-8")
    assert "In the mean a latent lives for " in page
    assert "Of what fires on a token at first, " in page
    for name in plots:
        with Image.open(run / "report" / name) as picture:
            assert picture.width > 500
    with Image.open(run / "report" / "images.png") as picture:
        assert picture.size == (5 * 16, 3 * 16)  # five cases, three prompts


def test_images_reach_tensorboard(pretrained: Path, tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="", version="", default_hp_metric=False)
    evaluate(pretrained, tmp_path / "run", logger=logger)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["images"] == ["test/images"]


def test_parts_can_be_left_out(pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_data(pretrained)
    module = make_module(data)
    module.calibrate(data)
    protocol = EvaluateProtocol(fidelity_samples=0, num_images=0)
    trainer = make_trainer(tmp_path, 1, [protocol])
    trainer.test(module, datamodule=data, verbose=False)
    assert set(read(tmp_path / "run")) == {
        "schema",
        "test_source",
        "sites",
        "floors",
        "throughput",
        "time",
    }  # into the log folder
    assert not (tmp_path / "run" / "report" / "loss_increase.png").exists()
    printed = capsys.readouterr().out
    assert SITES[0] in printed
    assert "metrics.json" in printed


class CountSites(Callback):
    """Measures something of its own."""

    def test_section(self, trainer: Trainer, pl_module: LightningModule, budget: Budget) -> Section:
        assert budget.left() is None
        assert isinstance(pl_module, TideModule)
        table = Table(["name", "count"], [[HOSTILE, "2"]], "a note")
        picture = Plot("a_plot", save_image(torch.zeros(3, 4, 4)), "a caption")
        return Section("counts", "Counted", {"sites": len(pl_module.sites), "none": float("nan")}, [table, picture])


def test_other_callbacks_add_sections(pretrained: Path, tmp_path: Path) -> None:
    data = make_data(pretrained)
    module = make_module(data)
    module.calibrate(data)
    protocol = EvaluateProtocol(str(tmp_path), fidelity_samples=0, num_images=0)
    make_trainer(tmp_path, 1, [CountSites(), protocol]).test(module, datamodule=data, verbose=False)
    assert read(tmp_path)["counts"] == {"sites": 2}
    page = Page((tmp_path / "report" / "index.html").read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert "Counted" in page.words
    assert HOSTILE in page.words
    assert (tmp_path / "report" / "a_plot.png").is_file()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_json(tmp_path / "metrics.json", {"old": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"new": float("nan")})
    assert json.loads(path.read_text()) == {"old": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["metrics.json"]
    with pytest.raises(UserError, match="cannot be written"):
        write_json(path / "inside" / "a-file.json", {})


def test_what_was_not_measured_is_left_out() -> None:
    nan = float("nan")
    assert measured({"a": nan, "b": [{"c": nan, "d": 1.0}], "e": {"f": nan}}) == {"b": [{"d": 1.0}], "e": {}}


def test_a_budget_cuts_and_says_so(pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = read(evaluate(pretrained, tmp_path / "run", budget=1e-6))  # no time at all: the least of everything
    assert found["sites"][SITES[0]]["tokens"] == 8 * 16
    assert found["fidelity"]["samples"] == 8
    assert found["fidelity"]["end_to_end"]["images"] == 2
    assert found["budget"]["cut"] == {
        "calibration samples": {"done": 8, "of": 64},
        "held-out samples": {"done": 8, "of": 24},
        "samples spliced for fidelity": {"done": 8, "of": 16},
        "images a case": {"done": 2, "of": 3},
    }
    page = (tmp_path / "run" / "report" / "index.html").read_text(encoding="utf-8")
    printed = capsys.readouterr().out
    for text in (page, printed):
        assert "held-out samples: 8 of 24" in text


def test_a_long_budget_cuts_nothing(pretrained: Path, tmp_path: Path, metrics: dict[str, Any]) -> None:
    found = read(evaluate(pretrained, tmp_path / "run", budget=60))
    assert found["budget"]["cut"] == {}
    for part in ("sites", "floors", "fidelity", "time"):
        assert found[part] == metrics[part]


def test_a_test_on_one_core_or_two_finds_the_same(
    pretrained: Path, tmp_path: Path, metrics: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cores = 1 if core_to_spare(torch.device("cpu")) else 64
    monkeypatch.setattr("tide_lightning.cores.usable_cores", lambda: cores)
    found = read(evaluate(pretrained, tmp_path / "run"))
    assert {**found, "throughput": {}} == {**metrics, "throughput": {}}


def test_senseless_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="--budget 0"):
        EvaluateProtocol(budget=0)
    with pytest.raises(UserError, match="num_bins"):
        EvaluateProtocol(num_bins=0)


def _work(rank: int, pretrained: Path, folder: Path, state: Path) -> None:
    calibrated = torch.load(state, weights_only=True)
    evaluate(pretrained, folder, calibrated, strategy="ddp", devices=2)
    evaluate(pretrained, folder.with_name("hasty"), calibrated, budget=1e-6, strategy="ddp", devices=2)


def test_two_ranks_find_what_one_finds(pretrained: Path, tmp_path: Path, run: Path, metrics: dict[str, Any]) -> None:
    data = make_data(pretrained, heldout={"prompts": PROMPTS}, forward_batch_size=2)
    module = make_module(data)
    module.calibrate(data)
    torch.save(module.state_dict(), tmp_path / "state")
    run_ranks(_work, pretrained, tmp_path / "run", tmp_path / "state")
    found = read(tmp_path / "run")
    assert found["throughput"]["ranks"] == 2
    for part in ("sites", "floors", "fidelity", "time"):
        assert_close(found[part], metrics[part], part)
    hasty = read(tmp_path / "hasty")
    assert hasty["sites"][SITES[0]]["tokens"] == 8 * 16
    assert hasty["fidelity"]["end_to_end"]["images"] == 3  # both ranks sampled a chunk


def assert_close(found: Any, expected: Any, path: str) -> None:
    if isinstance(expected, dict):
        assert set(found) == set(expected), path
        for name in expected:
            assert_close(found[name], expected[name], f"{path}.{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), path
        for number, (a, b) in enumerate(zip(found, expected, strict=True)):
            assert_close(a, b, f"{path}.{number}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=2e-4, abs=1e-5), path
    else:
        assert found == expected, path

"""`tide compare` on runs whose figures and features are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from tests.evaluation.constructed import make_sae
from tide_lightning.cli import main
from tide_lightning.evaluation.assignment import assign
from tide_lightning.evaluation.comparison.compared import value_at
from tide_lightning.evaluation.comparison.reproducibility import match
from tide_lightning.evaluation.matching import random_like
from tide_lightning.evaluation.settings import flat_settings

SITE = "transformer_blocks.1"
HOSTILE = "<script>alert(1)</script>"


def make_run(
    root: Path,
    name: str,
    seed: int,
    explained: float,
    rows: Tensor,
    k: int = 2,
    increase: float = 0.2,
    tokens: int = 64,
    test_source: str = "noise",
) -> None:
    """A tested run's folder, with an SAE of these decoder rows."""
    folder = root / name / "20260101-000000"
    folder.mkdir(parents=True)
    config = {
        "seed_everything": seed,
        "run_name": name,
        "data": {"pretrained": HOSTILE, "seed": seed},
        "model": {"sae": {"class_path": "tide_lightning.saes.TideSAE", "init_args": {"k": k}}},
        "trainer": {"callbacks": [{"class_path": "a.Resample", "init_args": {"every": 5, "seed": seed}}]},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    bins = [{"low": 0.0, "high": 1.0, "explained_variance": explained}]
    metrics: dict[str, Any] = {
        "schema": 1,
        "test_source": test_source,
        "sites": {SITE: {"tokens": tokens, "explained_variance": explained, "by_timestep": bins}},
        "fidelity": {"all": {"loss_increase": increase}, "sites": {}},
    }
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    sae = make_sae(k=k, known_part="mean", modulation="none")
    with torch.no_grad():
        sae.W_dec.copy_(rows)
    sae.save_pretrained(folder / "saes" / SITE, site=SITE)
    rates = torch.ones(len(rows), 4)
    rates[-1] = 0  # the last latent never fires
    save_file({SITE: rates}, folder / "feature_times.safetensors")
    (folder.parent / "latest").symlink_to(folder.name)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rows = random_like(torch.zeros(12, 6), seed=1)
    permuted = torch.cat([rows[:11].roll(3, 0), -rows[11:]])  # what never fires has nothing to say
    make_run(tmp_path, "mine-0", 0, 0.9, rows)
    make_run(tmp_path, "mine-1", 1, 0.8, permuted)
    make_run(tmp_path, "other", 0, 0.95, rows, k=3, increase=0.5, tokens=2048)
    return tmp_path


def test_seeds_are_one_group_and_differences_are_listed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["mine-0", "mine-1", "other"]
    assert main(["compare", *names, "--root", str(root), "--out", str(root / "page")]) == 0
    printed = capsys.readouterr().out
    for words in (
        "mine  2 runs, seeds 0, 1",
        "other  1 run",
        "model.sae.TideSAE.k",
        "0.8500 (0.8000 to 0.9000)",
        "20.0%",
    ):
        assert words in printed
    assert "seed_everything" not in printed
    assert "not measured alike  held-out tokens a site: 64 to 2,048" in printed
    found = json.loads((root / "page" / "compare.json").read_text(encoding="utf-8"))
    mine, other = found["groups"]
    assert mine["settings"] == {"model.sae.TideSAE.k": "2"}
    assert other["settings"] == {"model.sae.TideSAE.k": "3"}
    assert mine["figures"][0] == {
        "site": SITE,
        "figure": "explained variance",
        "mean": pytest.approx(0.85),
        "low": pytest.approx(0.8),
        "high": pytest.approx(0.9),
        "number": 2,
    }
    features = mine["reproducibility"][SITE]  # the same features in another order
    assert features["max_cosine"]["mean"] == pytest.approx(1)
    assert features["matched_share"]["mean"] == 1
    assert features["matched_share_chance"]["mean"] < 1
    assert other["reproducibility"] == {}


def test_walked_and_noised_tokens_are_told_apart(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = random_like(torch.zeros(12, 6), seed=1)
    make_run(root, "walked", 0, 0.9, rows, test_source="denoise")
    assert main(["compare", "mine-0", "mine-1", "--root", str(root)]) == 0
    assert "of trajectories" not in capsys.readouterr().out
    assert main(["compare", "mine-0", "walked", "--root", str(root)]) == 0
    assert "not measured alike  held-out tokens: of noised samples and of trajectories" in capsys.readouterr().out


def test_the_page_needs_nothing_else_and_escapes(root: Path) -> None:
    other = root / "other" / "latest" / "config.yaml"
    other.write_text(other.read_text(encoding="utf-8").replace(HOSTILE, HOSTILE + "2"), encoding="utf-8")
    assert main(["compare", str(root / "mine-0"), str(root / "other"), "--out", str(root / "page")]) == 0
    page = (root / "page" / "index.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;2" in page
    assert "0.9500 ★" in page
    assert page.count("Most explained variance: ") == 2  # of the headlines and of the curves
    assert "with 0.9500, then " in page
    assert "<li>held-out tokens a site: 64 to 2,048</li>" in page
    assert page.count('src="data:image/png;base64,') == page.count("<img") == 3
    assert "http" not in page


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["nowhere"], "nowhere: no run folder there"),
        (["mine-0", "mine-0"], "the same run is named more than once"),
        (["untested"], "not tested yet; do it with `tide test --run untested`"),
        (["old"], "not what this version writes"),
        (["broken"], "cannot be read"),
    ],
)
def test_folders_that_are_no_tested_runs(
    root: Path, names: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "untested").mkdir()
    (root / "untested" / "config.yaml").touch()
    for name, text in (("old", '{"schema": 0}'), ("broken", "{")):
        (root / name).mkdir()
        (root / name / "config.yaml").touch()
        (root / name / "metrics.json").write_text(text)
    assert main(["compare", *names, "--root", str(root)]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_settings_are_named_by_classes_and_not_by_places() -> None:
    callbacks = [{"class_path": "a.One", "init_args": {"x": 1, "y": [2, None]}}, {"class_path": "b.Two"}]
    assert flat_settings({"callbacks": callbacks, "flag": True, "empty": {}}) == {
        "callbacks": "One, Two",
        "callbacks.One.x": "1",
        "callbacks.One.y": "[2, null]",
        "flag": "true",
        "empty": "{}",
    }
    assert flat_settings(None) == {}


def test_reproducibility_of_dictionaries_that_share_half() -> None:
    a, b = (random_like(torch.zeros(200, 64), seed=seed) for seed in (1, 2))
    half = torch.cat([a[:100], b[100:]])
    found = match(a, half)
    assert found["matched_share"] == 0.5
    assert found["matched_share_chance"] == 0
    expected = (100 + 100 * found["max_cosine_chance"]) / 200
    assert found["max_cosine"] == pytest.approx(expected, abs=0.02)
    assert match(a, a[:50])["matched_share"] == 0.25  # of the larger dictionary
    assert (assign(a @ a.mT) == torch.arange(200)).all()


def test_figures_of_meaning_are_found_whatever_the_ground_is_called() -> None:
    meaning = {"block": {"mean": {"f1": {"best_latent": 0.75}}}}
    path = "GROUND/meaning/*/mean/f1/best_latent"
    for ground in ("toybox", "photos"):
        assert value_at({"sites": {"block": {}}, ground: {"meaning": meaning}}, path, "block") == 0.75
    assert value_at({"sites": {"block": {}}}, path, "block") is None

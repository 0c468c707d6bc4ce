"""`tide publish`: a repository that is a run, without what is private."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from tests.explore.conftest import write_run
from tests.saes.exchange.test_places import hub, publish  # noqa: F401 - a fixture
from tide_lightning.cli import main
from tide_lightning.explore import open_run
from tide_lightning.saes import SAE
from tide_lightning.sharing.cleaning import cleaned

SITES = ["transformer_blocks.3", "transformer_blocks.7:update"]
METRICS = {
    "schema": 1,
    "sites": {SITES[0]: {"explained_variance": 0.91, "alive_fraction": 0.5, "l0": 8.0, "tokens": 100}},
    "floors": {SITES[0]: {"known": {"explained_variance": 0.6}}},
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = write_run(tmp_path / "run", SITES, prompts=str(tmp_path / "secret-project" / "prompts.txt"))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config |= {"runs": str(tmp_path), "trainer": {"default_root_dir": str(tmp_path), "max_steps": 3}}
    config["data"]["hub_token"] = "hf_" + "a" * 30
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    (folder / "report").mkdir()
    (folder / "report" / "index.html").write_text("<html></html>")
    (folder / "report" / "l0.png").write_bytes(b"")
    (folder / "report" / "loss_increase.png").write_bytes(b"")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"large")
    return folder


def complaint(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    capsys.readouterr()
    assert main(list(args)) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("tide: error:"))
    return line


def test_what_is_laid_out_is_a_run_by_folder_and_by_hub_id(run: Path, hub: Path) -> None:  # noqa: F811
    assert main(["publish", str(run), "someone/saes", "--license=apache-2.0", "--out=published"]) == 0
    published = Path("published")
    files = sorted(path.relative_to(published).as_posix() for path in published.rglob("*") if path.is_file())
    folders = [path.name for path in sorted((published / "saes").iterdir())]
    inside = [f"saes/{name}/{file}" for name in folders for file in ("cfg.json", "sae.safetensors")]
    pictures = ["report/l0.png", "report/loss_increase.png"]
    assert files == sorted(["README.md", "config.yaml", "metrics.json", "report/index.html", *pictures, *inside])

    publish(published, hub, "someone/saes")
    for source in ("someone/saes", published, published.absolute()):
        assert list(open_run(source, "cpu").saes) == SITES
        for site in SITES:
            loaded, original = SAE.from_pretrained(source, site=site), SAE.from_pretrained(run, site=site)
            assert torch.equal(loaded.W_enc, original.W_enc)


def test_a_run_from_the_hub_imports_and_writes_nothing_of_its_own(
    run: Path,
    hub: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["publish", str(run), "someone/saes", "--license=mit", "--out=published"]) == 0
    monkeypatch.syspath_prepend(Path.cwd())
    Path("trap.py").write_text(f"open({str(Path.cwd() / 'it-ran')!r}, 'w').close()\n")
    path = Path("published") / "config.yaml"
    (path.parent / "saes.yaml").write_text("callbacks: [{class_path: trap.Trap}]\n")
    config = yaml.safe_load(path.read_text())
    odd: list[tuple[str, object, str]] = [
        ("trainer", {"callbacks": [{"class_path": "trap.Trap"}]}, "would import trap.Trap"),
        ("trainer", {"callbacks": "trap.Trap"}, "would import trap.Trap"),
        ("trainer", {"callbacks": "[{class_path: trap.Trap}]"}, "would import trap.Trap"),
        ("trainer", "saes.yaml", "reads settings from saes.yaml"),
        ("model", {"sae": "lightning.pytorch.callbacks.callback.Any"}, "would import lightning"),
        ("model", {"sae": "tide_lightning.cli.os.system"}, "would import tide_lightning.cli.os.system"),
        ("codes", {"folder": "/elsewhere"}, "writes into /elsewhere"),
        ("data", {**config["data"], "prompts": "/etc/passwd"}, "reads prompts from /etc/passwd"),
    ]
    for number, (key, value, said) in enumerate(odd):
        path.write_text(yaml.safe_dump({**config, key: value}))
        publish(Path("published"), hub, f"someone/saes{number}")
        told = complaint(capsys, "test", f"--run=someone/saes{number}")
        assert said in told
        assert "give --trust" in told
        assert not Path("it-ran").exists()
    sys.modules.pop("trap", None)  # other tests have one as well
    assert "trap.Trap" in complaint(capsys, "test", "--run=someone/saes0", "--trust")
    assert Path("it-ran").exists()
    sys.modules.pop("trap", None)


def test_nothing_private_is_published(run: Path) -> None:
    assert main(["publish", str(run), "someone/saes", "--license=mit", "--out=published"]) == 0
    for path in Path("published").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(run.parent).encode() not in content, path
            assert b"secret-project" not in content, path
            assert b"hf_aaa" not in content, path
    config = yaml.safe_load(Path("published/config.yaml").read_text())
    assert config["trainer"] == {"max_steps": 3}
    assert config["data"]["prompts"] == "prompts.txt"
    assert config["data"]["pretrained"] == "package:tide_lightning.grounds.toybox/pipeline"


def test_the_card_says_what_was_measured_beside_its_floors(run: Path) -> None:
    publishing = ["publish", str(run), "someone/saes", "--license=apache-2.0", "--base_model=a/denoiser"]
    assert main([*publishing, "--out=published"]) == 0
    card = ModelCard.load(Path("published/README.md"))
    assert (card.data.library_name, card.data.base_model, card.data.license) == (
        "tide-lightning",
        "a/denoiser",
        "apache-2.0",
    )
    assert f"| {SITES[0]} | TideSAE | 256 | 128 | 8 | input_token |" in card.text
    (figures,) = (line for line in card.text.splitlines() if line.startswith(f"| {SITES[0]} | 0.91"))
    assert "0.6000" in figures
    assert f'SAE.from_pretrained("someone/saes", site="{SITES[0]}")' in card.text
    assert card.text.count("![") == card.text.count("![Loss increase by time](report/loss_increase.png)") == 1
    (run / "metrics.json").unlink()
    assert main([*publishing, "--out=untested"]) == 0
    assert "These SAEs were not tested" in Path("untested/README.md").read_text()


def test_mistakes_are_told_before_anything_is_written(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tide_lightning.sharing.publishing.get_token", lambda: None)
    publishing = ["publish", str(run), "someone/saes"]
    assert "--license is missing" in complaint(capsys, *publishing)
    assert "you are not logged in to the hub" in complaint(capsys, *publishing, "--license=mit")
    assert "not the id of a repository" in complaint(capsys, "publish", str(run), "a b/c", "--license=mit")
    assert "name it as user/name" in complaint(capsys, "publish", str(run), "saes", "--license=mit")
    assert "is not empty" in complaint(capsys, *publishing, "--license=mit", f"--out={run}")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["pretrained"] = str(run.parent)
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert "name its hub id by --base_model" in complaint(capsys, *publishing, "--license=mit", "--out=published")
    config["data"]["pretrained"] = "package:tide_lightning.grounds.toybox/pipeline"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    weights = next((run / "saes").glob("*/sae.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "cannot be read" in complaint(capsys, *publishing, "--license=mit", "--out=published")


def test_what_is_cleaned_away() -> None:
    private = {
        "api_key": "x",
        "wandb": {"password": "y", "project": "p"},
        "url": "https://me:word@host/x",
        "files": ["/home/me/a.txt", "b.txt", "~/c.parquet:text", "C:\\Users\\me\\d.csv"],
        "logger": {"save_dir": "/x"},
        "samples": 4,
        "dead_after_tokens": 5,
        "tokens_per_sample": 3,
    }
    assert cleaned(private) == {
        "wandb": {"project": "p"},
        "files": ["a.txt", "b.txt", "c.parquet:text", "d.csv"],
        "samples": 4,
        "dead_after_tokens": 5,
        "tokens_per_sample": 3,
    }

"""A latent's name and score are the same wherever it is shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.explore.conftest import SITES, scenes, write_run
from tide_lightning.cli import main
from tide_lightning.explore import open_run
from tide_lightning.explore.names import Name, read_names
from tide_lightning.explore.play.studio import Studio

_ROW = re.compile(r"│ (\S+)/(\d+) +│ (.*?) +│")


def test_commands_call_a_latent_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    folder, atlas = tmp_path / "run" / "20260101-000000", tmp_path / "atlas"
    write_run(folder, SITES[:1], images=scenes("train", 64), heldout={"images": scenes("test", 64)}, seed=0)
    assert main(["atlas", str(folder), "--out", str(atlas), "--samples", "64", "--bins", "1", "--device", "cpu"]) == 0
    names = {key: str(name) for key, name in read_names(folder).items()}
    capsys.readouterr()
    for where in (folder, atlas):
        assert main(["find", str(where), "red", "--top", "60"]) == 0
        rows = _ROW.findall(capsys.readouterr().out)
        assert len(rows) > 10
        told = {(site, int(latent)): called for site, latent, called in rows}
        assert told == {key: names.get(key, "") for key in told}
        assert set(told.values()) - {""}
    (site, latent), name = next(iter(names.items()))
    args = ["steer", str(folder), "--prompt", "a cube", "--steps", "1", "--latent", f"{site}/{latent}"]
    assert main([*args, "--amount", "1", "--out", str(tmp_path / "one.png"), "--device", "cpu"]) == 0
    assert f"{site}/{latent} “{name}” " in capsys.readouterr().out
    listed = Studio(open_run(folder, device="cpu"), steps=1).draw({"prompt": "a cube"})["active"]
    shown = {(one["site"], one["latent"]): Name(one["name"], one["tells"]) for one in listed if "name" in one}
    assert {key: str(shown[key]) for key in shown} == {key: names[key] for key in shown} != {}


def test_a_prompt_says_the_first_of_two_values() -> None:
    assert [Name(text, 1.0).word for text in ("colour: red or yellow", "size: small", "nearby")] == [
        "red",
        "small",
        "nearby",
    ]

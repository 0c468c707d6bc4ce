"""`tide steer`: what is written and said, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.explore.conftest import D_SAE, SITES, scenes, write_run
from tide_lightning.cli import main
from tide_lightning.explore import open_run
from tide_lightning.explore.names import Name, read_names, write_names
from tide_lightning.explore.play.studio import Studio
from tide_lightning.explore.steer_command import first_found
from tide_lightning.saes.whole import sealed

FAST = ["--prompt", "a red cube", "--steps", "2", "--device", "cpu"]


def test_a_strip_beside_the_original(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    latents = f"{SITES[0]}/3,{SITES[1]}/4:scale:2"
    args = ["--latent", latents, "--amount", "0,20", "--region", "0,0,0.5,1", "--half", "conditional"]
    out = tmp_path / "new" / "strip.png"
    assert main(["steer", str(run_folder), *FAST, *args, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"{SITES[0]}/3 " in said
    assert "2 edits, amount 20: judges read" in said
    assert "% of the range where it steers, by" in said
    assert "next  tide play" in said
    assert [path.name for path in out.parent.iterdir()] == ["strip.png"]
    with Image.open(out) as picture:
        assert picture.width > picture.height  # three columns, two rows


def test_latents_that_bring_their_amounts_make_one_image(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["steer", str(run_folder), *FAST, "--region", "0,0,1,1", "--out", str(tmp_path / "one.png"), "--latent"]
    for latents, told in (
        (f"{SITES[0]}/3:add:2", "\nadd 2: "),
        (f"{SITES[0]}/3:scale:2,{SITES[1]}/4:ablate", "\n2 edits: "),
    ):
        assert main([*args, latents]) == 0
        said = capsys.readouterr().out
        assert told in said
        assert "the original, 1 steered" in said


def test_an_amount_of_nothing_changes_no_bit(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "same.png"
    assert main(["steer", str(run_folder), *FAST, "--latent", f"{SITES[0]}/3", "--amount", "0", "--out", str(out)]) == 0
    assert "add 0: not a bit differs" in capsys.readouterr().out
    with Image.open(out) as picture:
        row = np.asarray(picture)[30:150]
    half = row.shape[1] // 2
    assert np.array_equal(row[:, 8:168], row[:, half + 4 : half + 164])


def test_words_steer_by_the_first_that_is_found_and_1x_is_the_same_in_find_steer_and_play(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "named" / "20260101-000000", SITES, images=scenes("train", 64), seed=0)
    opened = open_run(folder, device="cpu")
    first = first_found(opened, "red")
    key = first.site, first.latent
    write_names(folder, {key: Name("colour: red", 0.9)}, SITES)
    args = ["steer", str(folder), *FAST, "--region", "0,0,1,1"]
    found, named = tmp_path / "found.png", tmp_path / "named.png"

    assert main(["find", str(folder), "red", "--device", "cpu", "--top", "1", "--sites", first.site]) == 0
    assert f"{first.amount / first.rise:.1f}x" in capsys.readouterr().out

    assert main([*args, "--find", "red", "--out", str(found)]) == 0
    said = capsys.readouterr().out
    assert f"{first.site}/{first.latent} " in said
    assert f"1x is as far as the word “red” moves it, {first.rise:.3g} in the SAE's unit" in said
    assert f"red: add {first.amount / first.rise:.3g}x: " in said

    edit = {"site": first.site, "latent": first.latent, "times": 1}
    shown = Studio(opened, 2).steer({"prompt": "a blue cube", "seed": 1, "edits": [edit]})["edits"][0]  # by its name
    assert (shown["amount"], shown["unit"]) == (first.rise, first.rise)
    assert shown["means"] == "as far as the word “red” moves it"

    as_named = ["--latent", f"{first.site}/{first.latent}", "--amount", str(first.amount), "--half", "conditional"]
    assert main([*args, *as_named, "--out", str(named)]) == 0
    assert f"1x is as far as the word “red” moves it, {first.rise:.3g} in the SAE's unit" in capsys.readouterr().out
    first_strip, second_strip = (np.asarray(Image.open(path))[30:150] for path in (found, named))
    assert np.array_equal(first_strip, second_strip)


def test_amounts_are_told_in_times_of_what_the_word_does_and_names_say_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "named" / "20260101-000000", SITES[:1], images=scenes("train", 64), seed=0)
    write_names(folder, {(SITES[0], 3): Name("colour: red", 0.9)}, SITES[:1])
    args = ["steer", str(folder), "--steps", "2", "--device", "cpu", "--latent", f"{SITES[0]}/3"]
    out = ["--out", str(tmp_path / "one.png")]
    assert main([*args, "--prompt", "a blue cube", "--amount", "0.5x,1x", *out]) == 0
    said = capsys.readouterr().out
    assert f"{SITES[0]}/3 “colour: red (0.90)” " in said
    assert "add 0.5x: judges read" in said
    assert read_names(folder) == {(SITES[0], 3): Name("colour: red", 0.9)}
    (folder / "names.json").write_text("[]")
    assert main([*args, *out]) == 2
    assert "build the atlas again" in capsys.readouterr().err


def test_names_of_other_weights_are_forgotten(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "one" / "two", SITES)
    write_names(folder, {(site, 1): Name("wall: mint", 0.8) for site in SITES}, SITES)
    write_names(folder, {(SITES[0], 2): Name("small", 0.7)}, SITES[:1])
    assert set(read_names(folder)) == {(SITES[0], 2), (SITES[1], 1)}
    cfg = folder / "saes" / SITES[0] / "cfg.json"
    cfg.write_text(json.dumps(sealed(json.loads(cfg.read_text()) | {"sha256": "of another fit"})))
    assert set(read_names(folder)) == {(SITES[1], 1)}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--latent", f"{SITES[0]}/{D_SAE}"], f"site {SITES[0]} has latents 0 to {D_SAE - 1}"),
        (["--latent", "transformer_blocks.2/1"], f"there are {SITES[0]}, {SITES[1]}"),
        (["--latent", "transformer_block.3/1"], f"did you mean {SITES[0]}?"),
        (["--latent", SITES[0]], "write SITE/NUMBER"),
        ([], "name at least one"),
        (["--latent", f"{SITES[0]}/1", "--find", "red"], "give --find or --latent, not both"),
        (["--find", "red", "--amount", "much"], "give numbers"),
        (["--latent", f"{SITES[0]}/1", "--window", "0.4,0.45"], "holds none of the 2 steps, which are at t = 1, 0.5"),
        (["--latent", f"{SITES[0]}/1", "--window", "0.4"], "give 2 numbers"),
        (["--latent", f"{SITES[0]}/1", "--amount", "much"], "give numbers"),
        (["--latent", f"{SITES[0]}/1", "--amount", "1x,manyx"], "give numbers"),
        (["--latent", f"{SITES[0]}/1", "--region", "here"], "give four numbers"),
        (["--latent", f"{SITES[0]}/1:explode"], "choose one of add, scale"),
        (["--latent", f"{SITES[0]}/1", "--region", "0,0,0.01,0.01"], "holds no patch"),
        (["--latent", f"{SITES[0]}/1", "--steps", "0"], "at least 1"),
        (["--latent", f"{SITES[0]}/1", "--seed", "-1"], "seed -1: take 0 or more"),
        (["--latent", f"{SITES[0]}/1", "--guidance_scale", "nan"], "guidance_scale: Expected a "),
        (["--latent", f"{SITES[0]}/1", "--steps", "90", "--window", "0.5001,0.5002"], "90 steps, whose nearest are at"),
        (["--latent", f"{SITES[0]}/1", "--out", "film.mpg"], "name a picture's file, such as film.png"),
        (["--latent", f"{SITES[0]}/1", "--out", "film.mp17"], "name a picture's file, such as film.png"),
    ],
)
def test_what_cannot_be_is_one_clear_line(
    run_folder: Path, args: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["steer", str(run_folder), *FAST, *args]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert said in told.err

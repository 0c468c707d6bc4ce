"""Erasure: what is multiplied, what is counted, who judges."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.explore.conftest import SITES
from tide_lightning.cli import main
from tide_lightning.diffusion.counters import normal, stream
from tide_lightning.errors import UserError
from tide_lightning.explore import Found, Run
from tide_lightning.explore.erasure import erase, find_concept
from tide_lightning.explore.erasure_command import load_judge
from tide_lightning.grounds.toybox.judge import ToyboxJudge
from tide_lightning.intervene.recording import walk_prompts, watch

RED = ["a red cube", "a red ring", "a small red cone", "a large red sphere"]
OTHERS = ["a blue cube", "a green ring", "a small white cone", "a large cyan sphere"]
SETTINGS = {"num_inference_steps": 2, "guidance_scale": 3.0}


def is_dark(images: torch.Tensor) -> torch.Tensor:
    """A judge that is a plain function."""
    return (images.mean((1, 2, 3)) < 0).float()


def noise(run: Run, count: int) -> torch.Tensor:
    return torch.stack([normal(stream(4, i), run.denoiser.latent_shape) for i in range(count)])


def test_a_factor_of_one_is_the_original_and_others_are_not(run: Run) -> None:
    latents = [Found(SITES[0], latent, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0) for latent in range(40)]
    seen: list[int] = []

    def judge(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return torch.tensor([0.9, 0.1, 0.7, 0.2])

    first, one, off = erase(
        run.denoiser,
        run.saes,
        latents,
        [1.0, 0.0],
        RED[:3],
        OTHERS[:1],
        noise(run, 4),
        judge,
        **SETTINGS,  # type: ignore[arg-type]
    )
    assert seen == [4, 4, 4]
    assert (first.factor, first.changed, one.changed) == (1, 0, 0)
    assert torch.equal(first.suppressed, one.suppressed)
    assert not torch.equal(first.suppressed, off.suppressed)
    assert off.changed > 0
    assert first.shown == pytest.approx(2 / 3)
    assert first.shown_elsewhere == 0


def test_the_concepts_latents_fire_with_it_and_hardly_without(run: Run) -> None:
    prompts = RED, OTHERS[:2]
    found = find_concept(run.denoiser, run.saes, *prompts, noise(run, 4), count=3, least_share=0.6, **SETTINGS)  # type: ignore[arg-type]
    assert found
    for site in SITES:
        scores = [one.score for one in found if one.site == site]
        assert len(scores) <= 3
        assert scores == sorted(scores, reverse=True)
    for one in found:
        assert one.share >= 0.6
    one = found[0]
    walks = [walk_prompts(some, noise(run, 4), **SETTINGS) for some in (RED, OTHERS[:2] * 2)]
    own, other = (watch(run.denoiser, run.saes, walk) for walk in walks)
    level = own.peak[one.site][..., one.latent].mean()
    with_it, without = (seen.mean[one.site][..., one.latent].mean() for seen in (own, other))
    assert [float(level), float(with_it / (with_it + without))] == pytest.approx([one.level, one.share])


def test_the_command_writes_picture_and_figures(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = {"suppress": RED, "keep": OTHERS}
    files = []
    for name, prompts in lists.items():
        path = tmp_path / f"{name}.txt"
        path.write_text("\n".join(prompts), encoding="utf-8")
        files += [f"--{name}", str(path)]
    out = tmp_path / "erased.png"
    judge = ["--judge", "tide_lightning.grounds.toybox.judge.ToyboxJudge", "--judge_of", "colour:red"]
    args = [*files, *judge, "--factor", "0,-2", "--steps", "2", "--device", "cpu", "--out", str(out)]
    assert main(["erase", str(run_folder), *args]) == 0
    said = capsys.readouterr().out
    assert "times -2: the concept is seen in" in said
    figures = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert [one["factor"] for one in figures["factors"]] == [1, 0, -2]
    assert figures["prompts"]["suppress"] == RED[1::2]
    assert out.is_file()


@pytest.mark.parametrize(
    ("path", "made_with", "said"),
    [
        ("", None, "name a classifier by its class path"),
        ("tide_lightning.nowhere.Judge", None, "cannot be imported"),
        ("tide_lightning.grounds.toybox.judge.Nobody", None, "cannot be imported"),
        ("tide_lightning.grounds.toybox.judge.ToyboxJudge", None, "--judge_of"),
        ("tide_lightning.grounds.toybox.judge.ToyboxJudge", "colour:mauve", "knows no 'colour:mauve'"),
        ("tide_lightning.grounds.toybox.factors.SHAPES", None, "cannot be called"),
    ],
)
def test_judges_that_do_not_exist_are_told(path: str, made_with: str | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_judge(path, made_with)


def test_judges_are_classes_or_functions() -> None:
    images = torch.zeros(2, 3, 64, 64) - 0.5
    assert load_judge("tests.explore.test_erasure.is_dark", None)(images).tolist() == [1, 1]
    assert isinstance(load_judge("tide_lightning.grounds.toybox.judge.ToyboxJudge", "wall:mint"), ToyboxJudge)
    assert load_judge("tide_lightning.grounds.toybox.judge.ToyboxJudge", "wall:mint")(images).shape == (2,)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "name a classifier"),
        (["--judge", "tests.explore.test_erasure.is_dark"], "--suppress: give a file of prompts"),
        (["--judge", "tests.explore.test_erasure.is_dark", "--suppress", "nowhere.txt"], "cannot read prompt file"),
        (["--count", "0"], "at least 1"),
        (["--factor", "much"], "give numbers"),
    ],
)
def test_what_cannot_be_is_one_clear_line(
    run_folder: Path, args: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["erase", str(run_folder), *args]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert said in told

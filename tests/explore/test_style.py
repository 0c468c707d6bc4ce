"""Style: what counts as spread, what is carried over, where and when."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.explore.conftest import D_SAE, SITES
from tide_lightning.cli import main
from tide_lightning.diffusion import sample
from tide_lightning.diffusion.counters import normal, stream
from tide_lightning.errors import UserError
from tide_lightning.explore import Run
from tide_lightning.explore.style import extent_of, separate_style, transfer_style
from tide_lightning.intervene.recording import Walk, walk_image, walk_prompts

SETTINGS = {"num_inference_steps": 2, "guidance_scale": 3.0}
STYLE, CONTENT = "a cube, in front of a mint wall", "a red ring"


def noise(run: Run, count: int = 2) -> torch.Tensor:
    return torch.stack([normal(stream(2, i), run.denoiser.latent_shape) for i in range(count)])


def walk(run: Run, prompt: str) -> Walk:
    return walk_prompts([prompt] * 2, noise(run), **SETTINGS)


def test_extent_is_the_share_of_places() -> None:
    difference = torch.zeros(8, 4)
    difference[:, 0] = -3.0
    difference[2, 1] = 5.0
    difference[:4, 2] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    assert extent_of(difference).tolist() == pytest.approx([1, 1 / 8, 1 / 2, 0])


def test_all_latents_from_a_prompt_to_itself_change_nothing_and_to_another_do(run: Run) -> None:
    walks = [walk(run, prompt) for prompt in (STYLE, CONTENT)]
    chosen = {SITES[0]: list(range(D_SAE))}
    same = separate_style(run.denoiser, run.saes, walks[1], walks[1], latents=chosen)
    other = separate_style(run.denoiser, run.saes, walks[0], walks[1], latents=chosen)
    plain = sample(run.denoiser, [CONTENT] * 2, initial_noise=noise(run), **SETTINGS)  # type: ignore[arg-type]

    def drawn(styles, **arguments) -> torch.Tensor:  # type: ignore[no-untyped-def]
        with transfer_style(run.denoiser, run.saes, styles, **arguments) as styled:
            return sample(styled, [CONTENT] * 2, initial_noise=noise(run), **SETTINGS)  # type: ignore[arg-type]

    assert torch.equal(drawn(same, window=(0.0, 1.0)), plain)
    assert torch.equal(drawn(other, strength=0.0, window=(0.0, 1.0)), plain)
    assert torch.equal(drawn(other, window=(0.1, 0.2)), plain)  # no step falls into it
    assert not torch.equal(drawn(other, window=(0.0, 1.0)), plain)
    assert not torch.equal(drawn(other, window=(0.0, 1.0)), drawn(other, window=(0.0, 0.5)))
    assert other[SITES[0]].difference.shape == (2, run.denoiser.num_tokens, D_SAE)
    assert (other[SITES[0]].t.diff() < 0).all()


def test_wide_differences_are_chosen_and_their_lack_is_told(run: Run) -> None:
    walks = [walk(run, prompt) for prompt in (STYLE, CONTENT)]
    found = separate_style(run.denoiser, run.saes, *walks, least_extent=0.2, count=3)
    for one in found.values():
        assert 0 < len(one.latents) <= 3
        assert (one.extent > 0.2).all()
    with pytest.raises(UserError, match="lower the extent"):
        separate_style(run.denoiser, run.saes, walks[1], walks[1])


def test_an_image_is_a_style_too(run: Run) -> None:
    side = run.denoiser.image_shape[-1]
    image = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    walks = walk_image(image, noise(run), num_inference_steps=2), walk(run, CONTENT)
    found = separate_style(run.denoiser, run.saes, *walks, least_extent=0.1, count=2)
    assert set(found) <= set(SITES)
    assert all(one.difference.shape[0] == 2 for one in found.values())


FAST = ["--prompt", CONTENT, "--steps", "2", "--samples", "2", "--window", "0,1", "--device", "cpu"]


def test_the_command_draws_a_sheet(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, picture = tmp_path / "style.png", tmp_path / "source.png"
    Image.new("RGB", (50, 40), "orange").save(picture)
    for source in (["--style", STYLE], ["--image", str(picture)]):
        args = [*FAST, *source, "--extent", "0.1", "--strength", "1,2", "--out", str(out)]
        assert main(["style", str(run_folder), *args]) == 0
        assert "style x 2: pixels moved by" in capsys.readouterr().out
        with Image.open(out) as sheet:
            assert sheet.height > sheet.width  # two columns, three rows
        out.unlink()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "name one source of style"),
        (["--style", "a", "--image", "b"], "name one source of style"),
        (["--image", "nowhere.png"], "--image nowhere.png: No such file"),
        (["--style", STYLE, "--sites", "transformer_blocks.2"], "this run has"),
        (["--style", STYLE, "--latent", f"{SITES[0]}/{D_SAE}"], "has latents 0 to"),
        (["--style", STYLE, "--window", "0.1,0.2"], "holds none of the 2 steps"),
        (["--style", STYLE, "--samples", "0"], "at least 1"),
        (["--style", CONTENT], "lower the extent"),
    ],
)
def test_what_cannot_be_is_one_clear_line(
    run_folder: Path, args: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["style", str(run_folder), *FAST, *args]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if not line.endswith("…")]  # what is waited for
    assert len(told) == 1
    assert said in told[0]

"""Blocks that fold frames or windows into the batch: each row keeps its own sample's t, input and place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.diffusion.small_runs import fit_and_test
from tide_lightning.cli import main
from tide_lightning.datamodules import ActivationDataModule, NoisedOptions, TrajectoryOptions
from tide_lightning.diffusion import Denoiser, Folding, describe_denoiser, load_denoiser, sample
from tide_lightning.errors import UserError
from tide_lightning.intervene import splice_denoiser
from tide_lightning.tokens import TokenBatch

TELLING = ["TellingVideo", "TellingWindows"]


def load(name: str) -> Denoiser:
    return load_denoiser("random", family=f"tests.diffusion.folded.{name}")


def told(tokens: TokenBatch) -> Tensor:
    """What a telling block would write there: t, place and input."""
    assert tokens.context.input is not None
    return torch.cat([tokens.t.unsqueeze(1), tokens.position.float(), tokens.context.input], 1)


@pytest.mark.parametrize("name", TELLING)
def test_sites_have_the_places_of_the_grid(name: str) -> None:
    described = describe_denoiser("random", family=f"tests.diffusion.folded.{name}")
    (shape,) = described.site_shapes(described.resolve_sites(["blocks.0"])).values()
    assert shape.grid == ((3, 2, 2) if name == "TellingVideo" else (4, 4))
    assert shape.d_in == 1 + len(shape.grid) + shape.d_input
    assert shape.d_input == 8


@pytest.mark.parametrize("name", TELLING)
def test_harvested_rows_are_what_their_context_says(name: str) -> None:
    data = ActivationDataModule(
        pretrained="random",
        family=f"tests.diffusion.folded.{name}",
        sites=["blocks.0"],
        prompts=["a", "b"],
        source="both",
        samples_per_batch=8,
        tokens_per_sample=5,
        noised=NoisedOptions(num_generated=4),
        trajectories=TrajectoryOptions(num_inference_steps=4),
    )
    data.setup("fit")
    seen = []
    for _, batch in zip(range(3), data.train_dataloader(), strict=False):
        torch.testing.assert_close(batch["blocks.0"].x, told(batch["blocks.0"]))
        seen.append(batch["blocks.0"].t)
    assert len(torch.cat(seen).unique()) > 4  # samples at times of their own, so that a mixed row would show


@pytest.mark.parametrize("name", TELLING)
def test_spliced_rows_are_what_their_context_says(name: str) -> None:
    denoiser, calls = load(name), []

    def look(tokens: TokenBatch) -> Tensor:
        torch.testing.assert_close(tokens.x, told(tokens))
        calls.append(len(tokens))
        return tokens.x

    spliced = splice_denoiser(denoiser, {"blocks.0": look})
    x_t = torch.randn(3, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    spliced.predict(x_t, torch.tensor([0.1, 0.5, 0.9]), denoiser.encode_prompts([""] * 3))
    sample(spliced, ["", ""], num_inference_steps=2, guidance_scale=1.0)
    assert calls == [3 * denoiser.num_tokens, *[2 * denoiser.num_tokens] * 2]


@torch.no_grad()
def test_a_splice_reaches_one_place_of_one_sample() -> None:
    denoiser = load("Windowed")
    (site,) = denoiser.resolve_sites(["blocks.1"])
    x_t = torch.randn(2, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    arguments = x_t, torch.tensor([100.0, 900.0]), denoiser.encode_prompts(["1", "2"])
    plain = denoiser.predict(*arguments)
    with denoiser.splice({site: torch.clone}):
        assert torch.equal(denoiser.predict(*arguments), plain)

    def push(tokens: Tensor) -> Tensor:
        return tokens.index_put((torch.tensor(1), torch.tensor(3 * 16 + 9)), tokens[1, 3 * 16 + 9] + 100)

    with denoiser.splice({site: push}):
        moved = (denoiser.predict(*arguments) - plain).abs().amax(1).unfold(1, 2, 2).unfold(2, 2, 2).amax((3, 4))
    assert int(moved[0].count_nonzero()) == 0
    assert int(moved[1].flatten().argmax()) == 3 * 16 + 9  # a later block spreads it within its window of 8x8
    assert {(int(row) // 8, int(col) // 8) for row, col in moved[1].nonzero()} == {(0, 1)}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Undeclared", r"site blocks.0 gives \[3, 4, 12\], not the 12 image tokens of one sample: it folds places"),
        ("TooMany", r"`folded` says '\(b f\) n d -> b \(f n\) d' with {'f': 5}, which does not make them of it"),
    ],
)
def test_an_order_that_cannot_be_known_is_refused(name: str, message: str) -> None:
    described = describe_denoiser("random", family=f"tests.diffusion.folded.{name}")
    with pytest.raises(UserError, match=message):
        described.site_shapes(described.resolve_sites(["blocks.0"]))


def test_an_order_that_mixes_samples_is_refused() -> None:
    denoiser = load("FramesFirst")
    with pytest.raises(UserError, match=r"site blocks.0: `folded` says '\(f b\) .*follow the input of another"):
        denoiser.site_widths(denoiser.resolve_sites(["blocks.0"]))


@pytest.mark.parametrize("name", ["RowsOfWindows", "Rolled"])
def test_an_order_that_mixes_places_is_warned_of(name: str, caplog: pytest.LogCaptureFixture) -> None:
    denoiser = load(name)
    denoiser.site_widths(denoiser.resolve_sites(["blocks.0"]))
    assert "do not follow most what is at their own places" in caplog.text


def test_a_right_order_is_not(caplog: pytest.LogCaptureFixture) -> None:
    denoiser = load("Windowed")
    denoiser.site_widths(denoiser.resolve_sites(["blocks.*", "blocks.1:update"]))
    assert not caplog.text


@pytest.mark.parametrize("pattern", ["(b f) n d", "(b f) n d -> (f n) b d", "b n d -> b d", "-> b n d"])
def test_a_folding_ends_in_samples_places_and_channels(pattern: str) -> None:
    with pytest.raises(UserError, match="is not of the form"):
        Folding(pattern)


def test_the_command_line_refuses_it_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    family = "--data.family=tests.diffusion.folded.Undeclared"
    told = ["sites", family, "--data.pretrained=random", '--data.sites=["blocks.0"]', '--data.prompts=["a", "b"]']
    assert main(told) == 2
    assert "site blocks.0" in capsys.readouterr().err


def test_windows_in_a_fit_and_a_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    family, prompts = "tests.diffusion.folded.Windowed", [str(label) for label in range(10)]
    data = {"family": family, "pretrained": "random", "sites": ["blocks.0", "blocks.1:update"], "prompts": prompts}
    run = fit_and_test("windows", data)
    assert (run / "metrics.json").is_file()

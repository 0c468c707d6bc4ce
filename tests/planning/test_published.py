"""`tide plan` and `tide sites` of every packaged config on a laptop: no network, prompts, images or GPU."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

from tide_lightning.cli import main
from tide_lightning.diffusion import describe_denoiser
from tide_lightning.diffusion.pretrained import PUBLISHED
from tide_lightning.planning.machines import gpu
from tide_lightning.planning.units import in_bytes, in_time, share

CONFIGS = Path(__file__).parents[2] / "configs"


def _names_a_denoiser(path: Path) -> bool:
    return "pretrained" in yaml.safe_load(path.read_text()).get("data", {})


WHOLE = sorted(path.stem for path in CONFIGS.glob("*.yaml") if _names_a_denoiser(path))

# Millions, from the models' cards and papers: to the last one where they are given so, else as far as the figure goes.
PARAMETERS = {
    "black-forest-labs/FLUX.1-dev": (11_901, 1),
    "black-forest-labs/FLUX.1-schnell": (11_891, 1),
    "stabilityai/stable-diffusion-3.5-medium": (
        2_243,
        1,
    ),  # 2.5 B on the card, 226 M places that are no parameters in it
    "stabilityai/stable-diffusion-xl-base-1.0": (2_567, 1),
    "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers": (1_604, 5),
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": (1_419, 1),
    "PixArt-alpha/PixArt-XL-2-512x512": (611, 1),
    "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS": (611, 1),
    # 675 M in the paper; diffusers keeps an embedding of time and class in each of 28 blocks.
    "facebook/DiT-XL-2-256": (750, 5),
}


@pytest.fixture(autouse=True)
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, no network, no cache of the hub, no photographs."""

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise OSError("no network")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TIDE_PHOTOS", str(tmp_path / "nowhere"))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tmp_path


def test_all_that_configs_name_comes_with_the_package() -> None:
    named = {yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["data"]["pretrained"] for name in WHOLE}
    here = {f"{path.parents[1].name}/{path.parent.name}" for path in PUBLISHED.glob("*/*/model_index.json")}
    assert {name for name in named if not name.startswith("package:")} <= here
    assert here == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_as_many_as_published(name: str) -> None:
    millions, within = PARAMETERS[name]
    module = describe_denoiser(name).module
    assert sum(parameter.numel() for parameter in module.parameters()) / 1e6 == pytest.approx(millions, abs=within)


@pytest.mark.parametrize("name", WHOLE)
def test_every_config_is_planned(name: str, capsys: pytest.CaptureFixture[str], laptop: Path) -> None:
    assert main(["plan", "--config", name, "--ranks", "8", "--machines", "H100"]) == 0
    said = capsys.readouterr().out
    assert "H100 SXM" in said
    assert "L4" not in said
    assert " 0.0 " not in said
    assert " 0.000" not in said
    assert list(laptop.iterdir()) == []


@pytest.mark.parametrize("name", ["flux", "photos", "pixart-sigma"])
def test_sites_are_listed(name: str, capsys: pytest.CaptureFixture[str], laptop: Path) -> None:
    assert main(["sites", "--config", name]) == 0
    assert "tokens" in capsys.readouterr().out
    assert list(laptop.iterdir()) == []


def test_what_the_hub_says_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", "flux", "--data.pretrained", "nobody/nothing-tide"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "cannot load 'nobody/nothing-tide': the hub cannot be reached, and this machine holds no copy" in line


def test_figures_are_shown_in_a_unit_that_shows_them() -> None:
    assert [in_bytes(count) for count in (0, 12, 4_100, 1.5e6, 47.6e9, 3e12)] == [
        "0 B",
        "12 B",
        "4.1 kB",
        "1.5 MB",
        "47.6 GB",
        "3 TB",
    ]
    assert [in_time(seconds) for seconds in (0, 3e-9, 4.2e-5, 0.4, 90, 7_200, 1e6)] == [
        "0 s",
        "< 1 µs",
        "42 µs",
        "400 ms",
        "1.5 min",
        "2 h",
        "11.6 d",
    ]
    assert [share(part) for part in (0, 0.0001, 0.123)] == ["0.0 %", "< 0.1 %", "12.3 %"]


def test_a_machine_by_the_beginning_of_its_name() -> None:
    assert gpu("h100").name == "H100 SXM"
    assert gpu("RTX 4090").name == "RTX 4090"
    assert gpu("A100").name == "A100 80GB"

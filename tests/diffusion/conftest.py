from pathlib import Path

import pytest

from tests.diffusion.miniature import save_miniature
from tests.diffusion.pipelines import FAMILIES, Family
from tide_lightning.diffusion import Denoiser, load_denoiser


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_miniature(tmp_path_factory.mktemp("miniature"))


@pytest.fixture(scope="session")
def denoiser(pretrained: Path) -> Denoiser:
    return load_denoiser(str(pretrained))


@pytest.fixture(scope="session", params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    """Every supported family in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def family(name: str) -> Family:
    return FAMILIES[name]


@pytest.fixture(scope="session")
def folder(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The family's pipeline."""
    return family.save(tmp_path_factory.mktemp("family"))

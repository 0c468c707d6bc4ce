from pathlib import Path

import pytest

from tests.diffusion.miniature import save_miniature
from tide_lightning.diffusion import Denoiser, load_denoiser


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_miniature(tmp_path_factory.mktemp("miniature"))


@pytest.fixture(scope="session")
def denoiser(pretrained: Path) -> Denoiser:
    return load_denoiser(str(pretrained))

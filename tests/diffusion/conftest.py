import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.diffusion.adapters import ADAPTERS, STAND_INS
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


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folder: the research code under its own names, an adapter of each kind."""
    monkeypatch.chdir(tmp_path)
    for path, names in STAND_INS.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        lines = [f"from tests.diffusion.research_code.{name} import *\n" for name in names.split()]
        (tmp_path / path).write_text("".join(lines))
    for name, code in ADAPTERS.items():
        (tmp_path / f"my_{name.lower()}.py").write_text(code)
    yield tmp_path
    theirs = ("models", "stage2", "training")
    for name in [name for name in sys.modules if name.startswith("my_") or name.partition(".")[0] in theirs]:
        del sys.modules[name]

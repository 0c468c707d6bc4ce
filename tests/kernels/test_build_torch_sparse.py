"""The cache of `make torch-sparse`; the building itself takes minutes and is left to continuous integration."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def tool() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "build_torch_sparse.py"
    spec = importlib.util.spec_from_file_location("build_torch_sparse", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_cache_lies_where_the_environment_says(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIDE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert tool.cache_root() == Path.home() / ".cache" / "tide-lightning"
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert tool.cache_root() == Path("/elsewhere/tide-lightning")
    monkeypatch.setenv("TIDE_CACHE", "/own")
    assert tool.cache_root() == Path("/own")


def test_wheels_in_the_cache_are_not_built_again(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDE_CACHE", str(tmp_path))
    folder: Path = tool.wheel_folder()
    folder.mkdir(parents=True)
    for package, version in tool.PACKAGES.items():
        (folder / f"{package.replace('-', '_')}-{version}-any.whl").touch()
    assert tool.main(["--build-only"]) == 0
    assert capsys.readouterr().out.count(f"is in {folder}") == len(tool.PACKAGES)

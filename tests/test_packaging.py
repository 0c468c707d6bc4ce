"""A wheel from the tree, a wheel from the sdist and an editable install each hold the whole package."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEEDED = (
    "tide_lightning/py.typed",
    "tide_lightning/cli.py",
    "tide_lightning/datamodules/__init__.py",
    "tide_lightning/callbacks/__init__.py",
    "tide_lightning/configs/quickstart.yaml",
    "tide_lightning/grounds/toybox/pipeline/model_index.json",
    "tide_lightning/grounds/toybox/pipeline/transformer/diffusion_pytorch_model.safetensors",
    "tide_lightning/grounds/photos/dit/config.json",
    "tide_lightning/trained/quickstart/config.yaml",
    "tide_lightning/trained/quickstart/saes/transformer_blocks.3/sae.safetensors",
    "tide_lightning/explore/atlas/static/index.html",
    "tide_lightning/explore/atlas/static/atlas.js",
)


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(source: Path, out: Path, kind: str) -> Path:
    run(sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", out, source, cwd=source)
    [built] = out.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("tree"), "wheel")


@pytest.fixture(scope="module")
def wheel_from_sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    sdist = build(ROOT, folder, "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    [source] = (folder / "unpacked").iterdir()
    return build(source, folder / "wheel", "wheel")


def empty_environment(folder: Path, *install: str | Path) -> Path:
    """A fresh environment that sees this one's dependencies but not its tide_lightning; returns its bin folder."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    [site] = folder.glob("lib/python*/site-packages")
    # A path in a .pth file brings the folder's packages, but not the .pth files in it: no editable install.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", *install, cwd=folder)
    return folder / "bin"


def test_both_wheels_hold_the_same_whole_package(wheel: Path, wheel_from_sdist: Path) -> None:
    names, from_sdist = (
        {name for name in zipfile.ZipFile(path).namelist() if "__pycache__" not in name}
        for path in (wheel, wheel_from_sdist)
    )
    assert names == from_sdist
    assert not [name for name in NEEDED if name not in names]
    assert not [name for name in names if name.startswith("tide_lightning/grounds/photos") and name.endswith("tensors")]
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"tide_lightning"}


def test_an_installed_wheel_trains_and_tests_outside_the_checkout(wheel_from_sdist: Path, tmp_path: Path) -> None:
    binaries = empty_environment(tmp_path / "environment", wheel_from_sdist)
    work = tmp_path / "work"
    work.mkdir()
    where = run(binaries / "python", "-c", "import tide_lightning; print(tide_lightning.__file__)", cwd=work)
    assert Path(where.strip()).is_relative_to(tmp_path)
    run(binaries / "tide", "fit", "--config", "debug", cwd=work, OMP_NUM_THREADS="1")
    run(binaries / "tide", "test", cwd=work, OMP_NUM_THREADS="1")
    assert (work / "runs" / "debug" / "latest" / "metrics.json").is_file()


def test_an_editable_install_sees_the_tree(tmp_path: Path) -> None:
    binaries = empty_environment(tmp_path / "environment", "--editable", ROOT)
    code = "import tide_lightning.datamodules as d, tide_lightning.callbacks as c; print(d.__file__, c.__file__)"
    for path in run(binaries / "python", "-c", code, cwd=tmp_path).split():
        assert Path(path).resolve().is_relative_to(ROOT)
    assert "run_name: quickstart" in run(
        binaries / "tide", "fit", "--config", "quickstart", "--print_config", cwd=tmp_path
    )

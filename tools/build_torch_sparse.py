"""Build torch-scatter and torch-sparse for this Python and PyTorch, once, and install them: `make torch-sparse`.

There are no wheels of them for current PyTorch, and compiling takes some twenty minutes on two cores. So the wheels are
kept in a cache folder outside the checkout, named after Python and PyTorch; the second time takes seconds.
"""

import argparse
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

PACKAGES = {"torch-scatter": "2.1.2", "torch-sparse": "0.6.18"}
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
BUILD_FLAGS = [
    "--no-build-isolation",  # their setup imports the PyTorch to build for
    "--no-deps",
    "--no-binary",
    ",".join(PACKAGES),
    "--no-cache-dir",  # pip's own cache of wheels does not know for which PyTorch it built one
]


class BuildError(Exception):
    """Something the user has to see to, in one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-only", action="store_true", help="fill the cache, install nothing")
    args = parser.parse_args(arguments)
    try:
        folder = wheel_folder()
        with locked(folder):
            wheels = [wheel_of(package, folder) for package in PACKAGES]
        if not args.build_only:
            install(wheels)
    except BuildError as error:
        print(f"torch-sparse: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ntorch-sparse: interrupted; what was finished stays in the cache", file=sys.stderr)
        return 130
    return 0


def cache_root() -> Path:
    """$TIDE_CACHE, or the user's cache folder."""
    if own := os.environ.get("TIDE_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tide-lightning"


def wheel_folder() -> Path:
    """Where wheels for this Python and PyTorch live."""
    try:
        import torch
    except ImportError as error:
        raise BuildError("PyTorch is not installed in this environment: run `make setup` first") from error
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    return cache_root() / "wheels" / f"{python}-torch{torch.__version__}"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One build at a time; the lock goes with the process that held it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"torch-sparse: waiting for another build in {folder}", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def wheel_of(package: str, folder: Path) -> Path:
    """The package's wheel, from the cache or built now; it enters the cache whole or not at all."""
    pattern = f"{package.replace('-', '_')}-{PACKAGES[package]}-*.whl"
    if found := sorted(folder.glob(pattern)):
        print(f"torch-sparse: {found[0].name} is in {folder}", flush=True)
        return found[0]
    require_build_tools()
    for abandoned in folder.glob(f".building-{package}-*"):  # of a build that was killed: we hold the lock
        shutil.rmtree(abandoned)
    with tempfile.TemporaryDirectory(prefix=f".building-{package}-", dir=folder) as name:
        scratch, log = Path(name), folder / f"{package}.log"
        build(package, scratch, log)
        (built,) = scratch.glob(pattern)
        log.unlink()
        return built.replace(folder / built.name)


def require_build_tools() -> None:
    """A compiler and the packages that a setup.py needs."""
    if not shutil.which(os.environ.get("CXX", "c++")):
        raise BuildError("no C++ compiler found: install g++ and Python's headers, or set CXX")
    print("torch-sparse: making sure of setuptools and wheel", flush=True)
    subprocess.run([*PIP, "install", "--quiet", "setuptools", "wheel"], check=False)


def build(package: str, scratch: Path, log: Path) -> None:
    """Compile a package into a folder, telling every half minute that it goes on."""
    requirement = f"{package}=={PACKAGES[package]}"
    print(f"torch-sparse: building {requirement}; this takes minutes, its output goes to {log}", flush=True)
    start = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            [*PIP, "wheel", "--verbose", *BUILD_FLAGS, requirement, "--wheel-dir", str(scratch)],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that its compilers can be stopped with it
        )
        try:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=30)
                    continue
                print(f"torch-sparse: {package}, {time.monotonic() - start:.0f} s so far", flush=True)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
    if process.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise BuildError(f"building {requirement} failed; all output is in {log}, its end:\n{tail}")
    print(f"torch-sparse: built {requirement} in {time.monotonic() - start:.0f} s", flush=True)


def install(wheels: Sequence[Path]) -> None:
    """Install the wheels and the SciPy that they import, unless they already work here."""
    if works():
        print("torch-sparse: already installed", flush=True)
        return
    # Reinstalled even if the version is there: it may have been built for another PyTorch.
    commands = [
        ["install", "--quiet", "scipy"],
        ["install", "--quiet", "--no-build-isolation", "--no-deps", "--force-reinstall", *map(str, wheels)],
    ]
    for command in commands:
        if subprocess.run([*PIP, *command], check=False).returncode != 0:
            raise BuildError(f"`pip {' '.join(command)}` failed: see above")
    if not works():
        raise BuildError(f"installed, but it does not import; remove {wheels[0].parent} and run this again")
    print("torch-sparse: installed", flush=True)


def works() -> bool:
    """Whether these versions import, in a fresh process so that a broken extension cannot take us with it."""
    check = (
        "import torch_scatter, torch_sparse; "
        f"assert torch_scatter.__version__ == '{PACKAGES['torch-scatter']}'; "
        f"assert torch_sparse.__version__ == '{PACKAGES['torch-sparse']}'"
    )
    command = [sys.executable, "-W", "ignore", "-c", check]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a killed build cleans up like an interrupted one
    sys.exit(main())

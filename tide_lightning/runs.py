"""Run folders: `<root>/<name>/<stamp>`, with `<root>/<name>/latest` pointing to the newest."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from tide_lightning.errors import UserError
from tide_lightning.files import write_bytes

_STAMP = "TIDE_RUN_STAMP"  # lets processes that a launcher started anew share their parent's folder
_ORIGIN = "origin.txt"  # in the folder of a run that was fetched: from where
_SHIPPED = Path(__file__).parent / "trained"  # runs that come with the package, by name
_created: list[Path] = []


def new_run(root: Path, name: str) -> Path:
    """The folder of a run that begins now: created by the first rank, so that no other run can have it."""
    from lightning.pytorch.utilities import rank_zero_only

    check_name(name)
    stamp, number = os.environ.get(_STAMP), 1
    if stamp is None:
        stamp = base = datetime.now().strftime("%Y%m%d-%H%M%S")
        while rank_zero_only.rank == 0 and not _create(root / name / stamp):
            number += 1
            stamp = f"{base}-{number}"
        os.environ[_STAMP] = stamp
    return root / name / stamp


def check_name(name: str) -> str:
    """The name of a run, if it can be one folder's below --runs."""
    if not name or name.startswith(".") or re.search(r"[/\\\x00-\x1f]", name) or len(name.encode()) > 200:
        raise UserError(f"--run_name {name!r}: name one folder below --runs, without / and of at most 200 letters")
    return name


def _create(folder: Path) -> bool:
    """Whether this folder is a new one, of ours."""
    missing = [one for one in folder.parents if not one.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():
            raise UserError(f"{folder}: something else lies there") from None
        return False
    except OSError as error:
        raise UserError(f"{folder} cannot be created: {error.strerror}") from error
    _created.extend([folder, *missing])
    return True


def leave_runs() -> None:
    """The next run in this process gets a folder of its own; one in which nothing was written goes."""
    os.environ.pop(_STAMP, None)
    for folder in _created:
        with suppress(OSError):  # not empty: a run
            folder.rmdir()
    _created.clear()


def point_latest(run: Path) -> None:
    """Let `latest` beside the run point to it."""
    link = run.parent / "latest"
    fresh = run.parent / f".latest-{os.getpid()}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(run.name)
    fresh.replace(link)


def newest_run(root: Path, name: str | None = None) -> Path | None:
    """The run that `latest` points to; of all names the one that was begun last."""
    links = [root / name / "latest"] if name else sorted(root.glob("*/latest"))
    runs = [link.resolve() for link in links if link.is_dir()]
    return max(runs, key=_begun, default=None)


def _begun(run: Path) -> list[int]:
    """When a run was begun, from its folder's name: the tenth of a second comes behind the ninth."""
    found = re.fullmatch(r"(\d{8})-(\d{6})(?:-(\d+))?", run.name)
    return [int(number or 1) for number in found.groups()] if found else []


def find_run(run: Path, root: Path) -> Path:
    """The folder of a run: by its path, that of a folder with `latest` in it, a name below `root`, or a hub id.

    What comes with the package is found by its name where there is no run of that name below `root`.
    """
    for folder in (run, run / "latest", root / run / "latest", root / run):
        if (folder / "config.yaml").is_file():
            return folder.resolve()
    if (shipped := shipped_runs().get(str(run))) is not None:
        return shipped
    if (fetched := run_on_the_hub(str(run), root)) is not None:
        return fetched
    newest = newest_run(root)
    known = f"the newest below {root.absolute()} is {newest.parent.name}" if newest else ""
    known = known or f"there is none below {root.absolute()} either: make one with `tide fit --config …`"
    hint = f"; {known}, or take what comes with the package: {', '.join(shipped_runs())}"
    raise UserError(f"{run}: no run folder there (it would hold config.yaml){hint}")


def shipped_runs() -> dict[str, Path]:
    """The runs that come with the package, by name."""
    return {path.parent.name: path.parent.resolve() for path in sorted(_SHIPPED.glob("*/config.yaml"))}


def run_on_the_hub(repository: str, root: Path) -> Path | None:
    """A published run as a run folder below `root`, or None; what is made of it there stays out of the hub's cache."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        snapshot = Path(snapshot_download(repository, ignore_patterns=["checkpoints/*", "report/*"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):
        return None
    if not (snapshot / "config.yaml").is_file():
        raise UserError(f"{repository}: a repository of the hub, but no run: it has no config.yaml")
    folder = _linked(snapshot, root / repository.replace("/", "--") / snapshot.name[:12])
    write_bytes(folder / _ORIGIN, f"{repository}\n".encode())
    return folder


def is_from_the_hub(run: Path) -> bool:
    """Whether a run was fetched, and so is not to be trusted by itself."""
    return (run / _ORIGIN).is_file()


def place_of(run: Path, root: Path) -> Path:
    """Where what is made of a run lies: in it; of one that comes with the package in a folder below `root`."""
    return root / run.name / "shipped" if run in shipped_runs().values() else run


def to_write_in(run: Path, root: Path) -> Path:
    """The run, or the folder that stands for one that comes with the package, where nothing is written."""
    place = place_of(run, root)
    return run if place == run else _linked(run, place)


def _linked(run: Path, folder: Path) -> Path:
    """A folder with a run's files and a link to its SAEs."""
    folder.mkdir(parents=True, exist_ok=True)
    for entry in run.iterdir():
        if entry.is_file() and not (folder / entry.name).exists():
            shutil.copyfile(entry, folder / entry.name)
    if not (folder / "saes").exists():
        (folder / "saes").symlink_to((run / "saes").absolute())
    return folder.resolve()


def run_of_checkpoint(checkpoint: Path) -> Path | None:
    """The run folder that a checkpoint lies in, if it does."""
    run = checkpoint.resolve().parent.parent
    return run if (run / "config.yaml").is_file() else None

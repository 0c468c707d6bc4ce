"""The files of a diffusers pipeline: where they are, whether they are whole, how they are read."""

from __future__ import annotations

import importlib.resources
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tide_lightning.errors import UserError

PUBLISHED = Path(__file__).parent / "published"
"""Public configurations of the models that the packaged configs name, as on the hub: shapes need no network."""


class Origin:
    """Where a pipeline comes from: a hub id, a folder, or `package:<dotted.package>/<folder>`.

    For `shapes_alone`, configurations that come with this package are taken before the hub's.
    """

    def __init__(
        self,
        pretrained: str,
        revision: str | None,
        variant: str | None,
        local_files_only: bool,
        shapes_alone: bool = False,
    ) -> None:
        self.pretrained, self.variant = pretrained, variant
        self._hub: dict[str, Any] = {"revision": revision, "local_files_only": local_files_only}
        self._folder = _local_folder(pretrained)
        if self._folder is None and shapes_alone and revision is None and (PUBLISHED / pretrained).is_dir():
            self._folder = PUBLISHED / pretrained
        self.index = self.read_json("model_index.json")

    @property
    def address(self) -> str:
        """The same for the same pipeline, wherever it is named from."""
        return self.pretrained if self._folder is None else str(self._folder.resolve())

    @property
    def parts(self) -> dict[str, list[str]]:
        """Library and class of every part that the pipeline has."""
        return {
            name: value
            for name, value in self.index.items()
            if not name.startswith("_") and isinstance(value, list) and value[0] is not None
        }

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file of the pipeline."""
        if self._folder is None:
            from huggingface_hub import hf_hub_download

            with explained(self.pretrained):
                path = Path(hf_hub_download(self.pretrained, name, **self._hub))
        else:
            path = self._folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing: {self.pretrained!r} is not a complete diffusers pipeline")
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, ValueError):
            raise UserError(f"{path} is not valid JSON") from None

    def download(self, without: Iterable[str] = ()) -> Path:
        """The folder with every part but those, whole and undamaged."""
        folder = self._folder
        if folder is None:
            from diffusers import DiffusionPipeline

            with explained(self.pretrained):
                left_out = dict.fromkeys(without)
                found = DiffusionPipeline.download(self.pretrained, variant=self.variant, **self._hub, **left_out)
            folder = Path(found)
        for part, (_, kind) in self.parts.items():
            if part not in without:
                _check_part(folder / part, kind)
        return folder


def _local_folder(pretrained: str) -> Path | None:
    """The folder meant, or None for a hub id."""
    if pretrained.startswith("package:"):
        return package_path(pretrained)
    folder = Path(pretrained).expanduser()
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w\-][\w.\-]*/[\w\-][\w.\-]*", pretrained):
        raise UserError(f"pretrained {pretrained!r}: no such folder, and not a hub id (owner/name)")
    return None


def _check_part(folder: Path, kind: str) -> None:
    """It is there, with weights if it needs any, and no safetensors file is cut short."""
    from safetensors import SafetensorError, safe_open

    if not folder.is_dir():
        raise UserError(f"{folder} is missing: model_index.json names a {kind} there")
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    if (folder / "config.json").is_file() and not folder.name.startswith(("tokenizer", "scheduler")) and not weights:
        raise UserError(f"{folder} holds no weights (*.safetensors)")
    for path in weights:
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt"):
                    pass
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is damaged or incomplete: {first_line(error)}") from None


def package_path(address: str) -> Path:
    """The file or folder that `package:<dotted.package>/<path>` names in an installed package."""
    package, _, path = address.removeprefix("package:").partition("/")
    try:
        root = importlib.resources.files(package)
    except (ModuleNotFoundError, ValueError):
        raise UserError(f"{address!r}: there is no installed package {package!r}") from None
    found = Path(str(root)) / path
    if not found.exists():
        raise UserError(f"{address!r}: package {package} holds no {path!r}")
    return found


def dtype_argument() -> str:
    """What diffusers and transformers call the precision that they load."""
    # diffusers 0.40 warns about the old name, before it the new one is not known.
    import diffusers

    major, minor = map(int, diffusers.__version__.split(".")[:2])
    return "dtype" if (major, minor) >= (0, 40) else "torch_dtype"


@contextmanager
def explained(pretrained: str) -> Iterator[None]:
    """What the loading libraries raise, in one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError) as error:
        raise UserError(f"cannot load {pretrained!r}: {_of_hub(error) or first_line(error)}") from error


def _of_hub(error: BaseException) -> str | None:
    """What an error of the hub's means, and what to do; None for others."""
    from huggingface_hub import errors

    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    meanings = {
        errors.GatedRepoError: "its owner asks for consent: give it on the model's page, then run `hf auth login`",
        errors.RepositoryNotFoundError: "the hub knows no such model, or it is private (`hf auth login`)",
        errors.RevisionNotFoundError: "the hub knows no such revision of it",
        errors.LocalEntryNotFoundError: "the hub cannot be reached, and this machine holds no copy:"
        " connect, or name a folder that was downloaded before",
        errors.EntryNotFoundError: "it is no diffusers pipeline: a file of one is missing on the hub",
        errors.HfHubHTTPError: "the hub answered with an error; try again later",
    }
    for kind, meaning in meanings.items():
        if any(isinstance(each, kind) for each in causes):
            return meaning
    return None


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars while parts load."""
    import diffusers.utils.logging
    import transformers.utils.logging

    libraries = [diffusers.utils.logging, transformers.utils.logging]
    were_on = [library.is_progress_bar_enabled() for library in libraries]
    for library in libraries:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, was_on in zip(libraries, were_on, strict=True):
            if was_on:
                library.enable_progress_bar()


def first_line(error: BaseException) -> str:
    """Of its message; its kind where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

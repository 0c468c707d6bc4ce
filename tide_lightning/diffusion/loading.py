"""Load a denoiser from a hub id, a folder, or a folder inside an installed package."""

from __future__ import annotations

import importlib
import importlib.resources
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tide_lightning.diffusion.denoiser import Denoiser
from tide_lightning.diffusion.families import FAMILIES
from tide_lightning.diffusion.own import OwnDenoiser
from tide_lightning.errors import UserError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_denoiser(
    pretrained: str,
    *,
    family: str | None = None,
    dtype: str = "float32",
    revision: str | None = None,
    variant: str | None = None,
    local_files_only: bool = False,
    latent_size: Sequence[int] | None = None,
    compile: bool = False,
) -> Denoiser:
    """Load a frozen denoiser, on the CPU.

    Args:
        pretrained: a diffusers pipeline: a hub id, a folder, or `package:<dotted.package>/<folder>`.
        family: class path of a Denoiser; unless given, the pipeline's own class tells. A subclass of OwnDenoiser makes
            of `pretrained` what it likes.
        dtype: precision of transformer and text encoders; the VAE stays in float32.
        revision: branch, tag or commit on the hub.
        variant: file name variant, such as fp16.
        local_files_only: use the hub's local cache only.
        latent_size: rows and columns of a latent (a video's frames before them); the model's own unless given.
        compile: compile the transformer's blocks one by one; sites inside a block cannot be read then.
    """
    chosen = None if family is None else named_family(family)
    if chosen is not None and issubclass(chosen, OwnDenoiser):
        with torch.random.fork_rng(devices=[]):
            own = chosen(pretrained, dtype=_DTYPES[dtype], latent_size=latent_size)
        return _compiled(own) if compile else own
    folder = _local_folder(pretrained)
    index = _model_index(pretrained, folder, revision, local_files_only)
    chosen = chosen or _family(pretrained, index)
    from diffusers import DiffusionPipeline

    if folder is None:
        with _explained(pretrained):
            folder = Path(
                DiffusionPipeline.download(
                    pretrained, revision=revision, variant=variant, local_files_only=local_files_only
                )
            )
    _check_parts(folder, index, variant)
    # The VAE in half precision overflows in several families.
    dtypes = {"default": _DTYPES[dtype], "vae": torch.float32}
    with _explained(pretrained), _quiet(), torch.random.fork_rng(devices=[]):
        pipeline = DiffusionPipeline.from_pretrained(
            folder, variant=variant, local_files_only=True, **{_dtype_argument(): dtypes}
        )
    denoiser = chosen(getattr(pipeline, chosen.component), pipeline.scheduler, pipeline, latent_size)
    return _compiled(denoiser) if compile else denoiser


def describe_denoiser(
    pretrained: str,
    *,
    family: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    latent_size: Sequence[int] | None = None,
) -> Denoiser:
    """The denoiser without weights, on the meta device: its modules, sites, widths and shapes."""
    chosen = None if family is None else named_family(family)
    if chosen is not None and issubclass(chosen, OwnDenoiser):
        with torch.random.fork_rng(devices=[]):
            return chosen(pretrained, with_weights=False, latent_size=latent_size)
    folder = _local_folder(pretrained)
    index = _model_index(pretrained, folder, revision, local_files_only)
    chosen = chosen or _family(pretrained, index)
    import diffusers

    config = _read_json(pretrained, folder, f"{chosen.component}/config.json", revision, local_files_only)
    scheduler_config = _read_json(pretrained, folder, "scheduler/scheduler_config.json", revision, local_files_only)
    with _explained(pretrained), _quiet(), torch.random.fork_rng(devices=[]):
        scheduler = getattr(diffusers, index["scheduler"][1]).from_config(scheduler_config)
        with torch.device("meta"):
            module = getattr(diffusers, index[chosen.component][1]).from_config(config)
    return chosen(module.to("meta"), scheduler, latent_size=latent_size)


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


def _model_index(pretrained: str, folder: Path | None, revision: str | None, offline: bool) -> dict[str, Any]:
    return _read_json(pretrained, folder, "model_index.json", revision, offline)


def _read_json(pretrained: str, folder: Path | None, name: str, revision: str | None, offline: bool) -> dict[str, Any]:
    if folder is None:
        from huggingface_hub import hf_hub_download

        with _explained(pretrained):
            path = Path(hf_hub_download(pretrained, name, revision=revision, local_files_only=offline))
    else:
        path = folder / name
    if not path.is_file():
        raise UserError(f"{path} is missing: {pretrained!r} is not a complete diffusers pipeline")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{path} is not valid JSON") from None
    return dict(content)


def _family(pretrained: str, index: dict[str, Any]) -> type[Denoiser]:
    name = index.get("_class_name")
    if name not in FAMILIES:
        raise UserError(
            f"pretrained {pretrained!r} is a {name or 'nameless pipeline'}; supported are {', '.join(FAMILIES)};"
            " for others set family (docs/bring_your_own.md)"
        )
    return FAMILIES[name]


def named_family(path: str) -> type[Denoiser]:
    """The Denoiser that a class path names, in an installed package or under the working directory."""
    module_name, _, name = path.rpartition(".")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"family {path!r} cannot be imported: {_first_line(error)}") from error
    finally:
        if added:
            sys.path.remove(here)
    if not (isinstance(found, type) and issubclass(found, Denoiser)):
        raise UserError(f"family {path!r} is no subclass of tide_lightning.diffusion.Denoiser")
    return found


def _check_parts(folder: Path, index: dict[str, Any], variant: str | None) -> None:
    """Every part that model_index.json names is there, and no safetensors file is cut short."""
    from safetensors import SafetensorError, safe_open

    for part, origin in index.items():
        if part.startswith("_") or not isinstance(origin, list) or origin[0] is None:
            continue
        if not (folder / part).is_dir():
            raise UserError(f"{folder / part} is missing: model_index.json names a {origin[1]} there")
        is_model = (folder / part / "config.json").is_file() and part not in ("tokenizer", "scheduler")
        weights = [*(folder / part).glob("*.safetensors"), *(folder / part).glob("*.bin")]
        if is_model and not weights:
            raise UserError(f"{folder / part} holds no weights (*.safetensors)")
        for path in weights:
            try:
                if path.suffix == ".safetensors":
                    with safe_open(path, framework="pt"):
                        pass
            except (SafetensorError, OSError) as error:
                raise UserError(f"{path} is damaged or incomplete: {_first_line(error)}") from None


def _dtype_argument() -> str:
    # Newer diffusers warn about the old name, older ones do not know the new.
    from diffusers.utils import deprecation_utils

    return "dtype" if hasattr(deprecation_utils, "_resolve_dtype") else "torch_dtype"


def _compiled(denoiser: Denoiser) -> Denoiser:
    # Each block's forward, not its __call__: hooks on blocks stay outside the compiled code and cost no recompilation.
    for name, block in denoiser.module.named_modules():
        if re.fullmatch(r"(.*\.)?(\w*transformer_blocks|blocks)\.\d+", name):
            block.forward = torch.compile(block.forward)
    return denoiser


@contextmanager
def _explained(pretrained: str) -> Iterator[None]:
    """What the loading libraries raise, in one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError) as error:
        raise UserError(f"cannot load {pretrained!r}: {_first_line(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
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


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

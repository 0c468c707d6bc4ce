"""What can be saved and loaded: an SAE's constructor, its arguments as plain values, its tensors."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict
from pathlib import Path
from typing import Self, TypeVar

from torch import nn

from tide_lightning.errors import UserError
from tide_lightning.saes.storage import find_folder, read_folder, write_folder
from tide_lightning.sharding import class_of
from tide_lightning.tokens import SiteShape

T = TypeVar("T", bound="Pretrained")


class Pretrained(nn.Module):
    """An SAE for one site that is built from its shape and its `config`."""

    shape: SiteShape
    d_in: int
    d_sae: int

    @property
    @abstractmethod
    def config(self) -> dict[str, object]:
        """The constructor's arguments besides `shape`, as plain values."""

    def save_pretrained(self, folder: str | Path, **provenance: object) -> Path:
        """Write cfg.json and sae.safetensors; `provenance` (site, model, …) goes into cfg.json."""
        sizes = {"class": class_of(self).__name__, "d_in": self.d_in, "d_sae": self.d_sae}
        cfg = {**sizes, "shape": asdict(self.shape), "sae": self.config, **provenance}
        return write_folder(folder, cfg, self.state_dict())

    @classmethod
    def from_pretrained(cls, source: str | Path, site: str | None = None, revision: str | None = None) -> Self:
        """Load from a folder or a hub id, for use (`eval`); `site` names the sub-folder where there are several.

        `SAE.from_pretrained` gives back whichever class was saved; a class of your own must have been imported.
        """
        folder = find_folder(source, site, revision)
        cfg, tensors = read_folder(folder)
        saved = _named(cls, cfg.get("class"), folder)
        try:
            sae = saved(SiteShape(**{**cfg["shape"], "grid": tuple(cfg["shape"]["grid"])}), **cfg["sae"])
        except (KeyError, TypeError) as error:
            raise UserError(f"{folder}/cfg.json does not describe a {saved.__name__}: {error}") from error
        try:
            sae.load_state_dict(tensors)
        except RuntimeError as error:
            raise UserError(f"{folder}/sae.safetensors does not hold what cfg.json describes") from error
        return sae.eval()


def _named(cls: type[T], name: object, folder: Path) -> type[T]:
    """The class of that name: this one or one that is derived from it."""
    found = {known.__name__: known for known in _with_derived(cls)}
    if name in found:
        return found[str(name)]
    raise UserError(
        f"{folder}/cfg.json describes a {name}, which is no {cls.__name__}: load it by its own class or by SAE, "
        "after importing the module that defines it"
    )


def _with_derived(cls: type[T]) -> list[type[T]]:
    return [cls, *(found for derived in cls.__subclasses__() for found in _with_derived(derived))]

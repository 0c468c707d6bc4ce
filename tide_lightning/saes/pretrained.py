"""What can be saved and loaded: an SAE's constructor, its arguments as plain values, its tensors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from tide_lightning.errors import UserError
from tide_lightning.saes.exchange import read_foreign
from tide_lightning.saes.places import choices, find_place
from tide_lightning.saes.storage import is_ours, read_folder, write_folder
from tide_lightning.saes.untrusted import one_line
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
        """Load from a folder, a run's folder or a hub id, for use (`eval`).

        `SAE.from_pretrained` gives back whichever class was saved; a class of your own must have been imported. An SAE
        that another library wrote becomes one of ours with the same codes (`saes.exchange` lists the layouts).

        Args:
            source: a folder or a hub id.
            site: the site or the sub-folder, where there are several.
            revision: of the hub repository.
        """
        place = find_place(source, site, revision)
        if is_ours(place):
            cfg, tensors = read_folder(place)
            return _build(cls, cfg.get("class"), cfg.get("shape"), cfg.get("sae"), tensors, place)
        foreign = read_foreign(place)
        if foreign is None:
            raise UserError(f"{place}: no SAE there, neither of ours nor of a layout that is known{choices(place)}")
        shape = {"d_in": foreign.d_in, "grid": [], "d_input": 0}
        return _build(cls, foreign.kind, shape, foreign.arguments, foreign.tensors, place, whole=False)


def _build(
    cls: type[T],
    kind: object,
    shape: object,
    arguments: object,
    tensors: dict[str, Tensor],
    place: Path,
    whole: bool = True,
) -> T:
    """The SAE that is described, once its tensors turn out to have the sizes that it would have.

    Args:
        cls: what it has to be.
        kind: the name of its class.
        shape: of its site, as plain values.
        arguments: the constructor's others.
        tensors: its own.
        place: where they were found, for errors.
        whole: whether all of its tensors are there; otherwise the others stay as they are built.
    """
    saved = _named(cls, kind, place)
    try:
        if not (isinstance(shape, Mapping) and isinstance(arguments, Mapping)):
            raise TypeError("it names no shape, or no arguments")
        site_shape = SiteShape(**{**shape, "grid": tuple(shape["grid"])})
        sizes = [size for size in asdict(site_shape).values() if not isinstance(size, tuple)]
        if not all(type(size) is int and 0 <= size < 2**31 for size in [*sizes, *site_shape.grid]):
            raise ValueError("its shape is not made of whole numbers")
        with torch.device("meta"):  # no memory for sizes that are only claimed
            skeleton = saved(site_shape, **arguments).state_dict()
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise UserError(f"{place} does not describe a {saved.__name__}: {one_line(error)}") from error
    _compare(skeleton, tensors if whole else skeleton | tensors, place)
    sae = saved(site_shape, **arguments)
    sae.load_state_dict(tensors, strict=whole)
    return sae.eval()


def _compare(skeleton: Mapping[str, Any], tensors: Mapping[str, Tensor], place: Path) -> None:
    """Whether tensors have the names and sizes that they need to have."""
    for name in [*skeleton, *tensors]:
        wanted, found = skeleton.get(name), tensors.get(name)
        if wanted is None or found is None or wanted.shape != found.shape:
            told = [None if one is None else list(one.shape) for one in (wanted, found)]
            raise UserError(
                f"{place} does not hold what it describes: {name} should be {told[0] or 'absent'}, "
                f"but is {told[1] or 'absent'}"
            )


def _named(cls: type[T], name: object, place: Path) -> type[T]:
    """The class of that name: this one or one that is derived from it."""
    found = {known.__name__: known for known in _with_derived(cls)}
    if isinstance(name, str) and name in found:
        return found[name]
    raise UserError(
        f"{place} describes a {str(name)[:80]}, which is no {cls.__name__}: load it by its own class or by SAE, "
        "after importing the module that defines it"
    )


def _with_derived(cls: type[T]) -> list[type[T]]:
    return [cls, *(found for derived in cls.__subclasses__() for found in _with_derived(derived))]

"""How a fit comes by its SAEs: built anew, from random streams of their own, or taken from a run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch

from tide_lightning.diffusion import unlabelled
from tide_lightning.diffusion.counters import stream
from tide_lightning.errors import UserError
from tide_lightning.saes import SAE
from tide_lightning.saes.storage import saes_in
from tide_lightning.tokens import SiteShape


def build_sae(build: Callable[[SiteShape], SAE], shape: SiteShape, key: str) -> SAE:
    """An SAE whose first weights are named by the seed and its key: they do not depend on what was drawn before."""
    seed = torch.initial_seed()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(stream(seed, "sae", key).integers(2**63)))
        return build(shape)


def named_builders(saes: dict[str, Callable[[SiteShape], SAE]]) -> dict[str, Callable[[SiteShape], SAE]]:
    """Several SAEs a site by what is put behind its key, if they can bear their names."""
    for name in saes:
        if not re.fullmatch(r"[\w-]+", name):
            raise UserError(f"model.saes: {name!r} cannot name an SAE; use letters, digits, - and _")
    if not saes:
        raise UserError("model.saes is empty: name some SAEs, or leave it out")
    return {f"@{name}": build for name, build in saes.items()}


def load_saes(folder: str | Path, sites: list[str]) -> dict[str, SAE]:
    """The SAEs of some sites that lie in a folder of a run, by their keys and in the order of the sites."""
    if not Path(folder).is_dir():
        raise UserError(f"model.pretrained: {folder}: no such folder")
    found = saes_in(Path(folder))
    keys = [key for site in sites for key in found if unlabelled(key) == site]
    if missing := [site for site in sites if site not in map(unlabelled, keys)]:
        raise UserError(f"{folder}: no SAE of {missing[0]} there, but of {', '.join(found) or 'no site'}")
    return {key: SAE.from_pretrained(found[key]).train() for key in keys}

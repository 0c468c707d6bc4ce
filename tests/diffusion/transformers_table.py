"""Which of diffusers' transformers `GenericTransformer` can call and read, as a table.

    python -m tests.diffusion.transformers_table > docs/reference/transformers.csv

Packed latents are cut into tokens by the pipeline; "frames first" has frames before channels.

Each is made at its default size with few blocks on the meta device, where that costs nothing, and called by the names
of its forward's parameters. What cannot be called so wants inputs of its own kind, or looks at values.
"""

from __future__ import annotations

import csv
import inspect
import sys
from collections.abc import Iterator
from typing import Any

import diffusers
import torch
from torch import nn

from tide_lightning.diffusion import GenericTransformer
from tide_lightning.errors import UserError

_FEW_BLOCKS = {"num_layers": 2, "num_single_layers": 2, "n_layers": 2}


def transformer_names() -> list[str]:
    """Every transformer that diffusers exports."""
    names = [name for name in dir(diffusers) if "Transformer" in name or name.endswith("DiTModel")]
    kinds = {name: getattr(diffusers, name) for name in names}
    return sorted(name for name, kind in kinds.items() if inspect.isclass(kind) and issubclass(kind, nn.Module))


def describe(name: str) -> GenericTransformer:
    """The transformer without weights, or an error that says why not."""
    kind = getattr(diffusers, name)
    known = inspect.signature(kind.__init__).parameters
    with torch.device("meta"):
        module = kind(**{size: value for size, value in _FEW_BLOCKS.items() if size in known})
    return GenericTransformer(module.to("meta"), diffusers.FlowMatchEulerDiscreteScheduler())


def sites_of(denoiser: GenericTransformer) -> list[str]:
    """The block lists and streams that can be read."""
    found = []
    for name, blocks in denoiser.module.named_children():
        for stream in ("", ":text") if isinstance(blocks, nn.ModuleList) and len(blocks) else ():
            try:
                sites = denoiser.resolve_sites([f"{name}.0{stream}"])
                denoiser.site_shapes(sites)
            except UserError:
                continue
            found.append(f"{name}.*{stream}")
    return found


def rows() -> Iterator[tuple[str, str, list[str]]]:
    """Name, form of the latents and readable sites of those that work."""
    for name in transformer_names():
        try:
            denoiser: Any = describe(name)
        except Exception:  # as many reasons as there are transformers
            continue
        sites = sites_of(denoiser)
        if sites:
            yield name, denoiser.form, sites


def streams_of(sites: list[str]) -> tuple[list[str], list[str]]:
    """The streams of a transformer's sites, and the sites; one that has not all of these streams names its own."""
    streams = ["image", "text"] if any(site.endswith(":text") for site in sites) else ["image"]
    shown = []
    for path in dict.fromkeys(site.removesuffix(":text") for site in sites):
        own = [stream for stream in streams if (path if stream == "image" else f"{path}:text") in sites]
        shown.append(path if own == streams else f"{path}:{own[0]}")
    return streams, shown


if __name__ == "__main__":
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["transformer", "latents", "streams", "sites"])
    for name, form, sites in rows():
        streams, shown = streams_of(sites)
        table.writerow([name, form, " ".join(streams), " ".join(shown)])

"""Untrained SAEs of the toybox's denoiser with nothing in them that is zero; fixtures for several packages."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from tide_lightning.diffusion import Denoiser, load_denoiser
from tide_lightning.saes import TideSAE
from tide_lightning.tokens import SiteShape

PIPELINE = "package:tide_lightning.grounds.toybox/pipeline"
SHALLOW, SITE, DEEP = (f"transformer_blocks.{block}" for block in (1, 2, 4))
PROMPTS = ["a red cube", "a sphere on the left"]


@pytest.fixture(scope="package")
def denoiser() -> Denoiser:
    return load_denoiser(PIPELINE)


@pytest.fixture(scope="package")
def saes(denoiser: Denoiser) -> dict[str, TideSAE]:
    return untrained(denoiser, [SHALLOW, DEEP])


@pytest.fixture(scope="package")
def sae(denoiser: Denoiser) -> TideSAE:
    return untrained(denoiser, [SITE])[SITE]


def untrained(denoiser: Denoiser, sites: Sequence[str]) -> dict[str, TideSAE]:
    """With a known part and a modulation that are not zero, and a scale for each time."""
    shapes = denoiser.site_shapes(denoiser.resolve_sites(sites))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {site: _untrained(shape) for site, shape in shapes.items()}


def _untrained(shape: SiteShape) -> TideSAE:
    sae = TideSAE(shape, expansion_factor=2, k=8, modulation="adaln", unmodulate=True, scale_by_timestep=True)
    sae.known.by_time.normal_()
    sae.known.by_place.normal_()
    sae.known.weight.normal_(std=0.1)
    sae.known.scale.copy_(torch.linspace(5.0, 1.0, sae.num_bins))
    assert sae.modulation is not None
    for parameter in sae.modulation.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return sae.eval().requires_grad_(False)

"""The shipped pipeline, loaded once."""

from __future__ import annotations

import pytest
import torch

from tide_lightning.diffusion import Denoiser, load_denoiser
from tide_lightning.saes import TideSAE
from tide_lightning.tokens import SiteShape

PIPELINE = "package:tide_lightning.toybox/pipeline"
SITE = "transformer_blocks.2"


@pytest.fixture(scope="package")
def denoiser() -> Denoiser:
    return load_denoiser(PIPELINE)


@pytest.fixture(scope="package")
def sae(denoiser: Denoiser) -> TideSAE:
    """An untrained SAE whose known part is not zero, and whose scale changes with time."""
    width = denoiser.site_widths(denoiser.resolve_sites([SITE]))[SITE]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        patch = denoiser.patch_width
        shape = SiteShape(width, denoiser.grid, patch, 9 * patch)
        sae = TideSAE(shape, expansion_factor=2, k=8, unmodulate=True, scale_by_timestep=True)
        sae.known.intercept.normal_()
        sae.known.weight.normal_(std=0.1)
        sae.known.scale.copy_(torch.linspace(5.0, 1.0, sae.num_bins))
        assert sae.modulation is not None
        for parameter in sae.modulation.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return sae.eval().requires_grad_(False)

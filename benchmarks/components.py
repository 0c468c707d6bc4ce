"""Controls without a dictionary: principal components about the known part, in the denoiser's metric.

What remains of TideSAE without latents: the same known part, scales and metric, and a code of k (or 2k) numbers that
are the same directions for every token. Written as an SAE of twice as many latents, one for each side of a component,
of which just as many fire; so all that measures SAEs measures it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tide_lightning.datamodules import ActivationDataModule
from tide_lightning.saes import SAE, TideSAE
from tide_lightning.tokens import SiteShape
from tide_lightning.training import TideModule

PLAIN: dict[str, Any] = {
    "budget": "token",
    "refinements": 0,
    "pursuits": 0,
    "encoder_norm": 1.0,
}
"""The quickstart's arguments that components have no use for, and what stands in their place."""


def fit_components(
    data: ActivationDataModule, site: str, arguments: Mapping[str, Any], counts: Mapping[str, int], folder: Path
) -> None:
    """Fit and save, into a folder of its key each, those that are not there yet.

    `arguments` are the quickstart's of the site's SAE, `counts` the numbers of components by key.
    """
    missing = {key: count for key, count in counts.items() if not (folder / key / "cfg.json").is_file()}
    if not missing:
        return
    module = TideModule(data.site_shapes, saes={key: partial(_blank, arguments, n) for key, n in missing.items()})
    module.calibrate(data)
    module.eval()
    first = f"{site}@{next(iter(missing))}"  # all are calibrated alike
    sae = module.sae(first)
    count, total, square = 0, torch.zeros(sae.d_in).double(), torch.zeros(sae.d_in, sae.d_in).double()
    with torch.no_grad():
        for batch in data.calibration_batches():
            u_BD = sae(batch[site]).u.double()
            count, total, square = count + len(u_BD), total + u_BD.sum(0), square + u_BD.mT @ u_BD
    mean = total / count
    directions = torch.linalg.eigh(square / count - torch.outer(mean, mean))[1].flip(1)
    for key, number in missing.items():
        made = module.sae(f"{site}@{key}")
        _set(made, directions[:, :number].T, mean)
        made.save_pretrained(folder / key, site=site)


def _blank(arguments: Mapping[str, Any], number: int, shape: SiteShape) -> SAE:
    return TideSAE(shape, **{**arguments, **PLAIN, "expansion_factor": 2 * number / shape.d_in, "k": number})


@torch.no_grad()
def _set(sae: SAE, directions_KD: Tensor, mean: Tensor) -> None:
    """One latent for each side of each component."""
    rows = torch.cat([directions_KD, -directions_KD]).to(sae.W_dec.dtype)
    sae.W_dec.copy_(rows)
    sae.W_enc.copy_(rows)
    sae.b_enc.zero_()
    sae.b_dec.copy_(mean.to(sae.b_dec.dtype))

"""What SAEs of one block of the toybox keep: reconstruction, health and the denoiser's loss on held-out samples."""

from __future__ import annotations

from typing import Any

import torch

from tide_lightning.datamodules import ActivationDataModule
from tide_lightning.evaluation.fidelity import Fidelity
from tide_lightning.evaluation.reconstruction import SiteReconstruction
from tide_lightning.saes import LEAKING, SAE

SITE = "transformer_blocks.3"

Figures = dict[str, Any]


@torch.no_grad()
def measure(data: ActivationDataModule, saes: dict[str, SAE], fidelity_samples: int) -> dict[str, Figures]:
    """Each SAE's figures; without the losses where it must not be spliced."""
    figures = {name: SiteReconstruction(sae, num_bins=10) for name, sae in saes.items()}
    fidelity: dict[str, Fidelity] = {}
    seen = 0
    for batch in data.test_dataloader():
        tokens = batch.tokens[SITE]
        for name, sae in saes.items():
            figures[name].update(tokens, sae(tokens))
            if sae.known.rung not in LEAKING and name not in fidelity:
                fidelity[name] = Fidelity(data.denoiser, {SITE: sae}, {SITE: tokens.x.mean(0)}, num_bins=10)
        call = batch.call
        if seen < fidelity_samples and call.x0 is not None and call.noise is not None:
            target = data.denoiser.schedule.target(call.x0, call.noise, call.raw_t)
            for part in fidelity.values():
                part.update(call.x_t, call.raw_t, call.conditioning, target)
            seen += len(batch)
    rows = {}
    for name in saes:
        found = figures[name].compute()
        rows[name] = {key: found[key] for key in ("explained_variance", "fvu", "alive_fraction", "l0", "tokens")}
        if name in fidelity:
            losses = fidelity[name].compute()["sites"][SITE]
            rows[name] |= {key: losses[key] for key in ("loss_increase", "loss_increase_known")}
    return rows

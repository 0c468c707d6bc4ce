"""Fidelity: the denoising loss with spliced activations, on the same noised samples as without.

For each SAE alone and, where every site has one SAE, all together, the site's activations are replaced by the SAE's
reconstruction (`spliced`), the known part alone (`known`) and the calibration tokens' mean (`ablated`). Sums over
samples are kept by bin of t and reduced over ranks; every figure is a quotient of sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tide_lightning.diffusion import Conditioning, Denoiser
from tide_lightning.evaluation.figures import bin_edges, mean_over_bins, measured, ratio
from tide_lightning.intervene.splicing import (
    ALL,
    Predictor,
    constant,
    known_alone,
    reconstruct_by,
    splice_cases,
    splice_denoiser,
    why_not,
)
from tide_lightning.reduction import all_reduce_sum
from tide_lightning.saes import SAE

KINDS = ("spliced", "known", "ablated")


class Fidelity:
    """Accumulates losses.

    Args:
        denoiser: the frozen denoiser.
        saes: by site.
        means: each site's mean activation [D], for the ablation.
        num_bins: equal bins of t in [0, 1].
    """

    def __init__(self, denoiser: Denoiser, saes: Mapping[str, SAE], means: Mapping[str, Tensor], num_bins: int) -> None:
        self.denoiser, self.num_bins = denoiser, num_bins
        self.absent = {site: reason for site, sae in saes.items() if (reason := why_not(sae))}
        saes = {site: sae for site, sae in saes.items() if site not in self.absent}
        predictors: dict[str, dict[str, Predictor]] = {
            "spliced": {site: reconstruct_by(sae) for site, sae in saes.items()},
            "known": {site: known_alone(sae) for site, sae in saes.items()},
            "ablated": {site: constant(means[site].float()) for site in saes},
        }
        cases = splice_cases(saes)
        if self.absent:
            cases.pop(ALL, None)
        self.cases = list(cases)
        self.spliced = {
            (name, kind): splice_denoiser(denoiser, {site: predictors[kind][site] for site in sites})
            for name, sites in cases.items()
            for kind in KINDS
        }
        device = denoiser.device
        self.count = torch.zeros(num_bins, dtype=torch.float64, device=device)
        self.original = torch.zeros_like(self.count)
        self.losses = {key: torch.zeros_like(self.count) for key in self.spliced}

    @torch.no_grad()
    def update(self, x_t: Tensor, raw_t: Tensor, conditioning: Conditioning, target: Tensor) -> None:
        """Add samples: what the denoiser is given, and what it should predict [N, *latent_shape]."""
        if not self.cases:
            return
        t = self.denoiser.schedule.t(raw_t)
        bins = (t * self.num_bins).long().clamp(0, self.num_bins - 1)
        self.count.index_add_(0, bins, torch.ones_like(bins, dtype=torch.float64))

        def loss(denoiser: Denoiser) -> Tensor:
            error = denoiser.predict(x_t, raw_t, conditioning).double() - target.double()
            return error.square().flatten(1).mean(1)

        self.original.index_add_(0, bins, loss(self.denoiser))
        for key, denoiser in self.spliced.items():
            self.losses[key].index_add_(0, bins, loss(denoiser))

    def compute(self) -> dict[str, Any]:
        """The entry `fidelity` of metrics.json (on every rank alike); call once."""
        for total in (self.count, self.original, *self.losses.values()):
            all_reduce_sum(total)
        cases = {name: self._figures(name) for name in self.cases} if self.count.any() else {}
        found: dict[str, Any] = {
            "samples": int(self.count.sum()),
            "loss_original": ratio(float(self.original.sum()), float(self.count.sum())),
            "sites": {name: figures for name, figures in cases.items() if name != ALL},
            "absent": self.absent,
        }
        return dict(measured(found | ({ALL: cases[ALL]} if ALL in cases else {})))

    def _figures(self, name: str) -> dict[str, Any]:
        bins = [
            {**bin_edges(b, self.num_bins), "samples": int(self.count[b]), **self._losses(name, slice(b, b + 1))}
            for b in self.count.nonzero().squeeze(1).tolist()
        ]
        total = self._losses(name, slice(None))
        even = {f"{key}_even": mean_over_bins(bins, key) for key in ("loss_increase", "loss_increase_known")}
        found: dict[str, Any] = {**total, **even, "by_timestep": bins}
        below = [row for row in bins if row["loss_increase"] < -_SLACK]
        if total["loss_increase"] < 0 or below:
            found["fault"] = (
                "the spliced loss is below the original's"
                + (" in total" if total["loss_increase"] < 0 else "")
                + "".join(f", t {row['low']:g} to {row['high']:g}" for row in below)
                + ": the splice must know something that the denoiser was not given, or the denoiser is undertrained"
            )
        return found

    def _losses(self, name: str, bins: slice) -> dict[str, float]:
        count = float(self.count[bins].sum())
        original = float(self.original[bins].sum()) / count
        spliced, known, ablated = (float(self.losses[name, kind][bins].sum()) / count for kind in KINDS)
        return {
            "loss_original": original,
            "loss_spliced": spliced,
            "loss_known": known,
            "loss_ablated": ablated,
            "loss_increase": ratio(spliced - original, original),
            "loss_increase_known": ratio(known - original, original),
            "loss_recovered": ratio(ablated - spliced, ablated - original),
        }


_SLACK = 0.01
"""In one bin of few samples the loss may fall by this much without meaning anything."""

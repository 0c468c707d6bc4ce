"""Fidelity: the denoising loss with spliced activations, on the same noised samples as without.

For each SAE alone and, where every site has one SAE, all together, the site's activations are replaced by the SAE's
reconstruction (`spliced`), the known part alone (`known`) and the calibration tokens' mean (`ablated`). Sums over
samples are kept by bin of t and reduced over ranks; every figure is a quotient of sums.

Shapes: N samples, R = 1 + draws of a bootstrap (the first counts each sample once), K bins of t, W weightings of the
loss over t (as it is; as the denoiser was trained, where that is known).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from tide_lightning.diffusion import Conditioning, Denoiser, Replicas
from tide_lightning.diffusion.loss_weights import loss_weight
from tide_lightning.evaluation.bootstrap import NUM_DRAWS, drawn, interval
from tide_lightning.evaluation.figures import bin_edges, measured, ratio
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
from tide_lightning.tokens import bin_of

KINDS = ("spliced", "known", "ablated")


class Fidelity:
    """Accumulates losses.

    Args:
        denoiser: the frozen denoiser.
        saes: by site.
        means: each site's mean activation [D], for the ablation.
        num_bins: equal bins of t in [0, 1].
        seed: of the bootstrap over samples.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        saes: Mapping[str, SAE],
        means: Mapping[str, Tensor],
        num_bins: int,
        seed: int = 0,
    ) -> None:
        self.denoiser, self.num_bins, self.seed = denoiser, num_bins, seed
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
        self.splices = {
            (name, kind): {site: predictors[kind][site] for site in sites}
            for name, sites in cases.items()
            for kind in KINDS
        }
        self.replicas = Replicas(denoiser)
        device, num_weightings = denoiser.device, 1 if denoiser.loss_weights is None else 2
        sizes = num_weightings, 1 + NUM_DRAWS, num_bins
        self.count = torch.zeros(1 + NUM_DRAWS, num_bins, dtype=torch.float64, device=device)
        self.original = torch.zeros(sizes, dtype=torch.float64, device=device)
        self.losses = {key: torch.zeros_like(self.original) for key in self.splices}

    @torch.no_grad()
    def update(
        self, x_t: Tensor, raw_t: Tensor, conditioning: Conditioning, target: Tensor, numbers: Sequence[int]
    ) -> None:
        """Add samples.

        Args:
            x_t: what the denoiser is given.
            raw_t: as it is given it.
            conditioning: likewise.
            target: what it should predict [N, *latent_shape].
            numbers: the samples' own, the same ones whoever measures them.
        """
        if not self.cases:
            return
        t, schedule, name = self.denoiser.schedule.t(raw_t), self.denoiser.schedule, self.denoiser.loss_weights
        bins_NK = one_hot(bin_of(t, self.num_bins), self.num_bins).double()
        counts_RN = drawn(numbers, self.seed).to(raw_t.device)
        weights_WN = torch.ones(1, len(raw_t), dtype=torch.float64, device=raw_t.device)
        if name is not None:
            weights_WN = torch.cat([weights_WN, loss_weight(name, schedule, raw_t).unsqueeze(0)])
        self.count += counts_RN @ bins_NK

        def summed(denoiser: Denoiser, splice: dict[str, Predictor]) -> Tensor:
            runner = splice_denoiser(denoiser, splice) if splice else denoiser
            error = runner.predict(x_t, raw_t, conditioning).double() - target.double()
            loss_WN = weights_WN * error.square().flatten(1).mean(1)
            return counts_RN @ (loss_WN.unsqueeze(2) * bins_NK)

        totals = [self.original, *self.losses.values()]
        for total, found in zip(totals, self.replicas.map(summed, [{}, *self.splices.values()]), strict=True):
            total += found

    def compute(self) -> dict[str, Any]:
        """The entry `fidelity` of metrics.json (on every rank alike); call once."""
        for total in (self.count, self.original, *self.losses.values()):
            all_reduce_sum(total)
        num_samples = int(self.count[0].sum())
        cases = {name: self._figures(name) for name in self.cases} if num_samples else {}
        found: dict[str, Any] = {
            "samples": num_samples,
            "loss_original": ratio(float(self.original[0, 0].sum()), num_samples),
            **({} if self.denoiser.loss_weights is None else {"loss_weights": self.denoiser.loss_weights}),
            "sites": {name: figures for name, figures in cases.items() if name != ALL},
            "absent": self.absent,
        }
        return dict(measured(found | ({ALL: cases[ALL]} if ALL in cases else {})))

    def _figures(self, name: str) -> dict[str, Any]:
        bins = [
            {**bin_edges(b, self.num_bins), "samples": int(self.count[0, b]), **self._losses(name, slice(b, b + 1))}
            for b in self.count[0].nonzero().squeeze(1).tolist()
        ]
        total = self._losses(name, slice(None))
        found: dict[str, Any] = {**total, **self._over_time(name), "by_timestep": bins}
        below = [row for row in bins if row["loss_increase"] < -_SLACK]
        if total["loss_increase"] < 0 or below:
            found["fault"] = (
                "the spliced loss is below the original's"
                + (" in total" if total["loss_increase"] < 0 else "")
                + "".join(f", t {row['low']:g} to {row['high']:g}" for row in below)
                + ": the splice must know something that the denoiser was not given, or the denoiser is undertrained"
            )
        return found

    def _over_time(self, name: str) -> dict[str, Any]:
        """Loss increases that take every bin of t alike, or as training did, with intervals over samples."""
        original_WRK = self.original / self.count
        found: dict[str, Any] = {}
        for kind, suffix in (("spliced", ""), ("known", "_known")):
            spliced_WRK = self.losses[name, kind] / self.count
            even_R = ((spliced_WRK[0] - original_WRK[0]) / original_WRK[0]).nanmean(1)
            figures = {"even": even_R}
            if len(original_WRK) > 1:
                original_R, spliced_R = (each[1].nanmean(1) for each in (original_WRK, spliced_WRK))
                figures["as_trained"] = (spliced_R - original_R) / original_R
            for which, values_R in figures.items():
                found[f"loss_increase{suffix}_{which}"] = float(values_R[0])
                found[f"loss_increase{suffix}_{which}_interval"] = list(interval(values_R))
        return found

    def _losses(self, name: str, bins: slice) -> dict[str, float]:
        count = float(self.count[0, bins].sum())
        original = float(self.original[0, 0, bins].sum()) / count
        spliced, known, ablated = (float(self.losses[name, kind][0, 0, bins].sum()) / count for kind in KINDS)
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

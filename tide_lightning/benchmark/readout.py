"""Read-out of depth and mask, token by token, from the sparse codes and beside them from cheaper things.

Shapes: B tokens, M latents that are read, D channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tide_lightning.benchmark.probes import fit_ridge
from tide_lightning.benchmark.reading import Reading
from tide_lightning.benchmark.scenes import LabelledScenes
from tide_lightning.benchmark.scores import best_threshold, iou_counts, square_sums
from tide_lightning.saes import SparseCode

READERS = ("codes", "random", "dense", "known", "position")
"""The codes' best latents and as many random ones; the activation; the known part; the place alone."""


class ReadOut:
    """Depth and mask of one site, bin after bin of t, with sums for all bins together.

    Depth is read twice: as it is, and beyond what each place's mean depth tells already. Each reader is a ridge
    regression fitted on the training scenes' tokens. The codes are read through as many latents as the activation has
    channels, those that correlate best with one of the targets in that bin.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._totals: dict[str, list[float]] = {}

    def update(
        self, train: tuple[LabelledScenes, Reading], test: tuple[LabelledScenes, Reading]
    ) -> dict[str, dict[str, float]]:
        """Measure one bin of t: depth_r2, depth_r2_beyond_position and mask_iou by reader."""
        depth, held_out = train[0].depth, test[0].depth
        usual = depth.double().mean(0)
        targets = _targets(train[0], usual)
        goal = _targets(test[0], usual)
        found: dict[str, dict[str, float]] = {}
        for name in READERS:
            fitted_on, measured_on = self._features(name, train, test, targets)
            probe = fit_ridge(fitted_on[None], targets[None])
            fitted, predicted = probe(fitted_on[None])[0], probe(measured_on[None])[0]
            threshold = best_threshold(fitted[:, 2:], targets[:, 2:])[0]
            sums = [
                *square_sums(predicted[:, 0], goal[:, 0], float(held_out.double().mean())),
                *square_sums(predicted[:, 1], goal[:, 1], 0.0),
                *map(float, iou_counts(predicted[:, 2] >= threshold, goal[:, 2] > 0.5)),
            ]
            total = self._totals.setdefault(name, [0.0] * len(sums))
            self._totals[name] = [before + now for before, now in zip(total, sums, strict=True)]
            for figure, number in _figures(sums).items():
                found.setdefault(figure, {})[name] = number
        return found

    def compute(self) -> dict[str, dict[str, float]]:
        """All bins together."""
        found: dict[str, dict[str, float]] = {}
        for name, sums in self._totals.items():
            for figure, number in _figures(sums).items():
                found.setdefault(figure, {})[name] = number
        return found

    def _features(
        self, name: str, train: tuple[LabelledScenes, Reading], test: tuple[LabelledScenes, Reading], targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        if name == "position":
            tokens = train[0].depth.shape[1]
            place = torch.eye(tokens, dtype=torch.float64, device=targets.device)
            return place.repeat(len(train[0]), 1), place.repeat(len(test[0]), 1)
        if name in ("dense", "known"):
            field = "x" if name == "dense" else "known"
            return getattr(train[1], field), getattr(test[1], field)
        num_read = train[1].x.shape[1]
        if name == "codes":
            latents = _correlations(train[1].codes, targets).abs().amax(1).topk(num_read).indices
        else:
            fired = torch.stack([code.fired() for code in train[1].codes]).sum(0).nonzero().squeeze(1).cpu()
            generator = torch.Generator().manual_seed(self._seed)
            latents = fired[torch.randperm(len(fired), generator=generator)[:num_read]].to(targets.device)
        return _columns(train[1].codes, latents), _columns(test[1].codes, latents)


def _targets(scenes: LabelledScenes, usual_T: Tensor) -> Tensor:
    depth = scenes.depth.double()
    return torch.stack([depth, depth - usual_T, scenes.mask.double()], 2).flatten(0, 1)


def _correlations(codes: list[SparseCode], targets_BC: Tensor) -> Tensor:
    """Correlation of every latent with every target [M, C], from sums over the active entries alone."""
    centred = targets_BC - targets_BC.mean(0)
    num_latents, start = codes[0].num_latents, 0
    sums = targets_BC.new_zeros(num_latents, 2)
    products = targets_BC.new_zeros(num_latents, targets_BC.shape[1])
    for code in codes:
        tokens, latents, values = code.tokens(), code.indices.flatten(), code.values.flatten().double()
        sums.index_add_(0, latents, torch.stack([values, values.square()], 1))
        products.index_add_(0, latents, values.unsqueeze(1) * centred[start + tokens])
        start += code.num_tokens
    mean = sums[:, 0] / start
    variance = (sums[:, 1] / start - mean.square()).clamp(min=0)
    scale = (variance.unsqueeze(1) * centred.square().mean(0)).sqrt()
    return torch.where(scale > 0, products / start / scale.where(scale > 0, 1), 0)


def _columns(codes: list[SparseCode], latents_M: Tensor) -> Tensor:
    """The codes of some latents, written out [B, M]."""
    column = torch.full((codes[0].num_latents,), len(latents_M), device=latents_M.device)
    column[latents_M] = torch.arange(len(latents_M), device=latents_M.device)
    parts = []
    for code in codes:
        dense = code.values.new_zeros(code.num_tokens, len(latents_M) + 1)
        dense.index_put_((code.tokens(), column[code.indices.flatten()]), code.values.flatten(), accumulate=True)
        parts.append(dense[:, :-1])
    return torch.cat(parts)


def _figures(sums: list[float]) -> dict[str, float]:
    error, variance, error_beyond, variance_beyond, both, either = sums
    return {
        "depth_r2": _one_minus(error, variance),
        "depth_r2_beyond_position": _one_minus(error_beyond, variance_beyond),
        "mask_iou": both / either if either else float("nan"),
    }


def _one_minus(part: float, whole: float) -> float:
    return 1 - part / whole if whole else float("nan")

"""Read-out of maps and masks, token by token, from the sparse codes and beside them from cheaper things.

Shapes: B tokens, M latents that are read, D channels, C targets.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tide_lightning.benchmark.examples import Examples
from tide_lightning.benchmark.probes import fit_ridge
from tide_lightning.benchmark.reading import Reading
from tide_lightning.evaluation.scores import best_threshold, iou_counts, square_sums
from tide_lightning.saes import SparseCode

READERS = ("codes", "random", "dense", "known", "position")
"""The codes' best latents and as many random ones; the activation; the known part; the place alone."""

R2, BEYOND, IOU = "_r2", "_r2_beyond_position", "_iou"
"""What is appended to the name of a map (the first two) or mask to name a figure of it."""

LABELS = {BEYOND: " beyond position, R²", R2: ", R²", IOU: ", IoU"}
"""The same for people."""


def label(figure: str) -> str:
    """A figure's name for people."""
    ending = next(ending for ending in LABELS if figure.endswith(ending))
    return figure.removesuffix(ending) + LABELS[ending]


class ReadOut:
    """Maps and masks of one site, bin after bin of t, with sums for all bins together.

    A map is read twice: as it is, and beyond what each place's mean tells already. Each reader is a ridge regression
    fitted on the training images' tokens. The codes are read through as many latents as the activation has channels,
    those that correlate best with one of the targets in that bin.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._totals: dict[str, dict[str, tuple[float, float]]] = {}

    def update(self, train: tuple[Examples, Reading], test: tuple[Examples, Reading]) -> dict[str, dict[str, float]]:
        """Measure one bin of t: each figure by reader; none where the ground has neither maps nor masks."""
        found: dict[str, dict[str, float]] = {}
        usual = {name: values.double().mean(0) for name, values in train[0].maps.items()}
        targets, goals = (_targets(examples, usual) for examples, _ in (train, test))
        if not targets:
            return found
        targets_BC = torch.stack(list(targets.values()), 1)
        for name in READERS:
            fitted_on, measured_on = self._features(name, train, test, targets_BC)
            probe = fit_ridge(fitted_on[None], targets_BC[None])
            fitted, predicted = probe(fitted_on[None])[0], probe(measured_on[None])[0]
            for number, (figure, goal) in enumerate(goals.items()):
                said = predicted[:, number]
                if figure.endswith(IOU):
                    threshold = best_threshold(fitted[:, number : number + 1], targets_BC[:, number : number + 1])[0]
                    sums = tuple(map(float, iou_counts(said >= threshold, goal > 0.5)))
                else:
                    sums = square_sums(said, goal, 0.0 if figure.endswith(BEYOND) else float(goal.mean()))
                total = self._totals.setdefault(figure, {}).get(name, (0.0, 0.0))
                self._totals[figure][name] = total[0] + sums[0], total[1] + sums[1]
                found.setdefault(figure, {})[name] = _value(figure, *sums)
        return found

    def compute(self) -> dict[str, dict[str, float]]:
        """All bins together."""
        return {
            figure: {name: _value(figure, *sums) for name, sums in readers.items()}
            for figure, readers in self._totals.items()
        }

    def _features(
        self, name: str, train: tuple[Examples, Reading], test: tuple[Examples, Reading], targets_BC: Tensor
    ) -> tuple[Tensor, Tensor]:
        if name == "position":
            tokens = len(targets_BC) // len(train[0])
            place = torch.eye(tokens, dtype=torch.float64, device=targets_BC.device)
            return place.repeat(len(train[0]), 1), place.repeat(len(test[0]), 1)
        if name in ("dense", "known"):
            field = "x" if name == "dense" else "known"
            return getattr(train[1], field), getattr(test[1], field)
        num_read = train[1].x.shape[1]
        if name == "codes":
            strength_F = _correlations(train[1].codes, targets_BC).abs().amax(1)
            latents = strength_F.topk(min(num_read, len(strength_F))).indices
        else:
            fired = torch.stack([code.fired() for code in train[1].codes]).sum(0).nonzero().squeeze(1).cpu()
            generator = torch.Generator().manual_seed(self._seed)
            latents = fired[torch.randperm(len(fired), generator=generator)[:num_read]].to(targets_BC.device)
        return _columns(train[1].codes, latents), _columns(test[1].codes, latents)


def _targets(examples: Examples, usual: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is read, by figure [B] float64."""
    found: dict[str, Tensor] = {}
    for name, values in examples.maps.items():
        found |= {name + R2: values.double(), name + BEYOND: values.double() - usual[name]}
    found |= {name + IOU: inside.double() for name, inside in examples.masks.items()}
    return {figure: target_NT.flatten() for figure, target_NT in found.items()}


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


def _value(figure: str, part: float, whole: float) -> float:
    if not whole:
        return float("nan")
    return part / whole if figure.endswith(IOU) else 1 - part / whole

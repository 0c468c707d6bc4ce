"""What it costs to leave out of an SAE what other libraries do not have: measured on held-out samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tide_lightning.datamodules import ActivationDataModule
from tide_lightning.datamodules.harvest import Call
from tide_lightning.datamodules.heldout import HeldOutBatch
from tide_lightning.diffusion import Denoiser, unlabelled
from tide_lightning.intervene.splicing import reconstruct_by, splice_denoiser, why_not
from tide_lightning.saes import SAE, SparseCode
from tide_lightning.tokens import TokenBatch


@dataclass
class _Sums:
    """Over tokens: squared error, active latents; over samples: the denoiser's loss with the reconstruction spliced."""

    error: float = 0.0
    active: float = 0.0
    loss: float = 0.0


class Cost:
    """Of taking a part of an SAE for the whole, at one site."""

    def __init__(self, key: str, whole: SAE, part: SAE, data: ActivationDataModule) -> None:
        self.site, self.data = unlabelled(key), data
        self.saes = {"whole": whole, "part": part}
        self.sums = {name: _Sums() for name in self.saes}
        self.spliced = {
            name: splice_denoiser(data.denoiser, {self.site: reconstruct_by(sae)})
            for name, sae in self.saes.items()
            if why_not(sae) is None
        }
        self.original, self.shared, self.tokens, self.samples = 0.0, 0.0, 0, 0
        self.squares, self.total = 0.0, torch.zeros(whole.d_in, dtype=torch.float64, device=data.denoiser.device)

    @torch.no_grad()
    def update(self, batch: HeldOutBatch) -> None:
        """Take in held-out samples."""
        tokens = batch.tokens[self.site]
        self.tokens, self.samples = self.tokens + len(tokens), self.samples + len(batch)
        self.total += tokens.x.double().sum(0)
        self.squares += float(tokens.x.double().square().sum())
        codes = {name: self._reconstruct(name, tokens) for name in self.saes}
        self.shared += float(((codes["whole"].to_dense() > 0) & (codes["part"].to_dense() > 0)).sum())
        if batch.call.x0 is not None and batch.call.noise is not None and self.spliced:
            target = self.data.denoiser.schedule.target(batch.call.x0, batch.call.noise, batch.call.raw_t)
            self.original += self._loss(self.data.denoiser, batch.call, target)
            for name, denoiser in self.spliced.items():
                self.sums[name].loss += self._loss(denoiser, batch.call, target)

    def compute(self) -> dict[str, float]:
        """FVU, L0 and loss increase of both, and what share of the latents active in either is active in both."""
        spread = self.squares - float(self.total.square().sum()) / self.tokens
        either = sum(sums.active for sums in self.sums.values()) - self.shared
        found = {"samples": float(self.samples), "shared_support": self.shared / max(either, 1.0)}
        for name, sums in self.sums.items():
            found |= {f"fvu_{name}": sums.error / spread, f"l0_{name}": sums.active / self.tokens}
            if self.original:
                found[f"loss_increase_{name}"] = (sums.loss - self.original) / self.original
        return found

    def _reconstruct(self, name: str, tokens: TokenBatch) -> SparseCode:
        output, sums = self.saes[name](tokens), self.sums[name]
        sums.error += float((tokens.x - output.x_hat).double().square().sum())
        sums.active += float(output.code.l0().sum())
        code: SparseCode = output.code
        return code

    def _loss(self, denoiser: Denoiser, call: Call, target: Tensor) -> float:
        """The sum over samples."""
        total = 0.0
        for rows in torch.arange(len(target)).split(self.data.forward_batch_size or len(target)):
            said = denoiser.predict(call.x_t[rows], call.raw_t[rows], call.conditioning.select(rows))
            total += float((said.double() - target[rows].double()).square().flatten(1).mean(1).sum())
        return total

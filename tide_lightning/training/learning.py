"""One SAE's training step: its loss, and what is counted of it, as operations on tensors in memory that stays."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

from tide_lightning.saes import SAE, SAEOutput, training_loss
from tide_lightning.saes.losses import Loss
from tide_lightning.tokens import TokenBatch
from tide_lightning.training.finite import poisoned
from tide_lightning.training.health import FiringClock
from tide_lightning.training.interval import Interval
from tide_lightning.training.metrics import ReconstructionMetric


class LearningStep:
    """What an SAE's batch is made of.

    Args:
        site: the SAE's key.
        sae: which learns.
        clock: of its latents.
        metric: of the tokens trained on.
        interval: sums of all SAEs' losses.
        alpha: weight of the AuxK loss.
        k_aux: dead latents that try to explain a token's error.
    """

    def __init__(
        self,
        site: str,
        sae: SAE,
        clock: FiringClock,
        metric: ReconstructionMetric,
        interval: Interval,
        alpha: float,
        k_aux: int | None,
    ) -> None:
        self.site, self.sae, self.clock, self.metric, self.interval = site, sae, clock, metric, interval
        self.alpha, self.k_aux = alpha, k_aux

    def __call__(self, tokens: TokenBatch, dead: Tensor | None) -> tuple[Tensor, Tensor]:
        """The loss, whose gradients are still to be taken, and the tokens that were counted."""
        loss, output = self.lose(tokens, dead)
        return loss.total, self.account(tokens, loss, output)

    def lose(self, tokens: TokenBatch, dead: Tensor | None) -> tuple[Loss, SAEOutput]:
        """The loss of tokens, given the dead latents; nothing is written."""
        output: SAEOutput = self.sae(tokens, dead, self.k_aux)
        loss = training_loss(output, self.alpha)
        return loss._replace(total=poisoned(loss.total)), output

    @torch.no_grad()
    def account(self, tokens: TokenBatch, loss: Loss, output: SAEOutput) -> Tensor:
        """Take in what came of them: thresholds, clocks, sums for the log. The tokens of all ranks."""
        self.sae.follow(tokens, output)
        counted = self.clock.tick(output.code.fired(), len(tokens))
        self.interval.add(self.site, loss.named())
        self.metric.add(tokens, output)
        return counted

    def held(self) -> list[Tensor]:
        """Whatever is read or written besides the tokens."""
        kept = [*self.sae.parameters(), *self.sae.buffers(), *self.clock.buffers()]
        return [*kept, *self.metric.sums(), *self.interval.sums(self.site)]

    def settings(self) -> Hashable:
        """The numbers on which it depends."""
        return self.alpha, self.k_aux, self.sae.training, repr(self.sae.config)

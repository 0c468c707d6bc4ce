"""How long a plan takes on a machine: operations over rates, with assumed utilisations. An estimate, not a promise."""

from __future__ import annotations

from typing import NamedTuple

from tide_lightning.planning.machines import Machine
from tide_lightning.planning.plan import Plan


class Assumed(NamedTuple):
    """What is assumed of every machine.

    Fields:
        utilisation: share of the peak that matrix products reach.
        streaming: share of the memory's bandwidth that passes over weights reach.
        linking: share of the link that all-reduces reach.
    """

    utilisation: float = 0.4
    streaming: float = 0.7
    linking: float = 0.6


class Estimate(NamedTuple):
    """Of one step on each rank, in seconds; nothing overlaps.

    Fields:
        denoiser: its forwards.
        saes: their products, rows and optimiser.
        communication: gradients added up over ranks.
        tokens_per_second: kept tokens of each site, over all ranks.
        hours: of the run; NaN if it has no end.
        fits: whether the memory is enough.
    """

    denoiser: float
    saes: float
    communication: float
    tokens_per_second: float
    hours: float
    fits: bool

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return self.denoiser + self.saes + self.communication


def estimate(plan: Plan, machine: Machine, assumed: Assumed | None = None) -> Estimate:
    """Time and fit of a plan on `plan.ranks` such machines."""
    shares, ranks = assumed or Assumed(), plan.ranks
    denoiser = plan.denoiser_operations / ranks / (machine.peak(plan.dtype) * shares.utilisation)
    products = sum(work.products * plan.tokens[key] for key, work in plan.saes.items()) / ranks
    rows = sum(work.row_bytes * plan.tokens[key] for key, work in plan.saes.items()) / ranks
    passes = sum(work.step_bytes for work in plan.saes.values()) / (ranks if plan.sharded else 1)
    saes = products / (machine.peak(plan.sae_dtype) * shares.utilisation)
    saes += (rows + passes) / (1e9 * machine.bandwidth * shares.streaming)
    communication = plan.sent_bytes / (1e9 * machine.link * shares.linking)
    step = denoiser + saes + communication
    return Estimate(
        denoiser,
        saes,
        communication,
        tokens_per_second=plan.kept / step,
        hours=plan.steps * step / 3600 if plan.steps >= 0 else float("nan"),
        fits=sum(plan.memory().values()) <= 0.95e9 * machine.memory,
    )

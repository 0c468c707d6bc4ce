"""What a configuration means, before it runs: its sites, and what it will cost."""

from tide_lightning.planning.estimate import Assumed, Estimate, estimate
from tide_lightning.planning.machines import GPUS, Machine, gpu, this_machine
from tide_lightning.planning.plan import Plan, plan_run
from tide_lightning.planning.printing import print_plan, print_sites
from tide_lightning.planning.sites import measure_sites
from tide_lightning.planning.work import DenoiserWork, SAEWork, denoiser_work, sae_work

__all__ = [
    "GPUS",
    "Assumed",
    "DenoiserWork",
    "Estimate",
    "Machine",
    "Plan",
    "SAEWork",
    "denoiser_work",
    "estimate",
    "gpu",
    "measure_sites",
    "plan_run",
    "print_plan",
    "print_sites",
    "sae_work",
    "this_machine",
]

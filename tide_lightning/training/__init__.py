"""The LightningModule, its optimiser, health and metrics."""

from tide_lightning.training.health import FiringClock
from tide_lightning.training.metrics import Reconstruction, ReconstructionMetric
from tide_lightning.training.module import TideModule
from tide_lightning.training.optimisation import reset_rows
from tide_lightning.training.steps import steps_of_fit, total_steps

__all__ = [
    "FiringClock",
    "Reconstruction",
    "ReconstructionMetric",
    "TideModule",
    "reset_rows",
    "steps_of_fit",
    "total_steps",
]

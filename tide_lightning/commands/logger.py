"""TensorBoard without what says nothing here."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.pytorch.loggers import TensorBoardLogger


class RunLogger(TensorBoardLogger):
    """TensorBoard's events of a run. An epoch is so and so many batches of an endless stream: no figure."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log all but Lightning's epoch."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)

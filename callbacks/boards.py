"""Where a callback's pictures and histograms go: whichever of the trainer's loggers hold them."""

from __future__ import annotations

from typing import Protocol

from lightning import Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import Tensor

from tide_lightning.callbacks.drawings import Image


class Board(Protocol):
    """A logger that shows more than numbers."""

    def show_image(self, name: str, image: Image, step: int) -> None:
        """A picture of a step."""

    def show_histogram(self, name: str, values: Tensor, step: int) -> None:
        """How numbers are spread at a step."""


class _TensorBoard:
    def __init__(self, logger: TensorBoardLogger) -> None:
        self._writer = logger.experiment

    def show_image(self, name: str, image: Image, step: int) -> None:
        self._writer.add_image(name, image, step, dataformats="HWC")
        self._writer.flush()

    def show_histogram(self, name: str, values: Tensor, step: int) -> None:
        self._writer.add_histogram(name, values, step)


class _WeightsAndBiases:
    def __init__(self, logger: WandbLogger) -> None:
        self._logger = logger

    def show_image(self, name: str, image: Image, step: int) -> None:
        self._logger.log_image(name, [image], step)

    def show_histogram(self, name: str, values: Tensor, step: int) -> None:
        import wandb

        self._logger.log_metrics({name: wandb.Histogram(values.cpu().numpy())}, step)


class _MLflow:
    """It has no histograms."""

    def __init__(self, logger: MLFlowLogger) -> None:
        self._logger = logger

    def show_image(self, name: str, image: Image, step: int) -> None:
        self._logger.experiment.log_image(self._logger.run_id, image, key=name, step=step, synchronous=True)

    def show_histogram(self, name: str, values: Tensor, step: int) -> None:
        pass


def boards_of(trainer: Trainer) -> list[Board]:
    """Those of the trainer's loggers that show pictures; on the first process."""
    return [board for logger in trainer.loggers if (board := _board(logger)) is not None]


def left_out(trainer: Trainer) -> str:
    """What the trainer's loggers do not show, in one line; nothing where they show all."""
    without = {type(logger).__name__: "pictures and histograms" for logger in trainer.loggers if not _shows(logger)}
    without |= {type(logger).__name__: "histograms" for logger in trainer.loggers if isinstance(logger, MLFlowLogger)}
    return "; ".join(f"{name} shows no {what}" for name, what in without.items())


def _shows(logger: Logger) -> bool:
    return isinstance(logger, TensorBoardLogger | WandbLogger | MLFlowLogger)


def _board(logger: Logger) -> Board | None:
    if isinstance(logger, TensorBoardLogger):
        return _TensorBoard(logger)
    if isinstance(logger, WandbLogger):
        return _WeightsAndBiases(logger)
    return _MLflow(logger) if isinstance(logger, MLFlowLogger) else None

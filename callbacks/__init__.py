"""What watches over a training: resampling, schedules, monitors, exporters; and the writer of `tide predict`."""

from tide_lightning.callbacks.code_files import Codes, read_codes
from tide_lightning.callbacks.ending import EndTogether
from tide_lightning.callbacks.exporting import ExportSAEs
from tide_lightning.callbacks.leaving import LeaveCheckpoint
from tide_lightning.callbacks.monitoring import MonitorFeatures
from tide_lightning.callbacks.predicting import KeepPredictions
from tide_lightning.callbacks.progress import ShowProgress
from tide_lightning.callbacks.resampling import ResampleDeadLatents
from tide_lightning.callbacks.writing import WriteCodes

__all__ = [
    "Codes",
    "EndTogether",
    "ExportSAEs",
    "KeepPredictions",
    "LeaveCheckpoint",
    "MonitorFeatures",
    "ResampleDeadLatents",
    "ShowProgress",
    "WriteCodes",
    "read_codes",
]

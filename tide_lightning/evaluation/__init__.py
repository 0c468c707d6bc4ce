"""The protocol of `tide test`: figures, floors, fidelity, images, and the report."""

from tide_lightning.evaluation.end_to_end import EndToEnd, Trajectories
from tide_lightning.evaluation.fidelity import Fidelity
from tide_lightning.evaluation.floors import SiteFloors
from tide_lightning.evaluation.image_quality import Inception
from tide_lightning.evaluation.kept_floors import KeepFloors
from tide_lightning.evaluation.protocol import EvaluateProtocol
from tide_lightning.evaluation.reconstruction import SiteReconstruction
from tide_lightning.evaluation.report import write_report
from tide_lightning.evaluation.sections import MeasuresSection, Plot, Section, Table
from tide_lightning.intervene.splicing import splice_denoiser

__all__ = [
    "EndToEnd",
    "EvaluateProtocol",
    "Fidelity",
    "Inception",
    "KeepFloors",
    "MeasuresSection",
    "Plot",
    "Section",
    "SiteFloors",
    "SiteReconstruction",
    "Table",
    "Trajectories",
    "splice_denoiser",
    "write_report",
]

"""Which pre-activations a code keeps, and how they are found: by PyTorch, or by kernels for a GPU."""

from tide_lightning.kernels.selection.interface import Selected, Selection
from tide_lightning.kernels.selection.rules import BatchTopK, Rule, Threshold, TopK, Within

__all__ = ["BatchTopK", "Rule", "Selected", "Selection", "Threshold", "TopK", "Within"]

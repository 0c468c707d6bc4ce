"""What SAEs are for: a run opened, its features looked at, found by words, steered."""

from tide_lightning.explore.run import Run, open_run

__all__ = ["Run", "open_run"]

"""What SAEs are for: a run opened, its features looked at, found by words, steered."""

from tide_lightning.explore.finder import Found, find_by_images, find_by_lists, find_by_prompts, find_by_words
from tide_lightning.explore.lookup import look_up, look_up_by_centroid
from tide_lightning.explore.run import Run, open_run

__all__ = [
    "Found",
    "Run",
    "find_by_images",
    "find_by_lists",
    "find_by_prompts",
    "find_by_words",
    "look_up",
    "look_up_by_centroid",
    "open_run",
]

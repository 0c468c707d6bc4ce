from __future__ import annotations

from tests.training.conftest import pretrained

__all__ = ["pretrained"]

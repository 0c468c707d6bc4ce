from __future__ import annotations

from pathlib import Path

import pytest

from tests.diffusion.miniature import save_miniature


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder."""
    return save_miniature(tmp_path_factory.mktemp("pipeline"))

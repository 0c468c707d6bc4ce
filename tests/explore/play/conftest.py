"""A page that is served from a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tide_lightning.explore import Run
from tide_lightning.explore.play.server import PlayServer
from tide_lightning.explore.play.studio import Studio


@pytest.fixture(scope="package")
def server(run: Run) -> Iterator[PlayServer]:
    with PlayServer(Studio(run, steps=2), 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()

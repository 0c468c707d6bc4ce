"""Nothing in the tests reaches a hub or a GPU."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels for CUDA run on the CPU; read when they are imported


def pytest_report_header(config: pytest.Config) -> str:
    """Name what a run leaves out."""
    if any("peers" in argument for argument in config.args):
        return "tests/peers: against other SAE libraries"
    return "tests/peers are not among these: `make peers` builds their environment, .ci/run runs them there"

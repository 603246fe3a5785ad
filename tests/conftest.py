"""Fixtures of all rooms."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch is imported: workers of pytest-xdist share the cores, and threads that wait for each other stall.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def synthetic(data_root: Path):
    """`synthetic_small`, prepared once for the session."""
    from benchmarks.datasets.prepared import ensure

    return ensure("synthetic_small", data_root)

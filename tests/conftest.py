"""Fixtures of all rooms."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

# Before torch is imported: workers of pytest-xdist share the cores, and threads that wait for each other stall.
os.environ.setdefault("OMP_NUM_THREADS", "1")


TINY = "synthetic_small-tiny-v1"


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def synthetic(data_root: Path, tmp_path_factory: pytest.TempPathFactory):
    """`synthetic_small`, made once for all workers; a copy for each, with the short list `TINY` beside the others."""
    from benchmarks.datasets.prepared import ensure

    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "synthetic"
    shared.mkdir(exist_ok=True)
    with FileLock(shared / "lock"):
        made = ensure("synthetic_small", shared / "data").root
    shutil.copytree(made, data_root / made.name)
    (data_root / made.name / "splits").mkdir()
    (data_root / made.name / "splits" / f"{TINY}.json").write_text(json.dumps(_tiny()))
    return ensure("synthetic_small", data_root)


def _tiny() -> dict[str, object]:
    """A list that is trained and tested on in seconds: every class, and good parts to test on."""
    from benchmarks.datasets.splits import load_split

    few = load_split("synthetic_small", "synthetic_small-few100-v2", 0)
    parts = {"train": few.train, "val": few.val[:12] + few.val[-4:], "test": few.test[:24] + few.test[-6:]}
    return {"schema": 1, "dataset": "synthetic_small", "parts": parts}

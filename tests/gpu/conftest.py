"""What needs a CUDA device; clocks alone, the rest beside each other:

    python -m pytest -m gpu tests/gpu/test_cost.py -n 0
    python -m pytest -m gpu tests/gpu/test_correctness.py -n 8

`CANET_BENCH_GPU_TESTS_ON=cpu` runs what can run without one on the CPU, as CI does, so that the tests themselves do not
rot; it compares the CPU with itself.
"""

from __future__ import annotations

import os

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/gpu" in item.path.as_posix():
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU, or the CPU where that was asked for; skips, loudly, without either."""
    wanted = os.environ.get("CANET_BENCH_GPU_TESTS_ON", "cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        pytest.skip("NOT TESTED: torch sees no CUDA device here")
    # With its index, without which torch's memory settings do not take it.
    return torch.device(wanted, torch.cuda.current_device()) if wanted == "cuda" else torch.device(wanted)


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    """The GPU, for what a CPU cannot stand in for."""
    if device.type != "cuda":
        pytest.skip("NOT TESTED: it needs a CUDA device")
    return device


@pytest.fixture(autouse=True)
def plain_float32():
    """Convolutions and products in float32 itself, not in TF32."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    yield
    cudnn.allow_tf32, matmul.allow_tf32 = before

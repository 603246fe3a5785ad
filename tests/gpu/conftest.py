"""What needs a CUDA device; clocks alone, the rest beside each other:

    python -m pytest -m gpu tests/gpu/test_cost.py -n 0
    python -m pytest -m gpu tests/gpu/test_correctness.py -n 8

Where no number is given on a machine with a GPU, as in `python -m pytest -m gpu tests/gpu`, one test runs at a time;
clocks refuse to run beside others.

`CANET_BENCH_GPU_TESTS_ON=cpu` runs what can run without one on the CPU, as CI does, so that the tests themselves do not
rot; it compares the CPU with itself.
"""

from __future__ import annotations

import os

import pytest
import torch

_WANTED = os.environ.get("CANET_BENCH_GPU_TESTS_ON", "cuda")


def _shared_gpu() -> bool:
    """Whether tests that run beside each other would have one GPU for all."""
    return _WANTED == "cuda" and torch.cuda.is_available()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Of `-n auto`, which pyproject.toml gives: none where GPU tests are asked for and there is a GPU."""
    return 0 if "not gpu" not in config.option.markexpr and _shared_gpu() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/gpu" in item.path.as_posix():
            item.add_marker(pytest.mark.gpu)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Clocks and memory are not judged beside other tests on one GPU."""
    beside = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1
    if beside and item.path.name == "test_cost.py" and _shared_gpu():
        command = "python -m pytest -m gpu tests/gpu/test_cost.py -n 0"
        pytest.fail(f"it judges clocks and memory, and runs alone: {command}", pytrace=False)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU, or the CPU where that was asked for; skips, loudly, without either."""
    if _WANTED == "cuda" and not torch.cuda.is_available():
        pytest.skip("NOT TESTED: torch sees no CUDA device here")
    # With its index, without which torch's memory settings do not take it.
    return torch.device(_WANTED, torch.cuda.current_device()) if _WANTED == "cuda" else torch.device(_WANTED)


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

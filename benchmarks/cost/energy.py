"""Joules per image of a GPU board."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from benchmarks.cost.clock import synchronizer, time_whole
from benchmarks.cost.machine import gpu_uuid

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@contextlib.contextmanager
def energy_meter(device: torch.device) -> Iterator[Callable[[], float | None]]:
    """Yield a function that reads the joules the whole board has used since its driver was loaded.

    None without a GPU, without the package nvidia-ml-py, or where NVML does not count energy (before Volta).
    """
    if device.type != "cuda":
        yield lambda: None
        return
    try:
        import pynvml
    except ImportError:
        yield lambda: None
        return
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(gpu_uuid(device))
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except (pynvml.NVMLError, TypeError):
        yield lambda: None
        return
    try:
        yield lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
    finally:
        pynvml.nvmlShutdown()


def measure_energy(model: nn.Module, images: Sequence[Tensor], *, device: torch.device, seconds: float) -> float | None:
    """Joules per image at batch 1, of the whole GPU board, idle power included; None where nothing counts them.

    Models one after the other, not in turns: the counter moves a few dozen times a second only.
    """
    import torch

    synchronize = synchronizer(device)
    with torch.inference_mode(), energy_meter(device) as joules:
        if joules() is None:
            return None
        model.to(device).eval()
        time_whole(model, images[:1], device, synchronize)
        runs, before, began = 0, joules(), time.monotonic()
        while not runs or time.monotonic() - began < seconds:
            time_whole(model, [images[runs % len(images)]], device, synchronize)
            runs += 1
        after = joules()
        return None if before is None or after is None else (after - before) / runs

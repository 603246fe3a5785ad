"""The machine while something is measured: clocks, temperature, throttling, who else is busy, energy."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    import torch

# Cores that other processes kept busy, on average, above which a measurement is marked.
BUSY_CORES = 0.25

_CPUS = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup/cpu.stat")


@contextlib.contextmanager
def watched_machine(device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield a dictionary that is filled, at the end, with the state of the machine meanwhile.

    threads, cores; governor; cpu_mhz and temperature_c before and after; load_1min; other_cores: cores that other
    processes kept busy on average; throttled: how often meanwhile the processor slowed itself down (thermal), and
    how often this container was kept from running (quota); gpu: clocks, power, temperature, throttle reasons and
    the number of processes on it as nvidia-smi gives them, before and after; busy: whether others kept more than a
    quarter of a core busy, or were on the GPU too. None is what the system does not tell.
    """
    import torch

    state: dict[str, Any] = {}
    gpu_before, clock_before, heat_before = _gpu_state(device), _cpu_mhz(), _temperature()
    thermal_before, quota_before = _thermal_events(), _quota_events()
    process, cpu_before = psutil.Process(), psutil.cpu_times()
    own_before, began = process.cpu_times(), time.monotonic()
    try:
        yield state
    finally:
        elapsed = max(time.monotonic() - began, 1e-3)
        own = process.cpu_times()
        used = _busy_seconds(psutil.cpu_times()) - _busy_seconds(cpu_before)
        ours = own.user + own.system - own_before.user - own_before.system
        other = max(used - ours, 0.0) / elapsed
        gpu_after = _gpu_state(device)
        shared_gpu = any((s or {}).get("processes", 0) > 1 for s in (gpu_before, gpu_after))
        state.update(
            threads=torch.get_num_threads(),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            governor=_governor(),
            cpu_mhz={"before": clock_before, "after": _cpu_mhz()},
            temperature_c={"before": heat_before, "after": _temperature()},
            throttled={
                "thermal": _since(thermal_before, _thermal_events()),
                "quota": _since(quota_before, _quota_events()),
            },
            load_1min=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            other_cores=round(other, 3),
            busy=other > BUSY_CORES or shared_gpu,
            gpu=None if gpu_before is None else {"before": gpu_before, "after": gpu_after},
        )


def _busy_seconds(times: Any) -> float:
    # Guest time is contained in user time already.
    return sum(times) - sum(getattr(times, name, 0.0) for name in ("idle", "iowait", "guest", "guest_nice"))


def _or_none(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (AttributeError, KeyError, NotImplementedError, OSError, ValueError):
        return None


def _since(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def _cpu_mhz() -> float | None:
    frequency = _or_none(psutil.cpu_freq)
    return frequency.current if frequency else None


def _governor() -> str | None:
    return _or_none(lambda: (_CPUS / "cpu0/cpufreq/scaling_governor").read_text().strip())


def _temperature() -> float | None:
    sensors = _or_none(lambda: psutil.sensors_temperatures()) or {}
    return max((s.current for group in sensors.values() for s in group), default=None)


def _thermal_events() -> int | None:
    counters = sorted(_CPUS.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"))
    return _or_none(lambda: sum(int(c.read_text()) for c in counters)) if counters else None


def _quota_events() -> int | None:
    return _or_none(lambda: int(dict(line.split() for line in _CGROUP.read_text().splitlines())["nr_throttled"]))


# The older name of the last field is what drivers before 535 know.
_GPU_FIELDS = "name,driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu,utilization.gpu"
_REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")


def _gpu_state(device: torch.device) -> dict[str, Any] | None:
    if device.type != "cuda":
        return None
    for reasons in _REASONS:
        fields = f"{_GPU_FIELDS},{reasons}"
        if (lines := _nvidia_smi(device, f"--query-gpu={fields}")) is not None:
            state: dict[str, Any] = dict(zip(fields.split(","), (v.strip() for v in lines[0].split(",")), strict=True))
            processes = _nvidia_smi(device, "--query-compute-apps=pid")
            return {**state, "processes": 0 if processes is None else len(processes)}
    return None


def _nvidia_smi(device: torch.device, query: str) -> list[str] | None:
    command = ["nvidia-smi", query, "--format=csv,noheader", f"--id={gpu_uuid(device) or device.index or 0}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return [line for line in answer.splitlines() if line.strip()]


def gpu_uuid(device: torch.device) -> str | None:
    """What NVML calls the GPU: torch's index counts only those that CUDA_VISIBLE_DEVICES leaves."""
    import torch

    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return None if uuid is None else f"GPU-{str(uuid).removeprefix('GPU-')}"

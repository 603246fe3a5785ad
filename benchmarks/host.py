"""How much of the machine is ours: cores and memory that a container, a batch system or an affinity leaves us."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

_MOUNT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def cores() -> int:
    """CPU cores that this process may use: by its affinity, and by the quota of each control group it is in."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _groups("cpu"):
        quota, _, period = _text(folder / "cpu.max").partition(" ")  # version 2
        quota, period = quota or _text(folder / "cpu.cfs_quota_us"), period or _text(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            allowed = min(allowed, max(1, int(quota) // int(period)))
    return allowed


def memory() -> int:
    """Bytes of memory that can still be taken: what the machine has free, or less where a control group allows less."""
    free = psutil.virtual_memory().available
    for limit, used, cached in _memory_groups():
        free = min(free, max(0, limit - used + cached))
    return free


def memory_limit() -> int | None:
    """Bytes that the control groups of this process allow at most; None where they allow all that there is."""
    limits = [limit for limit, _, _ in _memory_groups() if limit < psutil.virtual_memory().total]
    return min(limits, default=None)


def killed_for_memory() -> int | None:
    """How many processes the kernel has killed so far because this control group's memory ran out, where it tells."""
    for folder in _groups("memory"):
        for name in ("memory.events", "memory.oom_control"):
            if (count := _fields(folder / name).get("oom_kill")) is not None:
                return count
    return None


def _memory_groups() -> Iterator[tuple[int, int, int]]:
    """Of each control group that limits memory: limit, used, and what of the used is cache that would be given up."""
    for folder in _groups("memory"):
        v2 = _text(folder / "memory.max")
        limit = v2 or _text(folder / "memory.limit_in_bytes")
        used = _text(folder / ("memory.current" if v2 else "memory.usage_in_bytes"))
        if limit.isdigit() and used.isdigit():
            cached = _fields(folder / "memory.stat").get("inactive_file" if v2 else "total_inactive_file", 0)
            yield int(limit), int(used), cached


def _groups(controller: str) -> Iterator[Path]:
    """Folders of this process's control group for `controller` and of the groups around it, the innermost first."""
    for line in _text(_OWN).splitlines():
        _, _, about = line.partition(":")
        names, separator, path = about.partition(":")
        if not separator or (names and controller not in names.split(",")):
            continue
        mount = _MOUNT / names if names else _MOUNT
        # In a container the path is the host's, and what is mounted is the container's own group.
        inside = mount / path.lstrip("/")
        folder = inside if inside.is_dir() else mount
        while folder != mount:
            yield folder
            folder = folder.parent
        yield mount


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _fields(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in _text(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}

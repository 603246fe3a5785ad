"""Two files of pytest-benchmark's (`--benchmark-json`): the ratios of each group to its first benchmark, compared.

The forms of a group are timed one after the other in one run, and each run has what its machine did meanwhile: only
ratios within a file are compared with those of the other, and between machine types nothing. A folder of baselines has
one file for each machine type, named after it, with the commit that was timed and the reason why it is the baseline.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.errors import DataError, RequestError
from benchmarks.gate.checks import Check, Verdict
from benchmarks.store import write_atomic


@dataclass(frozen=True)
class _Ratio:
    """Of two medians, with the ratios of the ends of their 95% intervals, which is wider than it need be."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"x{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def is_report(side: str) -> bool:
    """Whether a side is a file that pytest-benchmark wrote."""
    return _content(Path(side)) is not None


def compare(base: Path, head: Path, limit: float) -> list[Check]:
    """A check for every benchmark but the first of each group, by group and name.

    Args:
        base: a file, or a folder of baselines.
        limit: relative, what a ratio may grow beyond both intervals.

    Raises:
        RequestError: a folder of records, or a folder as `head`.
        DataError: no file of pytest-benchmark's, or one without the times of each round, with a time that is none, or
            with a benchmark twice.
    """
    if head.is_dir() or (base.is_dir() and _holds_records(base)):
        folder = head if head.is_dir() else base
        raise RequestError(f"{folder} is no folder of pytest-benchmark's files, and the other side is such a file")
    if base.is_dir():
        machine = _machine(_read(head))
        folder, base = base, base / _file_of(machine)
        if not base.is_file():
            there = ", ".join(sorted(path.stem for path in folder.glob("*.json"))) or "none"
            return [Check(folder.name, "ratios: no baseline of this machine type", "inconclusive", there, machine)]
    old, new = (_read(path) for path in (base, head))
    machines = _machine(old), _machine(new)
    if machines[0] != machines[1]:
        return [Check(base.name, "ratios: other machine types are not compared", "inconclusive", *machines)]
    before, after = _ratios(old, base), _ratios(new, head)
    out = []
    for (name, what), was in before.items():
        if (now := after.get((name, what))) is None:
            out.append(Check(name, what, "fail", str(was), "missing"))
            continue
        slower = now.low > was.high * (1 + limit)
        verdict: Verdict = "fail" if slower else "inconclusive" if now.value > was.value * (1 + limit) else "pass"
        out.append(Check(name, what, verdict, str(was), str(now), now.value / was.value - 1))
    return out + [Check(*key, "new", "-", str(now)) for key, now in after.items() if key not in before]


def replace(folder: Path, head: Path, reason: str) -> Path:
    """Make `head` the baseline of its machine type in `folder`: what is compared, the commit, and the reason.

    Raises:
        RequestError: nobody could say which source was timed; nothing is changed then.
        DataError: as `compare`.
    """
    report = _read(head)
    commit = report.get("commit_info") or {}
    if not commit.get("id") or commit.get("dirty") is not False:
        raise RequestError(
            f"{head} is no baseline: its source is of no commit, or differs from it; nothing was replaced"
        )
    _ratios(report, head)
    machine = report["machine_info"]
    cpu = machine.get("cpu", {})
    kept = {
        "reason": " ".join(reason.split()),
        "commit_info": {"id": commit["id"]},
        "datetime": report.get("datetime"),
        "version": report.get("version"),
        "machine_info": {
            **{name: machine.get(name) for name in ("system", "machine", "python_version")},
            "cpu": {
                **{name: cpu.get(name) for name in ("brand_raw", "count")},
                "flags": [flag for flag in _VECTORS if flag in cpu.get("flags", ())],
            },
        },
        "benchmarks": [
            {"group": one["group"], "name": one["name"], "stats": {"data": one["stats"]["data"]}}
            for one in report["benchmarks"]
        ],
    }
    path = folder / _file_of(_machine(report))
    write_atomic(path, (json.dumps(kept, indent=1) + "\n").encode())
    return path


def _file_of(machine: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", machine.lower()).strip("-") + ".json"


def _content(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        return None
    return found if isinstance(found, dict) and {"benchmarks", "machine_info"} <= found.keys() else None


def _holds_records(folder: Path) -> bool:
    """Whether a folder holds files of a benchmark's trainings, and none of pytest-benchmark's."""
    return any(folder.glob("*/*.json")) and not any(map(_content, folder.glob("*.json")))


def _read(path: Path) -> dict[str, Any]:
    if (found := _content(path)) is None:
        raise DataError(f"{path} is no file of pytest-benchmark's, and the other side is one")
    return found


_VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2"}
"""Flags of a CPU, widest first: clouds sell CPUs with and without them under one name."""


def _machine(report: Mapping[str, Any]) -> str:
    its = report["machine_info"]
    cpu = its.get("cpu", {})
    vectors = next((f", {name}" for flag, name in _VECTORS.items() if flag in cpu.get("flags", ())), "")
    return f"{its.get('system')}, {cpu.get('brand_raw', its.get('machine'))}{vectors}, {cpu.get('count')} cores"


def _ratios(report: Mapping[str, Any], path: Path) -> dict[tuple[str, str], _Ratio]:
    """(group, benchmark to the group's first) -> ratio of their times."""
    groups: dict[str, dict[str, Sequence[float]]] = {}
    for one in report["benchmarks"]:
        if not one["stats"].get("data"):
            raise DataError(f"{path}: {one['name']} has no times of its rounds; write it with --benchmark-json")
        if not all(math.isfinite(took) and took > 0 for took in one["stats"]["data"]):
            raise DataError(f"{path}: {one['name']} has a time that is none")
        forms = groups.setdefault(str(one["group"]), {})
        if one["name"] in forms:
            raise DataError(f"{path}: {one['name']} is twice in group {one['group']}")
        forms[one["name"]] = one["stats"]["data"]
    out = {}
    for group, forms in groups.items():
        (first, reference), *others = forms.items()
        for name, times in others:
            (m, low_m, high_m), (n, low_n, high_n) = _median(reference), _median(times)
            out[group, f"{name} to {first}"] = _Ratio(n / m, low_n / high_m, high_n / low_m)
    return out


def _median(times: Sequence[float]) -> tuple[float, float, float]:
    """Median and the ends of its 95% interval, between order statistics; with fewer than 6 rounds, of all."""
    from benchmarks.cost.clock import paired_ratio  # imports torch

    median, (low, high) = paired_ratio(times, np.ones(len(times)))
    return median, low, high

"""Two files of pytest-benchmark's (`--benchmark-json`): the ratios of each group to its first benchmark, compared.

The forms of a group are timed one after the other in one run, and each run has what its machine did meanwhile: only
ratios within a file are compared with those of the other, and between machine types nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.errors import DataError
from benchmarks.gate.checks import Check, Verdict


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
        limit: relative, what a ratio may grow beyond both intervals.

    Raises:
        DataError: no file of pytest-benchmark's, or one without the times of each round.
    """
    old, new = (_read(path) for path in (base, head))
    machines = _machine(old), _machine(new)
    if machines[0] != machines[1]:
        return [Check(base.name, "ratios: other machine types are not compared", "note", *machines)]
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


def _content(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        return None
    return found if isinstance(found, dict) and {"benchmarks", "machine_info"} <= found.keys() else None


def _read(path: Path) -> dict[str, Any]:
    if (found := _content(path)) is None:
        raise DataError(f"{path} is no file of pytest-benchmark's, and the other side is one")
    return found


def _machine(report: Mapping[str, Any]) -> str:
    its = report["machine_info"]
    cpu = its.get("cpu", {})
    return f"{its.get('system')}, {cpu.get('brand_raw', its.get('machine'))}, {cpu.get('count')} cores"


def _ratios(report: Mapping[str, Any], path: Path) -> dict[tuple[str, str], _Ratio]:
    """(group, benchmark to the group's first) -> ratio of their times."""
    groups: dict[str, dict[str, Sequence[float]]] = {}
    for one in report["benchmarks"]:
        if not one["stats"].get("data"):
            raise DataError(f"{path}: {one['name']} has no times of its rounds; write it with --benchmark-json")
        groups.setdefault(str(one["group"]), {})[one["name"]] = one["stats"]["data"]
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

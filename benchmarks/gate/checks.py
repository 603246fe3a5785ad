"""What the gate says of one thing: a check with its verdict, and the small comparisons that give one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

from benchmarks.store import Provenance, Stored

Verdict = Literal["pass", "fail", "inconclusive", "new", "note"]
T = TypeVar("T")

ROUNDING = 1e-9
"""0.50 - 0.02 is not 0.48 to the last bit: a loss of exactly what is let pass passes."""


@dataclass(frozen=True)
class Check:
    """One comparison of a cell, or of a row of cells that differ in fold and seed alone.

    change: head minus base, in the metric's unit or, of cost, relative. caught: the drop that would be told in 80% of
    tries. Both None where there are no such numbers.
    """

    cell: str
    what: str
    verdict: Verdict
    base: str
    head: str
    change: float | None = None
    caught: float | None = None


@dataclass(frozen=True)
class Pair:
    """A cell of the base with the cell of the head that answers it: of the same seed, or of another in its place."""

    old: Stored
    new: Stored

    @property
    def same_seed(self) -> bool:
        return self.old.run.cell.seed == self.new.run.cell.seed

    @property
    def key(self) -> tuple[int, int]:
        """Fold and seed of the base's cell."""
        return self.old.run.cell.fold, self.old.run.cell.seed


def name_of(stored: Stored) -> str:
    return f"{stored.run.cell.dataset}/{stored.paths.stem}"


def equal(name: str, what: str, old: object, new: object) -> Check:
    return Check(name, what, "pass" if old == new else "fail", str(old), str(new))


def both(out: list[Check], name: str, what: str, old: T | None, new: T | None) -> tuple[T, T] | None:
    """Both where there are both; what `old` has and `new` lacks is a failure, added to `out`."""
    if old is not None and new is None:
        out.append(Check(name, what, "fail", "present", "missing"))
    return None if old is None or new is None else (old, new)


_MMDET = ("onedl-mmcv", "onedl-mmengine", "onedl-mmdetection")
_COMPUTE = ("torch", "torchvision", "numpy", "ultralytics", "transformers", "timm", *_MMDET)
"""Packages whose versions decide which floating-point operations are done."""


def equal_bits(old: Provenance, new: Provenance) -> bool:
    """Whether two machines compute equal bits from equal code: portable arithmetic, packages and threads alike."""
    portable = old.arithmetic == new.arithmetic == "portable"
    packages = all(old.packages.get(name) == new.packages.get(name) for name in _COMPUTE)
    return portable and packages and old.threads == new.threads


def machine_type(its: Provenance) -> tuple[object, ...]:
    """What times and memory depend on; those of two types are not compared."""
    return its.device.split(":")[0], its.device_name, its.cpu, its.threads, its.cpu_capability

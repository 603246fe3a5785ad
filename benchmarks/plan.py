"""What a run does first, and what still fits into its time. Torch-free."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum

from benchmarks.cells import Cell
from benchmarks.errors import RequestError
from benchmarks.executors import Limits
from benchmarks.store import RunRecord


class Order(str, Enum):
    """In which order cells are run, see `in_order`."""

    suite = "suite"
    pairs = "pairs"


START_S = 5.0
"""What starting a worker process and opening a set is taken to last: imports of torch and of a model's library."""


def seconds(text: str) -> float:
    """Seconds of a duration like `9m`, `1h30m`, `45s` or `540`. RequestError when it is none.

    A number beside others must name its unit: 1h30 is minutes to some.
    """
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?|(\d+)", text.strip())
    total = sum(int(n or 0) * unit for n, unit in zip(found.groups(), (3600, 60, 1, 1), strict=True)) if found else 0
    if total <= 0:
        raise RequestError(f"--time-limit {text!r} is no duration; write it like 9m, 1h30m or 45s")
    return float(total)


def in_order(cells: Sequence[Cell], order: Order, pair: tuple[str, str]) -> list[Cell]:
    """The cells as they are to be run.

    Args:
        order: `suite`: as the suite lists them: data set, fold, seed, model. `pairs`: what comparisons need first: both
            models of `pair` on all data sets for a fold and seed, before the next seed and the next fold; then the
            other models in the same way.
    """
    if order == Order.suite:
        return list(cells)
    return sorted(cells, key=lambda cell: (cell.name not in pair, cell.fold, cell.seed))


class Costs:
    """What cells take, from those that ended and from the epochs of those that run."""

    def __init__(self) -> None:
        self._rate: dict[tuple[object, ...], float] = {}  # training images per second
        self._rest: dict[tuple[object, ...], float] = {}  # seconds that are not training

    @staticmethod
    def _kind(cell: Cell) -> tuple[object, ...]:
        return cell.dataset, cell.name, cell.scale, cell.image_size, cell.tile

    def ended(self, record: RunRecord) -> None:
        """Learn from a cell that ended well."""
        if record.status != "ok" or not record.curve:
            return
        kind = self._kind(record.cell)
        self.epoch(record.cell, len(record.curve) / sum(1 / max(p.images_per_second, 1e-9) for p in record.curve))
        self._rest[kind] = sum(s for phase, s in record.timings_s.items() if phase != "train")

    def epoch(self, cell: Cell, images_per_second: float) -> None:
        """Learn from an epoch of a cell that may still run."""
        self._rate[self._kind(cell)] = max(images_per_second, 1e-9)

    def seconds(self, cell: Cell, images: int) -> float | None:
        """What a cell that trains on `images` images in all will take; None where nothing is known of its data set.

        A model that has not run yet is taken to be as slow as the slowest that has.
        """
        kind = self._kind(cell)
        rates = [rate for known, rate in self._rate.items() if known[0] == cell.dataset]
        if not rates:
            return None
        rests = [rest for known, rest in self._rest.items() if known[0] == cell.dataset]
        training = images / self._rate.get(kind, min(rates))
        return START_S + training + self._rest.get(kind, max(rests, default=training / cell.recipe.epochs))


def those_that_fit(
    cells: Iterable[Cell],
    images: Mapping[Cell, int],
    costs: Costs,
    limits: Limits,
    left: list[Cell],
    done: Mapping[Cell, int] | None = None,
) -> Iterator[Cell]:
    """Cells in the order in which they are begun, each judged when it is asked for; those that are not go to `left`.

    First come those that will end before `limits.deadline`, in their order. Only when none of these is left, those are
    begun of which two epochs still fit: they stop with their state saved and are gone on with, where the machine would
    wait. What another run of the same limit would do as a whole never takes the time of what ends in this one.

    Args:
        images: training images of a whole cell, over all its epochs.
        done: epochs that a saved state of a cell has behind it.
    """
    done = done or {}

    def fits(needed: float) -> bool:
        return not limits.stopping() and time.monotonic() + needed <= limits.deadline

    too_long = []
    for cell in cells:
        share = 1 - done.get(cell, 0) / cell.recipe.epochs
        if fits(costs.seconds(cell, round(share * images[cell])) or 0.0):
            yield cell
        else:
            too_long.append(cell)
    for cell in too_long:
        if fits(START_S + 2 * (costs.seconds(cell, images[cell]) or 0.0) / cell.recipe.epochs):
            yield cell
        else:
            left.append(cell)

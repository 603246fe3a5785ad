"""What several runs of one model say together."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from scipy.stats import t

from benchmarks.store import Interval


@dataclass(frozen=True)
class Spread:
    """Mean over folds of the means over seeds, with a 95% interval where one can be given."""

    mean: float
    interval: Interval | None
    runs: int
    folds: int
    seeds: int


def aggregate(values: Mapping[tuple[int, int], float], test_share: float | None = None) -> Spread | None:
    """Sum up the values of (fold, seed); None without any.

    One fold: Student's t over its seeds, which says how the training varies on these images, and nothing of others.
    Several folds: they train on the same images for the most part, so their values are not independent and Student's t
    over them is too narrow. The variance is the corrected one of Nadeau and Bengio (2003), s^2 (1/k + test/train), over
    the k folds' means. Seeds are averaged first, and no more is claimed from having many of them. A single run has no
    interval here; the bootstrap over its images has one.

    Args:
        test_share: test images over training images of a fold; without it several folds have no interval.
    """
    if not values:
        return None
    by_fold: dict[int, list[float]] = {}
    for (fold, _), value in sorted(values.items()):
        by_fold.setdefault(fold, []).append(value)
    means = [statistics.fmean(v) for v in by_fold.values()]
    mean, folds = statistics.fmean(means), len(means)
    sample = means if folds > 1 else next(iter(by_fold.values()))
    interval = None
    if len(sample) > 1 and (folds == 1 or test_share is not None):
        spread = 1 / len(sample) + ((test_share or 0.0) if folds > 1 else 0.0)
        half = float(t.ppf(0.975, len(sample) - 1)) * statistics.stdev(sample) * math.sqrt(spread)
        interval = mean - half, mean + half
    return Spread(mean, interval, len(values), folds, len({seed for _, seed in values}))

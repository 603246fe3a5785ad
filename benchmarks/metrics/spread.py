"""What several runs of one model say together, and what those of two models say of their difference."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
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


@dataclass(frozen=True)
class Sample:
    """A metric of one run, and the same of bootstrap resamples of its test images."""

    value: float
    draws: tuple[float, ...]


@dataclass(frozen=True)
class Difference:
    """Mean over paired runs of one model's metric minus another's, on the same resampled images."""

    mean: float
    interval: Interval
    p: float
    runs: int
    better: int
    """In how many of the runs the difference is above 0."""
    p_is_bound: bool
    """No resample lies on the far side of 0: p is as small as so many resamples allow."""


def paired_difference(
    ours: Mapping[tuple[int, int], Sample], theirs: Mapping[tuple[int, int], Sample]
) -> Difference | None:
    """Difference of two models over the (fold, seed) that both have; None without any.

    A resample takes the same images for both models, so what is hard about an image cancels. The interval is the 95%
    percentile one; p is two-sided, (1 + resamples on the far side of 0) / (1 + resamples), doubled. Both speak of other
    test images, not of another training: for that there is `better`, of several seeds.
    """
    both = [k for k in ours if k in theirs and ours[k].draws and len(ours[k].draws) == len(theirs[k].draws)]
    if not both:
        return None
    each = {k: ours[k].value - theirs[k].value for k in both}
    means, draws = [], []
    for fold in sorted({fold for fold, _ in both}):
        own = [k for k in both if k[0] == fold]
        means.append(statistics.fmean(each[k] for k in own))
        drawn = np.mean([np.subtract(ours[k].draws, theirs[k].draws) for k in own], axis=0)
        # Folds have other images: resample b of one has nothing to do with resample b of another.
        draws.append(drawn[np.random.default_rng(fold).permutation(len(drawn))])
    mean = np.mean(draws, axis=0)
    low, high = np.percentile(mean, [2.5, 97.5])
    far = int(min((mean <= 0).sum(), (mean >= 0).sum()))
    p = min(1.0, 2 * (1 + far) / (1 + len(mean)))
    better = sum(value > 0 for value in each.values())
    return Difference(statistics.fmean(means), (float(low), float(high)), p, len(both), better, far == 0)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p of several comparisons (1979), in the order given."""
    out, highest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        out[i] = highest
    return out

"""What runs of one model say of another training on other material: a mean and its interval, by one method.

Two levels. *Trainings* (seeds): the variance s^2 of runs on the same test images. *Images*: the covariance of the runs'
bootstrap draws, which resample the same overlap groups for every run; what a run and an image have with each other
alone is in s^2 already. Of R seeds on one fold the mean has the variance

    V = G/(G - 1) cov + s^2 / R

of G groups (the effective number, by the boxes in each), with Satterthwaite's degrees of freedom, and the interval is
Student's on a scale on which it cannot leave the bounds of the metric (the logit). Of K folds, whose test images are
disjoint,

    V = mean(cov)/K + e (1/K + test/train),    e = max(variance of the folds' means - mean(cov), s^2 / R)

where the last term is Nadeau and Bengio's (2003) for folds that share training images, here on what is not explained by
the test images; R is the harmonic mean of the folds' seeds. It speaks of test sets of this size: AP of a small set lies
above that of a large one, see docs/accuracy.md, where the simulated coverage stands too.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import betaincinv, stdtrit

from ablations.effects import Key
from benchmarks.results import Interval

Bounds = tuple[float, float]
SHARE: Bounds = (0.0, 1.0)
DIFFERENCE: Bounds = (-1.0, 1.0)
RATE: Bounds = (0.0, math.inf)

LEAST_GROUPS = 10
"""A metric of fewer images, or groups of overlapping ones, has no bootstrap interval."""
LEAST_BOXES = 10
"""A metric of fewer boxes has no bootstrap interval."""
FEW_BOXES = 30
"""Recalls of fewer boxes have exact intervals."""
LEAST_COUNT = 5
"""A share of fewer has no exact interval."""
LEAST_RUNS = 3
"""Fewer runs have no variance of their own between trainings."""
_NOTHING = 1e-12


@dataclass(frozen=True)
class RunMetric:
    """A metric of one run, the same of bootstrap resamples of its test images, and the number of their overlap groups.

    groups: the effective number, see `effective`.
    error: standard error over images where there are no draws.
    """

    value: float
    draws: Sequence[float] = ()
    groups: float | None = None
    error: float | None = None


@dataclass(frozen=True)
class Training:
    """Variance between trainings on the same images, pooled over models: of so many runs, with so many freedoms.

    own: how many of the runs are those of the row that it was pooled for.
    """

    variance: float
    freedom: int
    runs: int
    own: int = 0


@dataclass(frozen=True)
class Estimate:
    """Mean over folds of the means over seeds, with a 95% interval where one can be given.

    covers: what the interval is an interval over. error: of the mean, in the metric's own unit. training: the variance
    between trainings, where it was taken from other models' runs, pooled with their own; else None.
    """

    mean: float
    interval: Interval | None
    covers: Literal["trainings and images", "images only", "nothing"]
    error: float
    freedom: float
    runs: int
    folds: int
    seeds: int
    values: tuple[float, ...]
    training: Training | None = None

    @property
    def degenerate(self) -> bool:
        """Nothing varied: an interval without width, which says nothing of other material."""
        return self.interval is not None and self.interval[1] - self.interval[0] < _NOTHING


def pooled(rows: Iterable[Sequence[float]]) -> Training | None:
    """Variance between trainings, pooled over rows of runs on the same images; None where no row has two."""
    several = [row for row in rows if len(row) > 1]
    freedom = sum(len(row) - 1 for row in several)
    if not freedom:
        return None
    means = map(statistics.fmean, several)
    squares = math.fsum((value - mean) ** 2 for row, mean in zip(several, means, strict=True) for value in row)
    return Training(squares / freedom, freedom, sum(map(len, several)))


def estimate(
    samples: Mapping[Key, RunMetric],
    *,
    bounds: Bounds = SHARE,
    test_share: float | None = None,
    training: Training | None = None,
    given: bool = False,
) -> Estimate | None:
    """Mean and interval of the runs of one model, or of the differences of two; None without any.

    Args:
        bounds: between which the metric lies.
        test_share: test images over training images of a fold; without it several folds have no interval.
        training: variance between trainings of models like this one, for fewer than three runs. Without it one run has
            an interval over images alone, and two have none.
        given: `training` is the variance between trainings however many runs there are, as where it was pooled over
            these and others.
    """
    if not samples:
        return None
    by_fold: dict[int, list[RunMetric]] = {}
    for (fold, _), sample in sorted(samples.items()):
        by_fold.setdefault(fold, []).append(sample)
    means = [statistics.fmean(s.value for s in own) for own in by_fold.values()]
    runs, folds, mean = len(samples), len(by_fold), statistics.fmean(means)
    values = tuple(sample.value for _, sample in sorted(samples.items()))
    parts = [_over_images(own) for own in by_fold.values()]
    images = [part for part in parts if part is not None]
    known = len(images) == folds
    over_images = statistics.fmean(v for v, _ in images) if known else 0.0
    image_freedom = sum(g for _, g in images) if known else 1.0
    own = None if given else pooled([s.value for s in fold] for fold in by_fold.values())
    borrowed = training if given or runs < LEAST_RUNS else None
    trained = _together(own, borrowed)
    per_fold = statistics.harmonic_mean([len(own) for own in by_fold.values()])
    error = freedom = 0.0
    interval = None
    covers: Literal["trainings and images", "images only", "nothing"] = "nothing"
    if runs == 1 and trained is None and known:
        error, freedom, covers = math.sqrt(over_images), image_freedom, "images only"
    elif runs < LEAST_RUNS and borrowed is None:
        pass  # two values are two values
    elif not known and folds < LEAST_RUNS:
        pass  # of other images nothing is known: an interval over trainings alone would look like one over both
    elif folds == 1 and trained is not None:
        terms = [(over_images, image_freedom), (trained.variance / runs, trained.freedom)]
        error, freedom = _sum(terms)
        covers = "trainings and images"
    elif folds > 1 and test_share is not None:
        least = trained.variance / per_fold if trained is not None else 0.0
        between = statistics.variance(means)
        share = 1 / folds + test_share
        if between - over_images < least:
            assumed = trained.freedom if trained is not None else folds - 1
            terms = [(over_images / folds, image_freedom), (least * share, assumed)]
        else:
            terms = [(over_images * (1 / folds - share), image_freedom), (between * share, folds - 1)]
        error, freedom = _sum(terms)
        freedom = max(freedom, folds - 1)
        covers = "trainings and images"
    if covers != "nothing":
        interval = span(mean, error, freedom, bounds)
    seeds = len({seed for _, seed in samples})
    taken = None if borrowed is None else trained
    return Estimate(mean, interval, covers, error, freedom, runs, folds, seeds, values, taken)


def _over_images(runs: Sequence[RunMetric]) -> tuple[float, float] | None:
    """Variance over images of what the runs of one fold have in common, and its freedom."""
    groups = next((s.groups for s in runs if s.groups is not None), None)
    if groups is None or groups <= 1:
        return None
    lengths = {len(s.draws) for s in runs}
    if lengths != {0} and len(lengths) == 1:
        covariance = np.atleast_2d(np.cov(np.array([s.draws for s in runs], dtype=float)))
        apart = ~np.eye(len(runs), dtype=bool)
        value = float(covariance[apart].mean()) if len(runs) > 1 else float(covariance[0, 0])
        return max(value, 0.0) * groups / (groups - 1), groups - 1
    errors = [s.error for s in runs if s.error is not None]
    if len(errors) < len(runs):
        return None
    return statistics.fmean(e * e for e in errors), groups - 1


def _together(own: Training | None, others: Training | None) -> Training | None:
    if own is None or others is None:
        return own or others
    freedom = own.freedom + others.freedom
    variance = (own.variance * own.freedom + others.variance * others.freedom) / freedom
    return Training(variance, freedom, own.runs + others.runs, own.runs)


def _sum(terms: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Standard error and Satterthwaite's freedom of a sum of estimated variances."""
    whole = max(sum(v for v, _ in terms), 0.0)
    spread = sum(v * v / freedom for v, freedom in terms)
    return math.sqrt(whole), whole * whole / spread if spread > 0 else max(f for _, f in terms)


def span(mean: float, error: float, freedom: float, bounds: Bounds = SHARE) -> Interval:
    """95% interval of Student's t around a mean, on a scale that ends at the bounds."""
    low, high = bounds
    half = float(stdtrit(freedom, 0.975)) * error  # t.ppf, without its checks: thousands of pairs are compared
    if error * error < _NOTHING or mean <= low or mean >= high:
        return mean, mean
    if math.isinf(high):
        width = half / (mean - low)
        return low + (mean - low) * math.exp(-width), low + (mean - low) * math.exp(width)
    at = (mean - low) / (high - low)
    middle, width = math.log(at / (1 - at)), half / (high - low) / (at * (1 - at))
    return tuple(low + (high - low) / (1 + math.exp(-x)) for x in (middle - width, middle + width))  # type: ignore[return-value]


def independent(one: RunMetric, other: RunMetric) -> RunMetric:
    """The first, with the error that its difference to the second has if they were tested on other images.

    For metrics whose draws are not kept: more than on the same images, which are hard for both. Without one of the
    errors, or where it is 0 since nothing varied, the difference has none.
    """
    if not one.error or not other.error:
        return replace(one, error=None)
    return replace(one, error=math.hypot(one.error, other.error))


def effective(sizes: np.typing.NDArray[np.integer]) -> float:
    """Effective number of groups with so many boxes, (sum n)^2 / sum n^2 (Kish, 1965): a few large ones say less."""
    whole = float(np.square(sizes.astype(float)).sum())
    return float(sizes.sum()) ** 2 / whole if whole else 0.0


def over_images(
    values: np.typing.NDArray[np.floating], groups: int, alike: float | None = None, bounds: Bounds = SHARE
) -> tuple[Interval, float] | None:
    """Interval over images of one run, and its standard error, from the sample's own value and its resamples.

    None with fewer than `LEAST_GROUPS` groups, or where the metric is not defined.

    Args:
        alike: the effective number of groups.
    """
    value, draws = values[0], values[1:]
    alike = float(groups) if alike is None else alike
    if groups < LEAST_GROUPS or alike < 2 or np.isnan(value) or np.count_nonzero(~np.isnan(draws)) < 2:
        return None
    error = float(np.nanstd(draws, ddof=1)) * math.sqrt(alike / (alike - 1))
    return span(float(value), error, alike - 1, bounds), error


def exact(share: float, n: int) -> Interval | None:
    """Clopper and Pearson's 95% interval (1934) of a share of n; None below `LEAST_COUNT`."""
    if n < LEAST_COUNT:
        return None
    k = share * n
    low = 0.0 if k <= _NOTHING else float(betaincinv(k, n - k + 1, 0.025))
    high = 1.0 if n - k <= _NOTHING else float(betaincinv(k + 1, n - k, 0.975))
    return low, high

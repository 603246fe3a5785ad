"""The arithmetic of studies, on arrays: paired effects, equivalence, power, and whether a training has come to its end.

No torch, and nothing of the harness: how an interval is made is handed in.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from scipy.special import fdtrc, fdtri, ndtri, stdtr, stdtrit

Key = tuple[int, int]
"""Fold and seed."""

LEAST_RUNS = 3
"""Runs that each of two models must have: with fewer there is no p and no verdict."""

CONVERGED_BELOW = 0.02
"""What doubling a schedule may gain, in units of the metric, before a model counts as still learning."""
UNTRAINED_BELOW = 0.1
"""AP50 under which a model is shown as untrained, not as bad, and is neither at its end nor ranked."""
RUNS_ONCE, RUNS_TWICE = 5, 3
"""Trainings at the schedule and at twice the schedule that a verdict rests on."""


class RunMetricLike(Protocol):
    """A metric of one run and of resamples of its test images; a dataclass."""

    @property
    def value(self) -> float: ...
    @property
    def draws(self) -> Sequence[float]: ...


class EstimateLike(Protocol):
    """What an interval method says of several samples."""

    @property
    def mean(self) -> float: ...
    @property
    def interval(self) -> tuple[float, float] | None: ...
    @property
    def covers(self) -> str: ...
    @property
    def error(self) -> float: ...
    @property
    def freedom(self) -> float: ...


S = TypeVar("S", bound=RunMetricLike)


@dataclass(frozen=True)
class Effect:
    """One model's metric minus another's, over the runs that both have, on the same resampled images.

    p is two-sided, None with fewer than `LEAST_RUNS` runs of each. better: in how many runs the difference is above 0.
    """

    mean: float
    interval: tuple[float, float] | None
    covers: str
    error: float
    freedom: float
    p: float | None
    runs: int
    better: int


def points(difference: float) -> str:
    """A difference in points, with its sign; what rounds to nothing is +0.0, from either side."""
    return f"{round(100 * difference, 1) + 0.0:+.1f}"


def differences(ours: Mapping[Key, S], theirs: Mapping[Key, S]) -> dict[Key, S]:
    """Ours minus theirs by fold and seed, draw by draw; where one has no draws, values alone."""
    out: dict[Key, S] = {}
    for key in sorted(set(ours) & set(theirs)):
        a, b = ours[key], theirs[key]
        draws: Any = ()
        if len(a.draws) == len(b.draws):
            draws = np.subtract(a.draws, b.draws)
            if not isinstance(a.draws, np.ndarray):
                draws = tuple(draws.tolist())
        changed: Any = {"value": a.value - b.value, "draws": draws}
        out[key] = replace(a, **changed)  # type: ignore[type-var]
    return out


def paired(
    ours: Mapping[Key, S], theirs: Mapping[Key, S], estimate: Callable[[Mapping[Key, S]], EstimateLike | None]
) -> Effect | None:
    """The effect over the runs that both have; None without any.

    Args:
        estimate: mean and interval of differences, `benchmarks.metrics.spread.estimate` with the bounds of one.
    """
    each = differences(ours, theirs)
    got = estimate(each) if each else None
    if got is None:
        return None
    p = None
    if len(each) >= LEAST_RUNS and got.covers == "trainings and images" and got.error > 0:
        p = float(2 * stdtr(got.freedom, -abs(got.mean) / got.error))  # t.sf, without its checks
    better = sum(sample.value > 0 for sample in each.values())
    return Effect(got.mean, got.interval, got.covers, got.error, got.freedom, p, len(each), better)


def equivalence(mean: float, error: float, freedom: float, margin: float) -> float:
    """p of two one-sided tests (Schuirmann, 1987): small where the difference lies within +-margin."""
    if error <= 0:
        return 0.0 if abs(mean) < margin else 1.0
    return float(max(stdtr(freedom, -(mean + margin) / error), stdtr(freedom, -(margin - mean) / error)))


def power(difference: float, sd: float, runs: int, alpha: float = 0.05) -> float:
    """Power of a two-sided paired t-test with `runs` pairs whose differences have the standard deviation `sd`."""
    if runs < 2:
        return 0.0
    from scipy.stats import nct  # slow to import, as all of scipy.stats, which no report needs

    critical, shift = float(stdtrit(runs - 1, 1 - alpha / 2)), abs(difference) / sd * math.sqrt(runs)
    return float(nct.sf(critical, runs - 1, shift) + nct.cdf(-critical, runs - 1, shift))


def runs_needed(difference: float, sd: float, wanted: float = 0.8, alpha: float = 0.05, most: int = 1000) -> int | None:
    """Fewest pairs with which `power` reaches what is wanted; None where `most` do not suffice."""
    return next((n for n in range(2, most + 1) if power(difference, sd, n, alpha) >= wanted), None)


def caught(error: float, freedom: float, limit: float, alpha: float, wanted: float = 0.8) -> float:
    """The true drop that is told in a share `wanted` of tries.

    Told is an estimated drop that lies above `limit` and whose one-sided p is at most `alpha`.

    Args:
        error, freedom: standard error of the estimated drop, and its degrees of freedom.
    """
    if error <= 0:
        return limit
    from scipy.optimize import brentq
    from scipy.stats import nct

    critical = float(stdtrit(freedom, 1 - alpha))

    def missed(shift: float) -> float:
        return float(nct.cdf(critical, freedom, shift)) - (1 - wanted)

    high = critical + 1.0
    while missed(high) > 0:
        high *= 2
    by_chance = float(brentq(missed, 0.0, high)) * error
    return max(by_chance, limit + float(ndtri(wanted)) * error)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p of several comparisons (1979), in the order given; by statsmodels."""
    if not p:
        return []
    from statsmodels.stats.multitest import multipletests  # slow to import

    return [float(v) for v in multipletests(p, method="holm")[1]]


Learning = Literal["converged", "still learning", "not told"]
_WORSE: tuple[Learning, ...] = ("converged", "not told", "still learning")


@dataclass(frozen=True)
class Doubling:
    """What twice the schedule gains over once, and whether that is told to be little.

    bound: upper end of the one-sided 90% interval of the gain; None where there are too few trainings.
    """

    gain: float
    bound: float | None
    verdict: Learning
    once: int
    twice: int


def spread_of(rows: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Standard deviation within rows of trainings, pooled over them, and its degrees of freedom."""
    freedom = sum(len(row) - 1 for row in rows if row)
    squares = sum(statistics.variance(row) * (len(row) - 1) for row in rows if len(row) > 1)
    return (math.sqrt(squares / freedom), freedom) if freedom else (math.nan, 0)


@dataclass(frozen=True)
class Between:
    """How far kinds of one thing lie apart, beside what trainings of one kind vary by: standard deviations.

    sd: between kinds, 0 where they lie no further apart than trainings do; most: its one-sided 95% bound. F and p are
    those of the analysis of variance, with `kinds` and `freedom` degrees of freedom.
    """

    within: float
    freedom: int
    kinds: int
    F: float
    p: float
    sd: float
    most: float


def between(rows: Sequence[Sequence[Sequence[float]]]) -> Between | None:
    """Variance between kinds within rows, by analysis of variance with unequal numbers (Searle, 1971, 11.1).

    Args:
        rows: by row the values of each kind; rows of fewer than two kinds say nothing.

    Returns:
        None where nothing varies within a kind, or no row has two.
    """
    rows = [kinds for row in rows if len(kinds := [values for values in row if values]) > 1]
    within, freedom = spread_of([values for row in rows for values in row])
    count = sum(len(row) - 1 for row in rows)
    if not freedom or not count or within == 0:
        return None
    squares = spare = 0.0
    for row in rows:
        numbers = [len(values) for values in row]
        mean = statistics.fmean(v for values in row for v in values)
        squares += sum(n * (statistics.fmean(values) - mean) ** 2 for n, values in zip(numbers, row, strict=True))
        spare += sum(numbers) - sum(n * n for n in numbers) / sum(numbers)
    F = squares / count / within**2
    each = spare / count  # trainings that a kind counts for

    def apart(ratio: float) -> float:
        return within * math.sqrt(max(ratio - 1, 0.0) / each)

    bound = F / float(fdtri(count, freedom, 0.05))
    return Between(within, freedom, count, F, float(fdtrc(count, freedom, F)), apart(F), apart(bound))


def doubling(
    once: Sequence[float], twice: Sequence[float], sd: float, freedom: int, machines: float = 0.0
) -> Doubling | None:
    """Whether a model is trained to its end; None where one of the two schedules has no training.

    *Still learning*: twice the schedule gains `CONVERGED_BELOW` or more. *Converged*: from five trainings at the
    schedule and three at twice, the one-sided 90% bound of that gain lies below. Else *not told*, as where nothing was
    learned at either (`UNTRAINED_BELOW`).

    Args:
        sd, freedom: of trainings, pooled over the models that share data set and recipe (`spread_of`).
        machines: variance of the gain for the kinds of machine that its trainings are of, in units of `sd` squared.
    """
    if not once or not twice:
        return None
    gain = statistics.fmean(twice) - statistics.fmean(once)
    bound = None
    if freedom:
        bound = gain + float(stdtrit(freedom, 0.9)) * sd * math.sqrt(1 / len(once) + 1 / len(twice) + machines)
    enough = len(once) >= RUNS_ONCE and len(twice) >= RUNS_TWICE
    verdict: Learning = "not told"
    if gain >= CONVERGED_BELOW:
        verdict = "still learning"
    elif enough and bound is not None and bound < CONVERGED_BELOW and statistics.fmean(twice) >= UNTRAINED_BELOW:
        verdict = "converged"
    return Doubling(gain, bound, verdict, len(once), len(twice))


def worse(a: Learning, b: Learning) -> Learning:
    """The worse of two verdicts: what lies between two ends is trained as far as the one that is behind."""
    return max(a, b, key=_WORSE.index)

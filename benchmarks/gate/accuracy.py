"""Whether trainings got less accurate: the mean of a row against that of its base, as far as the runs can tell it.

Trainings are paired where their seeds agree. The interval is the two-level one of `benchmarks.metrics.spread`, of the
differences on the same resampled images; the variance between trainings is twice that within rows, pooled over both
sides and the models that share data set and recipe, so that three trainings each can tell anything. A model whose own
is larger than chance explains is judged by its own. A drop fails when it is above
what is let pass and its one-sided p, by Holm over all checks of the comparison, is at most the level: chance then
alarms as often as the level says. From fewer than three pairs, or where no spread is known, only a drop that is certain
fails. The same weights on both sides leave nothing to chance.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from scipy.stats import f, t

from ablations.effects import LEAST_RUNS, Effect, Key, caught, holm, paired
from benchmarks.gate.checks import ROUNDING, Check, Pair, Verdict, name_of
from benchmarks.metrics.spread import DIFFERENCE, RunMetric, Training, estimate, independent, pooled
from benchmarks.report.budget import recipe_of
from benchmarks.report.rows import run_metric, test_share
from benchmarks.store import Stored
from benchmarks.suites import GateLimits

NOISY = 0.1
"""Level of the one-sided F test by which a model is judged by its own variance between trainings, not the pool's."""

LABELS = {"AP_small": "AP small", "AP_medium": "AP medium", "AP_large": "AP large", "AR_100": "AR 100"}


@dataclass(frozen=True)
class _Question:
    """A metric of a row, still to be judged: its p is adjusted for all the others that are asked."""

    name: str
    what: str
    limit: float
    effect: Effect
    values: tuple[float, float]


def judged(
    rows: Sequence[tuple[str, Sequence[Pair]]], limits: GateLimits, tolerance: float | None = None
) -> list[Check]:
    """Checks of the accuracy of every row.

    Args:
        rows: name and pairs of each.
        tolerance: a drop of any metric's mean that fails, whoever can tell it; None: as `limits` say.
    """
    out: list[Check] = []
    asked: list[_Question] = []
    spreads = {metric: _spreads([pairs for _, pairs in rows], metric) for metric in limits.accuracy}
    for at, (name, pairs) in enumerate(rows):
        measured = [pair for pair in pairs if pair.old.run.metrics is not None and pair.new.run.metrics is not None]
        for metric, limit in limits.accuracy.items() if measured else ():
            let_pass = limit if tolerance is None else tolerance
            found = _one(out, name, measured, metric, let_pass, spreads[metric][at])
            if found is None:
                continue
            if (certain := _certain(found, measured, limits, by_hand=tolerance is not None)) is not None:
                out.append(certain)
            else:
                asked.append(found)
    return out + _told(asked, limits)


def _one(
    out: list[Check], name: str, pairs: Sequence[Pair], metric: str, limit: float, training: Training | None
) -> _Question | None:
    """The question of one metric; None where it is not asked.

    What the head lacks is a failure, added to `out`; what no record of the base has though there are boxes, that nobody
    can tell.
    """
    label = LABELS.get(metric, metric)
    what = f"{label} (tolerance {limit:g})"
    ours: dict[Key, RunMetric] = {}
    theirs: dict[Key, RunMetric] = {}
    boxes = lost = 0
    for pair in pairs:
        assert pair.old.run.metrics is not None
        assert pair.new.run.metrics is not None
        old, new = run_metric(metric, pair.old.run.metrics), run_metric(metric, pair.new.run.metrics)
        if old is None:
            boxes += pair.old.run.metrics.boxes_of(metric)
            continue
        if new is None:
            out.append(Check(name_of(pair.old), what, "fail", f"{old.value:.4f}", "missing"))
            lost += 1
            continue
        theirs[pair.key], ours[pair.key] = old, independent(new, old)
    share = test_share([pair.old.run for pair in pairs])
    effect = paired(ours, theirs, partial(estimate, bounds=DIFFERENCE, test_share=share, training=training, given=True))
    if effect is None:
        if not lost and boxes:
            out.append(Check(name, what, "inconclusive", "not measured", "-"))
        return None
    values = tuple(_mean(side) for side in (theirs, ours))
    return _Question(name, what, limit, effect, (values[0], values[1]))


def _mean(samples: Mapping[Key, RunMetric]) -> float:
    """Over folds of the means over seeds."""
    folds = {fold for fold, _ in samples}
    return statistics.fmean(statistics.fmean(s.value for (of, _), s in samples.items() if of == f) for f in folds)


def _certain(q: _Question, pairs: Sequence[Pair], limits: GateLimits, *, by_hand: bool) -> Check | None:
    """A verdict that needs no statistics; None where it does."""
    drop = -q.effect.mean
    worse = drop > q.limit + ROUNDING
    if q.effect.mean == 0 and q.effect.better == 0:  # of every pair
        return _check(q, "pass", "the same")
    if by_hand:
        return _check(q, "fail" if worse else "pass")
    weights = [(pair.old.run.weights_sha256, pair.new.run.weights_sha256) for pair in pairs]
    if all(old is not None and old == new for old, new in weights):
        return _check(q, "fail" if worse else "pass", "the same weights")
    if drop > limits.certain + ROUNDING:
        return _check(q, "fail", f"beyond {limits.certain:g}")
    if q.effect.runs < LEAST_RUNS or q.effect.covers != "trainings and images":
        runs = f"{q.effect.runs} training{'s' if q.effect.runs > 1 else ''} each"
        return _check(q, "inconclusive", f"{runs}: nobody can tell")
    return None


def _told(asked: Sequence[_Question], limits: GateLimits) -> list[Check]:
    """Verdicts by Holm's p of a drop, over all that is asked."""
    p = [float(t.cdf(q.effect.mean / q.effect.error, q.effect.freedom)) if q.effect.error > 0 else 1.0 for q in asked]
    out = []
    for q, adjusted in zip(asked, holm(p), strict=True):
        seen = caught(q.effect.error, q.effect.freedom, q.limit, limits.level / len(asked))
        drop = -q.effect.mean
        verdict: Verdict = "pass"
        if drop > q.limit + ROUNDING:
            verdict = "fail" if adjusted <= limits.level else "inconclusive"
        elif seen > limits.certain:
            verdict = "inconclusive"  # such runs would not show a drop that matters
        out.append(_check(q, verdict, f"{q.effect.runs} pairs, sees {100 * seen:.1f}", seen))
    return out


def _check(q: _Question, verdict: Verdict, why: str = "", seen: float | None = None) -> Check:
    what = f"{q.what}: {why}" if why else q.what
    interval = ""
    if q.effect.interval is not None and q.effect.covers == "trainings and images" and q.effect.error > 0:
        interval = " ({:+.4f} to {:+.4f})".format(*q.effect.interval)
    base, head = (f"{value:.4f}" for value in q.values)
    return Check(q.name, what, verdict, base, f"{head}{interval}", q.effect.mean, seen)


def _spreads(rows: Sequence[Sequence[Pair]], metric: str) -> list[Training | None]:
    """Variance of a difference of two trainings of each row, in their order; None without any.

    It is pooled over the rows that share all but model and length. Of a row whose own is larger than that of the others
    by an F test it is its own, with its own freedoms.
    """
    found = [_values(pairs, metric) for pairs in rows]
    keys = [_pool(pairs) for pairs in rows]
    out: list[Training | None] = []
    for at, key in enumerate(keys):
        others = [values for i, of in enumerate(found) if i != at and keys[i] == key for values in of]
        own, rest, whole = pooled(found[at]), pooled(others), pooled([*found[at], *others])
        noisy = own and rest and own.variance > rest.variance * float(f.isf(NOISY, own.freedom, rest.freedom))
        within = own if noisy else whole
        out.append(None if within is None else Training(2 * within.variance, within.freedom, within.runs))
    return out


def _pool(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """What rows share whose spreads are pooled: all of a request but model and length, on both sides."""
    return tuple(recipe_of(stored.run.cell) for pair in pairs[:1] for stored in (pair.old, pair.new))


def _values(pairs: Sequence[Pair], metric: str) -> list[list[float]]:
    """A metric of the trainings of both sides, by fold."""
    found: list[list[float]] = []
    for stored in _apart([pair.old for pair in pairs], [pair.new for pair in pairs]):
        by_fold: dict[int, list[float]] = {}
        for one in stored:
            value = None if one.run.metrics is None else one.run.metrics.value(metric)
            if value is not None:
                by_fold.setdefault(one.run.cell.fold, []).append(value)
        found += by_fold.values()
    return found


def _apart(old: Sequence[Stored], new: Sequence[Stored]) -> list[Sequence[Stored]]:
    """The trainings of both sides; one side where they are the same, which says nothing twice."""
    numbers = [[one.run.metrics for one in side] for side in (old, new)]
    return [old] if numbers[0] == numbers[1] else [old, new]

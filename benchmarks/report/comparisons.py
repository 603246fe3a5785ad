"""What may be said of several rows: who is compared with whom, differences, the verdict. Data; others draw it."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from ablations.effects import LEAST_RUNS, Effect, Key, holm, paired, points
from benchmarks import models
from benchmarks.metrics.spread import DIFFERENCE, RunMetric, estimate, independent
from benchmarks.report.budget import ENDS
from benchmarks.report.rows import Row, has_scales_of

LEVEL = 0.05
"""Below which Holm's p, over every pair of a table that may be ranked, tells the best of it from another."""


@dataclass(frozen=True)
class Comparison:
    """AP50 of a row minus that of another, the same of small defects, and Holm's p of the first over its table."""

    row: Row
    against: Row
    AP50: Effect
    AP_small: Effect | None
    adjusted: float | None


def compared(section: Sequence[Row]) -> list[Comparison]:
    """Each row of a table with its counterpart, where both may be ranked."""
    pairs = [(row, other) for row in section if (other := counterpart(row, section)) is not None]
    found = []
    for row, against in pairs:
        effect = difference(row, against, row.samples, against.samples)
        if effect is not None:
            small = difference(row, against, row.samples_small, against.samples_small)
            found.append((row, against, effect, small))
    adjusted = iter(holm([effect.p for _, _, effect, _ in found if effect.p is not None]))
    return [Comparison(*four, None if four[2].p is None else next(adjusted)) for four in found]


def difference(a: Row, b: Row, ours: Mapping[Key, RunMetric], theirs: Mapping[Key, RunMetric]) -> Effect | None:
    """Paired difference of two rows, as `beside` has it; None unless both are trained alike, to the end, `LEAST_RUNS`
    times together.
    """
    return beside(a, b, ours, theirs) if _ranked(a, b, ours, theirs) else None


def beside(a: Row, b: Row, ours: Mapping[Key, RunMetric], theirs: Mapping[Key, RunMetric]) -> Effect | None:
    """Paired difference of a metric of any two rows over the runs that both have, to be looked at; None without any.

    Where two rows are not ranked it has no p: `unranked` says why. Rows that `unpaired` tells apart have none at all.
    A metric whose draws a record does not keep has the error over images of two independent samples: more than on the
    same images, which are hard for both. Where a side's is not known, or 0 because nothing of it varied, there is no
    interval, and no p either.
    """
    if unpaired(a, b) is not None:
        return None
    effect = _paired(a, ours, theirs)
    return effect if effect is None or _ranked(a, b, ours, theirs) else replace(effect, p=None)


def _ranked(a: Row, b: Row, ours: Mapping[Key, RunMetric], theirs: Mapping[Key, RunMetric]) -> bool:
    return rankable(a) and rankable(b) and len(set(ours) & set(theirs)) >= LEAST_RUNS


def _paired(a: Row, ours: Mapping[Key, RunMetric], theirs: Mapping[Key, RunMetric]) -> Effect | None:
    """The difference over what both have; without interval and p where the error over images is not known, or is 0."""
    ours = {key: independent(one, theirs[key]) for key, one in ours.items() if key in theirs}
    effect = paired(ours, theirs, partial(estimate, bounds=DIFFERENCE, test_share=a.test_share))
    if effect is None:
        return None
    if effect.error == 0 or any(not len(one.draws) and one.error is None for one in ours.values()):
        return replace(effect, interval=None, covers="nothing", p=None)
    return effect


SAME = ("trainer", "epochs", "batch_size", "optimizer", "schedule", "augment", "precision", "tile")
"""Of two rows' requests, what makes their trainings two different ones. A learning rate is each model's own."""


def unpaired(a: Row, b: Row) -> str | None:
    """Why no difference of two rows is given at all, as a sentence; None where one may be."""
    if a.table != b.table:
        return "Not of one table: other images, another input size or another kind of device. They are not paired."
    odd = [name for name in SAME if a.request.get(name) != b.request.get(name)]
    if a.scale == b.scale and a.request.get("weights") != b.request.get("weights"):
        odd.append("weights")
    elif a.scale != b.scale and all(has_scales_of(one.name, other.scale) for one, other in ((a, b), (b, a))):
        odd.append("scale")
    if not odd:
        versions = [name for name, its in a.trained_by.items() if its != b.trained_by.get(name)]
        told = ", ".join(f"{name} {a.trained_by[name]} and {b.trained_by.get(name)}" for name in versions)
        return f"Trained by different versions of the code ({told}). They are not paired." if versions else None
    told = ", ".join(f"{name} {_shown(a, name)} and {_shown(b, name)}" for name in odd)
    return f"Trained by different recipes ({told}). They are not paired."


def _shown(row: Row, name: str) -> str:
    value = row.request.get(name)
    return "none" if value is None else str(value)


def unranked(a: Row, b: Row) -> str | None:
    """Why two rows of a table are not ranked against each other, as a sentence; None where they are."""
    if lost := [row.title for row in (a, b) if row.untrained]:
        return f"{' and '.join(lost)} found next to nothing: untrained. Nothing is ranked."
    if gone := [row.title for row in (a, b) if row.diverged]:
        return f"Trainings of {' and of '.join(gone)} diverged: nothing is ranked."
    few = [row.title for row in (a, b) if row.runs < LEAST_RUNS]
    if few:
        return f"Fewer than {LEAST_RUNS} trainings of {' and of '.join(few)}: nothing is ranked."
    for state in ("still learning", "not told"):
        which = [row.title for row in (a, b) if row.learning == state]
        if which:
            what = "Still learning" if state == "still learning" else "Not told whether trained to the end"
            return f"{what}: {' and '.join(which)}. Nothing is ranked."
    if len(set(a.samples) & set(b.samples)) < LEAST_RUNS:
        return f"Fewer than {LEAST_RUNS} folds and seeds that both were trained on: nothing is ranked."
    return None


def rankable(row: Row) -> bool:
    """Trained to the end, often enough, each time: a mean of those that did not diverge is one of the lucky."""
    return row.learning == "converged" and row.runs >= LEAST_RUNS and not row.diverged and not row.untrained


def comparable(section: Sequence[Row]) -> list[Row]:
    """Of the rows that may be ranked those that are trained alike: the most of them, of as many the first."""
    groups: list[list[Row]] = []
    for row in filter(rankable, section):
        group = next((g for g in groups if all(unpaired(row, other) is None for other in g)), None)
        groups.append([row]) if group is None else group.append(row)
    return max(groups, key=len, default=[])


def by_result(section: Sequence[Row], name: str) -> list[Row]:
    """Rows that may be ranked on a metric, the best first: by their means over the folds and seeds that all have, folds
    counting alike, as in every table.

    [] of fewer than two that are trained alike, or where all have fewer than `LEAST_RUNS` folds and seeds in common:
    means over other ones order nothing.
    """
    ranked = [row for row in comparable(section) if row.accuracy[name].value is not None]
    samples = [_samples(row, name) for row in ranked]
    shared = set.intersection(*map(set, samples)) if samples else set()
    if len(ranked) < 2 or len(shared) < LEAST_RUNS:
        return []
    folds = sorted({fold for fold, _ in shared})
    means = [
        statistics.fmean(statistics.fmean(one[key].value for key in sorted(shared) if key[0] == f) for f in folds)
        for one in samples
    ]
    order = sorted(range(len(ranked)), key=lambda i: -means[i])
    return [ranked[i] for i in order]


def _samples(row: Row, name: str) -> Mapping[Key, RunMetric]:
    """A metric of the headline, of each run."""
    return {"AP50": row.samples, "AP": row.samples_AP, "AP_small": row.samples_small}[name]


def verdict(section: Sequence[Row]) -> list[str]:
    """A table in sentences: who is best and by how much, of whom that is not told, and what stands apart."""
    measured = [row for row in section if row.AP50 is not None]
    if not measured:
        return [_gone(row) for row in section if row.diverged]
    out = []
    ranked = [row for row in measured if rankable(row)]
    if len(comparable(ranked)) > 1:
        for name, what in (("AP50", "AP50"), ("AP_small", "small defects (AP small)")):
            if (sentence := _best(ranked, name, what)) is not None:
                out.append(sentence)
    elif len(ranked) > 1:
        titles = ", ".join(row.title for row in ranked)
        out.append(f"Trained by different recipes or versions, and ranked against nothing: {titles}.")
    elif all(row.runs == 1 for row in measured):
        out.append("One training each: nothing is ranked.")
    else:
        out.append(f"Fewer than two models are trained to the end {LEAST_RUNS} times: nothing is ranked.")
    out += [_gone(row) for row in section if row.diverged]
    learning = [row.title for row in measured if row.learning == "still learning"]
    if learning:
        out.append(f"Still learning, and ranked against nothing: {', '.join(learning)}.")
    for row in measured:
        if row.never_found and not row.untrained:
            classes = ", ".join(f"{name} ({n} boxes)" for name, n in row.never_found.items())
            out.append(f"{row.title} never finds {classes}.")
    if (others := over_folds(measured)) is not None:
        out.append(f"Means over different folds, some of which are harder: {others}. Compare differences, not means.")
    runs = sorted({row.runs for row in measured})
    first = measured[0]
    trainings = f"{runs[0]}" if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
    each = f"{round(first.images / max(first.runs, 1))} test images"
    each += f" in {first.groups} groups" if first.groups is not None else ""
    each += f", {first.good} of them good parts" if first.good is not None else ""
    out.append(f"Trainings a model: {trainings}; {each}.")
    return out


def over_folds(section: Sequence[Row]) -> str | None:
    """Which folds the means of a table's rows are over; None where all are over the same."""
    by_folds: dict[tuple[int, ...], list[str]] = {}
    for row in section:
        if row.samples:
            by_folds.setdefault(row.folds, []).append(row.title)
    if len(by_folds) < 2:
        return None
    widest = sorted(by_folds.items(), key=lambda item: (-len(item[0]), item[0]))
    return "; ".join(
        f"{', '.join(titles)} of fold{'s' * (len(folds) > 1)} {', '.join(map(str, folds))}" for folds, titles in widest
    )


def _gone(row: Row) -> str:
    if not row.runs:
        return f"Of {row.title}, every training diverged ({row.diverged})."
    which = f"{row.diverged} of {row.runs + row.diverged} trainings"
    return f"Of {row.title}, {which} diverged: its values are those of the others, and ranked against nothing."


def _best(ranked: Sequence[Row], name: str, what: str) -> str | None:
    """Who is best, and the lead over the next that it is told from; whom it is not told from."""
    ordered = by_result(ranked, name)
    if not ordered:
        have = sum(row.accuracy[name].value is not None for row in comparable(ranked))
        few = f"fewer than {LEAST_RUNS} folds and seeds that all of them were trained on"
        return None if have < 2 else f"Best on {what} is nobody: the models have {few}."
    first, *others = ordered
    # Who is best is chosen by the same numbers: a lead is told by Holm's p over every pair that may be ranked.
    effects = {
        (i, j): difference(a, b, _samples(a, name), _samples(b, name))
        for i, a in enumerate(ordered)
        for j, b in enumerate(ordered)
        if i < j
    }
    p = {pair: effect.p for pair, effect in effects.items() if effect is not None and effect.p is not None}
    adjusted = dict(zip(p, holm(list(p.values())), strict=True))
    untold, told, beaten = [], [], []
    apart = [row.title for row in ranked if row not in ordered and row.accuracy[name].value is not None]
    for j, row in enumerate(others, start=1):
        effect = effects[0, j]
        assert effect is not None  # `by_result` orders what may be compared
        if (
            effect.interval is None
            or adjusted.get((0, j), 1.0) >= LEVEL
            or effect.interval[0] <= 0 <= effect.interval[1]
        ):
            untold.append(row.title)
        elif effect.mean < 0:
            beaten.append(row.title)
        else:
            low, high = map(points, effect.interval)
            lead = f"{points(effect.mean)} ({low} to {high}) over {row.title}"
            told.append(f"{lead} ({_at_twice(first, row, name)})")
    value = first.accuracy[name].value
    assert value is not None
    out = f"Best on {what}: {first.title}, {100 * value:.1f}"
    if any((other := row.accuracy[name].value) is not None and other > value for row in others):
        out += " (the order is that of the folds and seeds that all models have)"
    out += f", {told[0]}" if told else ""
    out += f"; not told from {', '.join(untold)}" if untold else ""
    out += f"; trained otherwise, and not compared: {', '.join(apart)}" if apart else ""
    out += f"; behind {', '.join(beaten)} in the mean of what the two have in common" if beaten else ""
    return out + "."


def at_twice(a: Row, b: Row, name: str, folds: Collection[int] | None = None) -> Effect | None:
    """The paired difference of two rows' trainings of twice the schedule; None without any that both have, and where
    some diverged.

    folds: those that it is over; None is all of them.
    """
    if any(folds is None or fold in folds for one in (a, b) for fold, _ in one.gone_at_twice):
        return None
    ours, theirs = (
        {key: one for key, one in row.twice.get(name, {}).items() if folds is None or key[0] in folds} for row in (a, b)
    )
    return _paired(a, ours, theirs)


def _at_twice(first: Row, row: Row, name: str) -> str:
    """What became of a lead at twice the schedule: one that goes away there was a faster start."""
    if gone := [one.title for one in (first, row) if one.gone_at_twice]:
        return f"at twice the schedule trainings of {' and of '.join(gone)} diverged: not told there"
    effect = at_twice(first, row, name)
    if effect is None:
        return "not tried at twice the schedule"
    folds = sorted({fold for fold, _ in set(first.twice[name]) & set(row.twice[name])})
    where = "" if tuple(folds) == first.folds else f", of fold{'s' * (len(folds) > 1)} {', '.join(map(str, folds))},"
    out = f"at twice the schedule{where} {points(effect.mean)}"
    if effect.runs < LEAST_RUNS or effect.interval is None:
        return f"{out}, in too few trainings to tell"
    low, high = effect.interval
    end = "" if low > 0 else ": behind there" if high < 0 else ": not told there"
    return f"{out}, {points(low)} to {points(high)}{end}"


def counterpart(row: Row, section: Sequence[Row]) -> Row | None:
    """What a row is compared with; None where that is missing or could be several.

    An ablation with the whole model, a library's own training with ours, all others with the table's reference; that is
    Faster R-CNN FPN where nothing was profiled.
    Where the model was trained in several ways, with the one of as many epochs, and of the same scale.
    """
    whole = models.label(models.split_name(row.name)[0], "default")
    reference = next((r.reference for r in section if r.reference), ENDS[1])  # where nothing was profiled
    label = whole if row.label != whole else models.label_of(reference)
    if label == row.label:
        return None
    left = [r for r in section if r.label == label]
    for same in (lambda r: r.epochs == row.epochs, lambda r: r.scale == row.scale):
        if len(left) > 1:
            left = [r for r in left if same(r)]
    return left[0] if len(left) == 1 else None

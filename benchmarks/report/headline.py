"""The two ends of the ladder, CANet and Faster R-CNN FPN, wherever both were trained: one table, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ablations.effects import LEAST_RUNS, Effect, Key, points
from benchmarks import models
from benchmarks.cells import apart
from benchmarks.metrics.spread import RunMetric, estimate
from benchmarks.report.budget import ENDS
from benchmarks.report.comparisons import at_twice, difference, unpaired, unranked
from benchmarks.report.escaping import markdown as md
from benchmarks.report.rows import Row

_METRICS = ("AP50", "AP_small")


def table(sections: Mapping[str, Sequence[Row]]) -> list[str]:
    """A line per table, folds and schedule; [] where no table has both ends `LEAST_RUNS` times.

    Of a table over several folds the first is given alone as well: what was trained for twice as long is of that one.
    """
    # Once each: what was trained for twice as long may be a row of its own too.
    lines = list(dict.fromkeys(line for title, section in sections.items() for line in _lines(title, section)))
    if not lines:
        return []
    ours, theirs = (models.label(name, "default") for name in ENDS)
    columns = ("set", "folds", "epochs", "trainings", ours, theirs, "AP50, difference", "AP small, difference")
    return [
        f"## {md(ours)} and {md(theirs)}",
        "",
        "| " + " | ".join(columns) + " |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        *lines,
        "",
        f"AP50 (AP small), means in percent; folds count alike. Differences: {md(ours)} less {md(theirs)}, paired, "
        "with 95% intervals over another training and other images (and another fold, where there are several), each "
        "for itself: what Holm's correction over a table's pairs leaves of them stands with each table. Not ranked: a "
        "model is not told to be trained to its end (budget.md).",
        "",
    ]


def _lines(title: str, section: Sequence[Row]) -> list[str]:
    ends = [[row for row in section if row.name == name] for name in ENDS]
    pairs = [(a, b) for a in ends[0] for b in ends[1] if unpaired(a, b) is None]
    out = []
    for a, b in pairs:
        facts = []
        for row, of in zip((a, b), ends, strict=True):  # but for the epochs, which have a column
            if its := apart(row.request, [other.request for other in of], but="epochs"):
                facts.append(f"{row.label}: {its}")
        name = f"{title} ({'; '.join(facts)})" if facts else title
        shared = sorted({fold for fold, _ in set(a.samples) & set(b.samples)})
        choices = [shared, shared[:1]] if len(shared) > 1 else [shared]
        for folds in choices:
            samples = [[_of(folds, each) for each in (row.samples, row.samples_small)] for row in (a, b)]
            if min(len(each[0]) for each in samples) >= LEAST_RUNS:
                effects = [difference(a, b, *pair) for pair in zip(*samples, strict=True)]
                out.append(_line(name, a, b, folds, a.epochs, samples, effects))
        first = [[_of(shared[:1], row.twice.get(name, {})) for name in _METRICS] for row in (a, b)]
        if min(len(each[0]) for each in first) >= LEAST_RUNS:
            ranked = unranked(a, b) is None and len(set(first[0][0]) & set(first[1][0])) >= LEAST_RUNS
            later = [at_twice(a, b, name, shared[:1]) if ranked else None for name in _METRICS]
            out.append(_line(name, a, b, shared[:1], 2 * a.epochs, first, later))
    return out


def _of(folds: Sequence[int], samples: Mapping[Key, RunMetric]) -> dict[Key, RunMetric]:
    return {key: one for key, one in samples.items() if key[0] in folds}


def _line(
    title: str,
    a: Row,
    b: Row,
    folds: Sequence[int],
    epochs: int,
    samples: Sequence[Sequence[Mapping[Key, RunMetric]]],
    effects: Sequence[Effect | None],
) -> str:
    trainings = [len(each[0]) for each in samples]
    values = ["{} ({})".format(*(_mean(metric) for metric in each)) for each in samples]
    shown = ["not ranked"] * 2 if effects[0] is None else [told(effect) for effect in effects]
    counts = f"{trainings[0]}" if trainings[0] == trainings[1] else f"{trainings[0]}, {trainings[1]}"
    together = len(set(samples[0][0]) & set(samples[1][0]))
    if together < min(trainings):
        counts += f" ({together} in pairs)"
    return f"| {md(title)} | {', '.join(map(str, folds))} | {epochs} | {counts} | {' | '.join([*values, *shown])} |"


def _mean(samples: Mapping[Key, RunMetric]) -> str:
    """Folds count alike, however many trainings they have, as in every table."""
    got = estimate(samples)
    return "–" if got is None else f"{100 * got.mean:.1f}"


def told(effect: Effect | None) -> str:
    """A difference in points, with its interval where it has one, as every table shows it."""
    if effect is None:
        return "–"
    if effect.interval is None:
        return points(effect.mean)
    low, high = map(points, effect.interval)
    return f"{points(effect.mean)} ({low} to {high})"

"""Whether a training elsewhere is what the published one would be, trained again."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.stats import t

from benchmarks.gate.checks import Check, Verdict, name_of
from benchmarks.gate.judge import fingerprints, grouped, question_of
from benchmarks.metrics.spread import Training
from benchmarks.report.rows import Spreads
from benchmarks.store import Stored


def reproduced(base: Sequence[Stored], head: Sequence[Stored]) -> list[Check]:
    """Of each cell of `base` that `head` has too, whether its AP50 and AP could be those of one more training.

    Two trainings differ by less than t sqrt(2 s^2) in 95% of tries, where s^2 is the variance between trainings on the
    same test images, pooled over the other published runs of the family on the data set under the recipe, with its
    freedoms. Of n numbers that are not the same each is asked at 1 - 0.05/n (Bonferroni's), so that where all is well
    none fails in 95% of tries. Machines round differently, which moves a training as another seed does. Without these
    none can tell.
    A training that diverged, of a row of which no published one did, is none of these and fails, whatever its seed; so
    does one that failed or ran out of memory where the published one was measured. What else HEAD has is noted.
    """
    heads = {s.run.cell_id: s for s in head}
    published, ours = grouped(base), grouped(head)
    out = [
        _diverged(new, published[row], trainings)
        for row, trainings in ours.items()
        if row in published
        for new in trainings
        if new.run.status == "diverged"
    ]
    spreads = Spreads(s.run for s in base)
    asked: list[tuple[int, str, str, float, float, Training]] = []
    for old in base:
        name, new = name_of(old), heads.get(old.run.cell_id)
        if new is None:
            out.append(Check(name, "record", "note", "present", "not run"))
            continue
        out += fingerprints(name, old.run, new.run)
        if new.run.status == "diverged":
            continue
        if old.run.status == "ok" and new.run.status != "ok":
            out.append(Check(name, "status", "fail", old.run.status, new.run.status))
            continue
        if question_of(old) != question_of(new):
            what = "other digests of the data or the split list: on other images nobody can tell"
            out.append(Check(name, what, "inconclusive", old.run.status, new.run.status))
            continue
        if old.run.metrics is None or new.run.metrics is None:
            out.append(Check(name, "metrics", "inconclusive", old.run.status, new.run.status))
            continue
        for label in ("AP50", "AP"):
            was, now = old.run.metrics.value(label), new.run.metrics.value(label)
            spread = spreads.of(label, [old.run])
            if was is not None and was == now:
                out.append(Check(name, f"{label}, the same number", "pass", _points(was), _points(now)))
            elif was is None or now is None or spread is None:
                why = "not measured" if was is None or now is None else "no other published training tells the spread"
                out.append(Check(name, f"{label}: {why}", "inconclusive", _points(was), _points(now)))
            else:
                asked.append((len(out) + len(asked), name, label, was, now, spread))
    known = {s.run.cell_id for s in base}
    beyond = [
        Check(name_of(new), "record", "note", "not published", "present")
        for new in head
        if new.run.cell_id not in known
    ]
    for place, name, label, was, now, spread in asked:
        limit = float(t.ppf(1 - 0.025 / len(asked), spread.freedom)) * math.sqrt(2 * spread.variance)
        verdict: Verdict = "pass" if abs(now - was) <= limit else "fail"
        what = f"{label} within {100 * limit:.1f} (SD of {spread.runs} trainings)"
        out.insert(place, Check(name, what, verdict, _points(was), _points(now)))
    return out + beyond


def _diverged(new: Stored, published: Sequence[Stored], trainings: Sequence[Stored]) -> Check:
    """Of a training that diverged: a failure where none of the published ones of its row did."""
    before, now = (sum(s.run.status == "diverged" for s in side) for side in (published, trainings))
    verdict: Verdict = "inconclusive" if before else "fail"
    what = "diverged, of the trainings of its row"
    return Check(name_of(new), what, verdict, f"{before} of {len(published)}", f"{now} of {len(trainings)}")


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"

"""Two sides of records, matched and judged: cell by cell what is deterministic, row by row where chance has a part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.cells import digest_of, request_of
from benchmarks.errors import DataError, RequestError
from benchmarks.gate import accuracy, beginnings, costs
from benchmarks.gate.checks import Check, Pair, Verdict, both, equal, equal_bits, name_of
from benchmarks.gate.turns import Turns
from benchmarks.metrics import EVALUATOR_VERSION
from benchmarks.results import Metrics
from benchmarks.store import RunRecord, Stored
from benchmarks.suites import GateLimits


@dataclass(frozen=True)
class Matched:
    """A row of the base with that of the head: cells that differ in fold and seed alone. same: asked the same thing."""

    name: str
    base: Sequence[Stored]
    head: Sequence[Stored]
    same: bool = True

    def pairs(self) -> tuple[list[Pair], list[Stored], list[Stored]]:
        """Cells of the same fold and seed; then of the same fold, in order; and what is left of base and of head."""
        new = {(s.run.cell.fold, s.run.cell.seed): s for s in self.head}
        found, missing = [], []
        for old in sorted(self.base, key=_place):
            if (other := new.pop(_place(old), None)) is not None:
                found.append(Pair(old, other))
            else:
                missing.append(old)
        left = []
        for old in missing:
            key = next((k for k in sorted(new) if k[0] == old.run.cell.fold), None)
            if key is None:
                left.append(old)
            else:
                found.append(Pair(old, new.pop(key)))
        return found, left, list(new.values())


def _place(stored: Stored) -> tuple[int, int]:
    return stored.run.cell.fold, stored.run.cell.seed


def compare(
    base: Sequence[Stored],
    head: Sequence[Stored],
    *,
    limits: GateLimits | None = None,
    tolerance: float | None = None,
    one_job: bool = False,
    turns: Turns | None = None,
) -> list[Check]:
    """Checks for every cell and row of `base`, then one for each cell that `head` alone has.

    Args:
        tolerance: accuracy in [0, 1] that the mean of a row may lose, whoever can tell it; None: as `limits` say.
        one_job: both sides were measured on this machine in one job, so that memory and training times are compared
            directly.
        turns: how the models of both sides are timed now; None: they are not.
    """
    rows = _rows(base, head)
    return judged(rows, base, head, limits=limits or GateLimits(), tolerance=tolerance, one_job=one_job, turns=turns)


def judged(
    rows: Sequence[Matched],
    base: Sequence[Stored],
    head: Sequence[Stored],
    *,
    limits: GateLimits,
    tolerance: float | None = None,
    one_job: bool = False,
    turns: Turns | None = None,
) -> list[Check]:
    """As `compare`, of rows that are matched already."""
    out: list[Check] = []
    paired: list[tuple[str, list[Pair]]] = []
    sides = costs.Side(base), costs.Side(head)
    for row in rows:
        pairs, missing, extra = row.pairs()
        for pair in pairs:
            out += _cell(pair, limits, same=row.same)
        if row.same:
            out += [Check(name_of(old), "record", "fail", "present", "missing") for old in missing]
            out += [Check(name_of(new), "record", "new", "-", "new") for new in extra]
        elif missing or extra:
            out.append(_alone(row, pairs, missing, extra))
        asked = [pair for pair in pairs if question_of(pair.old) == question_of(pair.new)]
        if len(asked) < len(pairs):
            count = f"{len(pairs) - len(asked)} of {len(pairs)} pairs"
            out.append(Check(row.name, f"accuracy: {_OTHERS}", "inconclusive", count, count))
        paired.append((row.name, asked))
        out += _cost(row, pairs, sides, limits, one_job=one_job)
        if turns is not None:
            out += turns.checks(pairs, limits)
    out += accuracy.judged(paired, limits, tolerance)
    return out + costs.sessions(base, head)


def _alone(row: Matched, pairs: Sequence[Pair], missing: Sequence[Stored], extra: Sequence[Stored]) -> Check:
    """Which cells of two rows that answer one question the other has none of the fold for; grey where that is all."""
    sides = []
    for left, side in ((missing, row.base), (extra, row.head)):
        which = ", ".join("f{}-s{}".format(*_place(one)) for one in left)
        sides.append(f"{len(left)} of {len(side)}" + (f": {which}" if which else ""))
    if pairs:
        return Check(row.name, "cells without a counterpart of their fold", "note", sides[0], sides[1])
    return Check(row.name, "accuracy: no fold that both have", "inconclusive", sides[0], sides[1])


def _rows(base: Sequence[Stored], head: Sequence[Stored]) -> list[Matched]:
    """Rows by their request, in the order of the base and then of what the head alone has."""
    bases, heads = grouped(base), grouped(head)
    out = []
    for key in dict.fromkeys((*bases, *heads)):
        first = (bases.get(key) or heads[key])[0]
        out.append(Matched(row_name(first), bases.get(key, ()), heads.get(key, ())))
    return _told_apart(out)


def _told_apart(rows: Sequence[Matched]) -> list[Matched]:
    """Rows of one name with what their cells differ in, or else the digests of their data and split lists."""
    same: dict[str, list[Matched]] = {}
    for row in rows:
        same.setdefault(row.name, []).append(row)
    out = []
    for row in rows:
        asked = _asked(row)
        others = [_asked(other) for other in same[row.name]]
        fields = [
            k for k in dict.fromkeys(k for its in others for k in its) if len({repr(o.get(k)) for o in others}) > 1
        ]
        if fields != ["digests"]:
            fields = [k for k in fields if k != "digests"]
        out.append(replace(row, name=", ".join([row.name, *(f"{k} {asked.get(k)}" for k in fields)])))
    return out


def _asked(row: Matched) -> dict[str, object]:
    """What a row is asked, flat, and of what images."""
    run = (row.base or row.head)[0].run
    names = {"split": run.cell.split, "image_size": run.cell.image_size}
    return {**names, **request_of(run.cell), "digests": f"{run.fingerprint.data[:8]} {run.fingerprint.split[:8]}"}


def grouped(records: Iterable[Stored]) -> dict[str, list[Stored]]:
    """Records by all of their cell but fold and seed."""
    rows: dict[str, list[Stored]] = {}
    for s in records:
        rows.setdefault(digest_of(s.run.cell.model_dump(mode="json", exclude={"fold", "seed"})), []).append(s)
    return rows


def row_name(stored: Stored) -> str:
    cell = stored.run.cell
    kind = f", on {cell.device_class}" if cell.device_class else ""
    return f"{cell.dataset}/{cell.name}, {cell.scale}, {cell.recipe.epochs} epochs{kind}"


def _cell(pair: Pair, limits: GateLimits, *, same: bool) -> list[Check]:
    name, old, new = name_of(pair.old), pair.old.run, pair.new.run
    out: list[Check] = []
    if same:
        out += fingerprints(name, old, new)
    if not pair.same_seed:
        out.append(Check(name, "another seed in its place", "note", f"seed {old.cell.seed}", f"seed {new.cell.seed}"))
    worse = new.status != "ok" and old.status != new.status  # what failed before and is ok now got better
    out.append(Check(name, "status", "fail" if worse else "pass", old.status, new.status))
    if (facts := both(out, name, "parameters", old.model, new.model)) is not None and same:
        out.append(equal(name, "parameters", facts[0].parameters, facts[1].parameters))
        out.append(equal(name, "trainable", facts[0].trainable, facts[1].trainable))
    if (metrics := both(out, name, "metrics", old.metrics, new.metrics)) is not None and same:
        lost = _lost(*metrics, judged=limits.accuracy) if question_of(pair.old) == question_of(pair.new) else []
        versions = old.fingerprint.evaluator, new.fingerprint.evaluator
        for part in lost:
            verdict: Verdict = "inconclusive" if _other_evaluators(part, *versions) else "fail"
            out.append(Check(name, f"schema: {part}", verdict, "present", "missing"))
    if same:
        out += beginnings.beginning(pair, limits.first_losses)
        out += _detections(name, pair)
    return out


def fingerprints(name: str, old: RunRecord, new: RunRecord) -> list[Check]:
    """A note for each version or digest that is another."""
    before, after = old.fingerprint.model_dump(), new.fingerprint.model_dump()
    fields = [k for k in {**before, **after} if before.get(k) != after.get(k)]
    return [
        Check(name, f"fingerprint {k}", "note", str(before.get(k, 1))[:12], str(after.get(k, 1))[:12]) for k in fields
    ]


def _lost(old: Metrics, new: Metrics, judged: Collection[str]) -> list[str]:
    """Parts of an evaluation that the base has and the head, on the same images, does not say anything of.

    judged: numbers that are compared by themselves.
    """
    return [part for part in _parts(old.model_dump(), new.model_dump(), new) if part not in judged]


def _parts(old: dict[str, Any], new: dict[str, Any], whole: Metrics, at: str = "", boxes: int = 0) -> Iterator[str]:
    """Args: boxes: of the part that `old` is, or of what it belongs to."""
    boxes = new.get("boxes", boxes)
    for key, was in old.items():
        part, now = f"{at}{key}", new.get(key)
        if isinstance(was, dict) and was:
            if isinstance(now, dict) and now:
                yield from _parts(was, now, whole, f"{part}.", boxes)
            else:
                yield part
        elif at in _OF_METRICS and now is None:
            if whole.value(key) is not None:  # else the metric itself is told
                yield part
        elif was not in (None, (), {}) and now in (None, ()) and not (key in new and _undefined(key, was, new, boxes)):
            yield part


def _other_evaluators(part: str, old: int, new: int) -> bool:
    """Whether versions may explain that a part is gone: an older one, or of what rests on resamples any other."""
    return new < old or (new != old and part.startswith(tuple(name[:-1] for name in _OF_METRICS)))


_OF_METRICS = ("intervals.", "standard_errors.", "draws.")
_WITHOUT_DETECTIONS = ("precision", "ECE", "DeepPCB_F_operating")
"""Numbers that are undefined where nothing was found."""


def _undefined(key: str, was: object, its: Mapping[str, Any], boxes: int) -> bool:
    """Whether a number may have no value on images where it has one of other detections, or by its count of boxes."""
    if not isinstance(was, float):
        return False
    size = key.partition("_")[2]
    if size in ("small", "medium", "large"):
        boxes = its.get(f"boxes_{size}", 0)  # a class does not count them
    return boxes == 0 or key in _WITHOUT_DETECTIONS


def _detections(name: str, pair: Pair) -> list[Check]:
    """From the same weights, with equal bits, come the same detections."""
    old, new = pair.old.run, pair.new.run
    if old.weights_sha256 is None or old.weights_sha256 != new.weights_sha256 or old.detections_sha256 is None:
        return []
    digests = old.detections_sha256[:12], str(new.detections_sha256)[:12]
    what = "detections of the same weights"
    if old.detections_sha256 == new.detections_sha256:
        return [Check(name, what, "pass", *digests)]
    moved = [f for f in ("detection", "builder") if getattr(old.fingerprint, f) != getattr(new.fingerprint, f)]
    meant = moved or not equal_bits(old.provenance, new.provenance)
    return [Check(name, what, "inconclusive" if meant else "fail", *digests)]


def _cost(
    row: Matched, pairs: Sequence[Pair], sides: tuple[costs.Side, costs.Side], limits: GateLimits, *, one_job: bool
) -> list[Check]:
    """Of the first profile of a row on each side: a suite profiles the first fold and seed of a model alone."""
    out = costs.training_time(row.name, pairs, *sides, limits, one_job)
    old = next((pair.old for pair in pairs if pair.old.profile is not None), None)
    if old is None:
        if any(pair.new.profile is not None for pair in pairs):
            out.append(Check(row.name, "profile: the base has none", "note", "-", "present"))
        return out
    name = name_of(old)
    partner = next(pair.new for pair in pairs if pair.old is old)
    new = partner if partner.profile is not None else next((p.new for p in pairs if p.new.profile is not None), None)
    if new is None:
        return [*out, Check(name, "profile", "fail" if row.same else "note", "present", "missing")]
    if row.same:
        out += costs.counted(name, old, new, limits)
    return out + costs.measured(name, old, new, *sides, limits, one_job=one_job)


def any_rows(base: Sequence[Stored], head: Sequence[Stored]) -> tuple[list[Matched], list[Check]]:
    """Rows that answer the same question, whoever answers it, and what differs between them, to be said first.

    A question is the test images that are asked about: data set, split list and the digests of both. Where a side
    answers one several times, answers of one kind of machine are matched first: those of one name, or the one model of
    each side; rows that are left are noted.

    Raises:
        RequestError: no question is answered by both, or it is not clear by whom.
    """
    rows: list[Matched] = []
    for question in dict.fromkeys(map(question_of, base)):
        ours = grouped(s for s in base if question_of(s) == question)
        theirs = grouped(s for s in head if question_of(s) == question)
        old, new = [*ours.values()], [*theirs.values()]
        one_each = all(len({row[0].run.cell.name for row in side}) == 1 for side in (old, new))
        kinds = dict.fromkeys(row[0].run.cell.device_class for row in old)
        found = [pair for kind in kinds for pair in _pairs(_of_kind(old, kind), _of_kind(new, kind), one_each)]
        rows += [_matched(*pair) for pair in found or _pairs(old, new, one_each)]
    if not rows:
        asked = " and ".join("; ".join(dict.fromkeys(map(row_name, side))) or "nothing" for side in (base, head))
        if any(_is_asked_of_others(stored, head) for stored in base):
            asked += f"; of one name, but {_OTHERS}"
        raise RequestError(
            f"no question that both answer, or several models to each: {asked}; name one of a side as FOLDER@MODEL"
        )
    rows = _told_apart(rows)
    left = _unmatched("base", base, head, [row.base for row in rows])
    left += _unmatched("head", head, base, [row.head for row in rows])
    return rows, [*left, *(check for row in rows for check in _differences(row))]


def _of_kind(rows: Iterable[list[Stored]], kind: str | None) -> list[list[Stored]]:
    return [row for row in rows if row[0].run.cell.device_class == kind]


def _pairs(
    ours: Sequence[list[Stored]], theirs: Sequence[list[Stored]], one_each: bool
) -> list[tuple[list[Stored], list[Stored]]]:
    """Those of one name, where each side has one of it. one_each: each side is of one model, whatever it is called."""
    if one_each:
        return [(ours[0], theirs[0])] if len(ours) == len(theirs) == 1 else []
    names = [Counter(row[0].run.cell.name for row in side) for side in (ours, theirs)]
    only = [{row[0].run.cell.name: row for row in side} for side in (ours, theirs)]
    return [(row, only[1][name]) for name, row in only[0].items() if names[0][name] == names[1][name] == 1]


_OTHERS = "the digests of the data or the split list are others"


def _unmatched(
    which: str, records: Sequence[Stored], others: Sequence[Stored], taken: Iterable[Sequence[Stored]]
) -> list[Check]:
    """A note for each row of a side that nothing of the other answers, or several do; grey where names alone agree."""
    matched = {id(stored) for side in taken for stored in side}
    out = []
    for row in grouped(stored for stored in records if id(stored) not in matched).values():
        count = f"{len(row)} records"
        if any(_is_asked_of_others(stored, others) for stored in row):
            out.append(Check(row_name(row[0]), f"not compared: {_OTHERS} ({which})", "inconclusive", count, "-"))
        else:
            out.append(Check(row_name(row[0]), f"not compared: no one row answers it ({which})", "note", count, "-"))
    return out


def question_of(stored: Stored) -> tuple[object, ...]:
    """Data set, split list and the digests of both."""
    run = stored.run
    return run.cell.dataset, run.cell.split, run.fingerprint.data, run.fingerprint.split


def _is_asked_of_others(stored: Stored, others: Sequence[Stored]) -> bool:
    """Whether others answer a question of the same names, and none the same."""
    question = question_of(stored)
    asked = set(map(question_of, others))
    return question not in asked and question[:2] in {its[:2] for its in asked}


def _matched(old: Sequence[Stored], new: Sequence[Stored]) -> Matched:
    names = [row_name(side[0]) for side in (old, new)]
    asked = [side[0].run.cell.model_dump(mode="json", exclude={"fold", "seed"}) for side in (old, new)]
    return Matched(" against ".join(dict.fromkeys(names)), old, new, same=asked[0] == asked[1])


def _differences(row: Matched) -> list[Check]:
    """What is asked, with what it was answered, and on what machine, where that is not the same in all records."""
    facts = [[_facts(stored) for stored in side] for side in (row.base, row.head)]
    out = []
    for key in dict.fromkeys(key for side in facts for its in side for key in its):
        old, new = (Counter(str(its.get(key, "-")) for its in side) for side in facts)
        if old.keys() != new.keys():
            out.append(Check(row.name, f"differs: {key}", "note", _values(old), _values(new)))
    return out


def _facts(stored: Stored) -> dict[str, object]:
    run = stored.run
    its = run.provenance
    cell = run.cell.model_dump(mode="json", exclude={"fold", "seed", "recipe"})
    recipe = {f"recipe {k}": v for k, v in run.cell.recipe.model_dump(mode="json").items()}
    made = {f"version of {k}": v for k, v in run.fingerprint.model_dump().items()}
    made |= {"commit": its.commit and its.commit[:12], "source differs from it": its.dirty}
    made |= {"source changed meanwhile": its.changed_meanwhile, "arithmetic": its.arithmetic or "native"}
    made |= {"CPU": its.cpu, "device": its.device_name or its.device, "threads": its.threads}
    return {**cell, **recipe, **made, **{f"package {k}": v for k, v in its.packages.items()}}


def _values(counts: Counter[str]) -> str:
    """The value of all records, or each with the number of records that have it."""
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{value} ({count})" for value, count in counts.most_common())


def recheck(records: Sequence[Stored], which: str, data_root: Path | None) -> list[Check]:
    """Metrics of each record again from the detections beside it; exactly what it says, or a failure.

    Of another evaluator's record AP and AP50 alone must come out: what else differs may be meant by its version.
    """
    from benchmarks.metrics.records import first_difference, recompute, within

    out = []
    for stored in records:
        if stored.run.metrics is None:
            continue
        name, what = name_of(stored), f"metrics recomputed ({which})"
        said = stored.run.metrics
        try:
            again = recompute(stored.run, stored.paths, data_root)
        except RequestError as e:
            out.append(Check(name, what, "inconclusive", _AP(said.AP), str(e)))
        except DataError as e:
            out.append(Check(name, what, "fail", _AP(said.AP), str(e)))
        else:
            if (differs := first_difference(stored.run, again)) is not None:
                field, was, now = differs
                version = stored.run.fingerprint.evaluator
                if version != EVALUATOR_VERSION and within([said.AP, said.AP50], [again.AP, again.AP50]):
                    meant = f"{what}: {field}, evaluator {version} -> {EVALUATOR_VERSION}"
                    out.append(Check(name, meant, "inconclusive", _brief(was), _brief(now)))
                else:
                    out.append(Check(name, f"{what}: {field}", "fail", _brief(was), _brief(now)))
            else:
                out.append(Check(name, what, "pass", f"AP {_AP(said.AP)}", f"AP {_AP(again.AP)}"))
    return out


def _brief(value: object) -> str:
    """A value of a record as it is shown: a number, or the beginning of what is longer."""
    return f"{value:.6f}" if isinstance(value, float) else str(value)[:40]


def _AP(value: float | None) -> str:
    return "-" if value is None else f"{value:.6f}"


def verdicts(checks: Iterable[Check]) -> Mapping[Verdict, int]:
    """How many checks have which verdict, all five, in their order."""
    found: dict[Verdict, int] = dict.fromkeys(("pass", "fail", "inconclusive", "new", "note"), 0)
    for check in checks:
        found[check.verdict] += 1
    return found

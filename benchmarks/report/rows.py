"""Records summed up into the rows that figures and tables show: one per data set, model and recipe."""

from __future__ import annotations

import math
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ablations.effects import UNTRAINED_BELOW, Learning
from benchmarks import models
from benchmarks.cells import Cell, NativeRecipe, apart, digest_of, request_of
from benchmarks.errors import DataError
from benchmarks.metrics.spread import LEAST_RUNS, RunMetric, Training, estimate, exact, pooled
from benchmarks.report import budget
from benchmarks.report.budget import Course
from benchmarks.results import Interval, Metrics
from benchmarks.store import Provenance, RunRecord, Stored

ERRORS = ("classification", "localisation", "both", "duplicate", "background", "missed")
POINT = "inspection.operating_point"

HEADLINE = {"AP50": "AP50", "AP": "AP", "AP small": "AP_small"}
PROTOCOLS = {
    "AP75": "AP75",
    "AP medium": "AP_medium",
    "AP large": "AP_large",
    "AR 100": "AR_100",
    "VOC07 AP50": "VOC07_AP50",
    "VOC07 AP50, +1": "VOC07_AP50_plus1",
    "VOC12 AP50": "VOC12_AP50",
    "DeepPCB AP": "DeepPCB_AP",
    "DeepPCB F": "DeepPCB_F",
    "F, validation": "DeepPCB_F_operating",
}
INSPECTION = {
    "AP50 < 16 px": "sizes.below 16 x 16 px.AP50",
    "recall at 1/8 false": "inspection.FROC.0.125",
    "at 1": "inspection.FROC.1",
    "at 1 on good parts": "inspection.FROC_defect_free.1",
    "AUROC": "inspection.image_level.AUROC",
    "precision": f"{POINT}.precision",
    "recall": f"{POINT}.recall",
    "escape": f"{POINT}.escape",
    "overkill": f"{POINT}.overkill",
    "best F1": "inspection.best_F1.F1",
    "ECE": "inspection.calibration.ECE",
}
GAINS = {kind: f"inspection.errors.{kind}.dAP50" for kind in ERRORS}
"""Columns of the tables, and the metrics in them."""

ACCURACY = (*HEADLINE.values(), *PROTOCOLS.values(), *INSPECTION.values(), *GAINS.values())


COUNTS = (f"{POINT}.escape", f"{POINT}.overkill")
"""Shares of few images, whose intervals are exact ones."""


@dataclass(frozen=True)
class Value:
    """A number, its 95% interval, and what that covers; `values` are those of the runs.

    training: the spread between trainings, where it was taken from published records of the same family, of two
    trainings pooled with their own; else None.
    """

    value: float | None
    interval: Interval | None
    covers: str = "nothing"
    values: tuple[float, ...] = ()
    training: Training | None = None

    @property
    def degenerate(self) -> bool:
        """Nothing varied over images: no interval that says anything of others."""
        return self.interval is not None and self.interval[1] - self.interval[0] < 1e-12


@dataclass(frozen=True)
class Row:
    """A model under one recipe on one split of one data set; means over its folds and seeds.

    `accuracy` is by the names of `Metrics`, in [0, 1]. None is "not measured". `samples` are AP50 by (fold, seed).
    """

    dataset: str
    split: str
    name: str
    label: str
    stage: str
    scale: str
    image_size: int
    epochs: int
    runs: int
    images: int
    boxes: int
    boxes_small: int
    accuracy: Mapping[str, Value]
    samples: Mapping[tuple[int, int], RunMetric]
    samples_AP: Mapping[tuple[int, int], RunMetric]
    samples_small: Mapping[tuple[int, int], RunMetric]
    """AP and AP small of each run; `samples` is AP50 of each."""
    groups: int | None
    good: int | None
    """Groups of test images of one run, and how many of these images are good parts: means over the runs."""
    test_share: float | None
    parameters: int | None
    """Those that run in evaluation; as built where no record says more (`as_built`)."""
    as_built: bool
    macs: float | None
    latency_ms: float | None
    ratio: float | None
    ratio_interval: tuple[float, float] | None
    reference: str | None
    training_s: Mapping[str, float]
    """Of one training at most, by its images, machine, threads and how it was shared: times of one are compared, of two
    not."""
    training_ratio: float | None
    """To that of the reference, of trainings in the same circumstances."""
    device_class: str | None
    """None: a CPU. Rows of one class are not compared with those of another."""
    machines: tuple[str, ...]
    amended: int
    """Runs of which something was put right afterwards (`Provenance.amended`)."""
    statuses: tuple[str, ...]
    diverged: int
    """Trainings that did: the means are of the others, which are the lucky ones."""
    pretrained: bool | None
    """None where no record says what its model started from."""
    never_found: Mapping[str, int]
    """Classes of which not one box is found, and how many boxes there are, over all runs."""
    request: Mapping[str, object]
    learning: Learning
    """Whether it is trained to its end; what is not told to be is ranked against nothing."""
    cell_ids: tuple[str, ...] = ()
    """Of its runs, those that failed included, in the order of folds and seeds."""
    apart: str = ""
    """What tells the row from others of its label in its table."""
    twice: Mapping[str, Mapping[tuple[int, int], RunMetric]] = field(default_factory=dict)
    """AP50 and AP small of each training at twice the schedule, by (fold, seed), from every record there is."""
    gone_at_twice: tuple[tuple[int, int], ...] = ()
    """(fold, seed) of the trainings at twice the schedule that diverged: those of `twice` are the lucky ones."""
    timed_on: str = ""
    """In what circumstances `ratio` was measured: those of two machines are not compared."""
    session: str = ""
    """In which it was: models of one session were timed in turns."""
    trained_by: Mapping[str, object] = field(default_factory=dict)
    """Versions of what trains every model: of two of them trainings are not paired."""

    @property
    def table(self) -> budget.Table:
        return self.dataset, self.split, self.image_size, self.device_class

    @property
    def folds(self) -> tuple[int, ...]:
        """Those that its means are over."""
        return tuple(sorted({fold for fold, _ in self.samples}))

    @property
    def title(self) -> str:
        """The label, and what tells it from others of the same."""
        return f"{self.label} ({self.apart})" if self.apart else self.label

    @property
    def AP50(self) -> float | None:
        return self.accuracy["AP50"].value

    @property
    def interval(self) -> Interval | None:
        """The 95% interval of AP50; None where none can be given."""
        return self.accuracy["AP50"].interval

    @property
    def untrained(self) -> bool:
        return self.AP50 is not None and self.AP50 < UNTRAINED_BELOW


def rows(records: Iterable[Stored], published: Iterable[Stored] = ()) -> list[Row]:
    """Rows in the order of data sets, then of the registry, ablations after their model.

    Args:
        published: further records, from which the spread between trainings is taken where a row has too few of its own.
    """
    records = list(records)
    known = {
        stored.run.cell_id: stored.run for stored in (*belonging(records, published, say=lambda line: None), *records)
    }
    spreads = Spreads(known.values())
    studied = budget.courses(known.values())
    groups: dict[tuple[str, ...], list[Stored]] = {}
    tables: dict[tuple[object, ...], list[Stored]] = {}
    for stored in records:
        cell = stored.run.cell
        # All of a cell but fold and seed, so that a field that is new tells rows apart by itself.
        rest = digest_of(cell.model_dump(mode="json", exclude={"fold", "seed"}))
        groups.setdefault((cell.dataset, cell.model, cell.variant, cell.scale, rest), []).append(stored)
        tables.setdefault(_of_table(cell), []).append(stored)
    for group in groups.values():
        _agree(group, (*_WITH, *_TRAINED_WITH))
    for table in tables.values():
        _agree(table, _WITH)
    order = {name: i for i, name in enumerate(models.MODELS)}
    lengths = _Lengths(known.values())
    out = [_row(group, spreads, studied, lengths) for _, group in sorted(groups.items())]
    out = _with_one_reference(out)
    out = _told_apart(_with_training_ratios(out))
    rank = {"default": 0}
    return sorted(
        out,
        key=lambda r: (
            r.dataset,
            r.split,
            order.get(models.split_name(r.name)[0], len(order)),
            rank.get(models.split_name(r.name)[1] or "default", 1),
            r.name,
            r.image_size,
            r.epochs,
        ),
    )


_WITH = ("data", "split", "detection", "evaluator")
"""With what of a `Fingerprint` records must have been made to stand in one table."""
_TRAINED_WITH = ("builder", "recipe", "transforms")
"""With what trainings of one model must have been made to be trainings of one thing."""


def belonging(
    records: Sequence[Stored],
    published: Iterable[Stored],
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> list[Stored]:
    """Those of `published` that were made with the data, split list, detection and evaluator of `records`, and, of a
    model that is among these, with the same versions of builder, recipe and transforms.

    Args:
        say: takes a line for each table of which some were left out.
    """
    made_with: dict[tuple[object, ...], set[tuple[object, ...]]] = {}
    trained_with: dict[tuple[object, ...], set[tuple[object, ...]]] = {}
    for s in records:
        if s.run.metrics is not None:
            made_with.setdefault(_of_table(s.run.cell), set()).add(_made_with(s))
        trained_with.setdefault((_of_table(s.run.cell), s.run.cell.name), set()).add(_made_with(s, _TRAINED_WITH))
    kept, left_out = [], Counter[tuple[str, ...]]()
    for one in published:
        ours = made_with.get(_of_table(one.run.cell))
        # What was not measured, since it diverged, was not by any evaluator.
        fields = len(_WITH) if one.run.metrics is not None else _WITH.index("evaluator")
        its = _made_with(one)[:fields]
        odd = []
        if ours is not None and its not in {made[:fields] for made in ours}:
            odd = [name for name, a, b in zip(_WITH, min(ours, key=repr), its, strict=False) if a != b]
        own = trained_with.get((_of_table(one.run.cell), one.run.cell.name))
        if own is not None and (trained := _made_with(one, _TRAINED_WITH)) not in own:
            first = min(own, key=repr)
            odd += [name for name, a, b in zip(_TRAINED_WITH, first, trained, strict=True) if a != b]
        if not odd:
            kept.append(one)
            continue
        left_out[one.run.cell.dataset, str(one.paths.root), " and ".join(odd)] += 1
    for (dataset, root, what), n in sorted(left_out.items()):
        say(f"{n} published trainings of {dataset} in {root} are left out: another {what} than the records here")
    return kept


def _of_table(cell: Cell) -> budget.Table:
    return cell.dataset, cell.split, cell.image_size, cell.device_class


def _made_with(stored: Stored, fields: Sequence[str] = _WITH) -> tuple[object, ...]:
    return tuple(getattr(stored.run.fingerprint, name) for name in fields)


def _agree(together: list[Stored], fields: Iterable[str]) -> None:
    """DataError unless records that are averaged, or stand in one table, were made with the same.

    The message names two cells and the command that mends it.
    """
    first, *others = [s for s in together if s.run.metrics is not None] or together[:1]
    for other in others:
        for name in fields:
            a, b = (getattr(s.run.fingerprint, name) for s in (first, other))
            if a != b:
                old = other if name != "evaluator" or b < a else first
                command = f"python -m benchmarks.evaluate --rewrite {old.paths.record}"
                remedy = command if name == "evaluator" else f"run {old.run.cell.name} again, or leave it out"
                shown = f"{str(a)[:12]} and {str(b)[:12]}"
                raise DataError(
                    f"{first.paths.record} and {other.paths.record} do not belong together: {name} {shown}; {remedy}"
                )


def _told_apart(found: list[Row]) -> list[Row]:
    """Rows of one label in one table, with what their cells differ in."""
    same: dict[tuple[object, ...], list[Row]] = {}
    for row in found:
        same.setdefault((*row.table, row.label), []).append(row)
    out = []
    for row in found:
        others = same[(*row.table, row.label)]
        out.append(replace(row, apart=apart(row.request, [other.request for other in others])))
    return out


def _never_found(measured: list[Metrics]) -> dict[str, int]:
    """Classes of which no run finds a single box, and how many boxes of them there are in all runs."""
    boxes: Counter[str] = Counter()
    found: set[str] = set()
    for metrics in measured:
        for name, of_class in metrics.per_class.items():
            boxes[name] += of_class.boxes
            if of_class.AP50:
                found.add(name)
    return {name: n for name, n in boxes.items() if n and name not in found}


def has_scales_of(name: str, scale: str) -> bool:
    """Whether a model can be built at a scale: scales of two libraries are no two sizes of one."""
    return scale in models.get(models.split_name(name)[0]).scales.values()


def _with_one_reference(found: list[Row]) -> list[Row]:
    """Ratios of one table are to one model of one scale on one machine, the commonest: others are left out."""
    timed: dict[budget.Table, list[Row]] = {}
    for row in found:
        if row.reference is not None:
            timed.setdefault(row.table, []).append(row)
    scales = {id(row): _scale_of_reference(row, those) for those in timed.values() for row in those}

    def to(row: Row) -> tuple[str | None, str, str | None]:
        return row.reference, row.timed_on, scales.get(id(row))

    common = {}
    for table, those in timed.items():
        # Where a reference's scale is not known it is the only one that its table has, or the ratio to it is left out.
        counts = Counter(to(row) for row in those if to(row)[2] is not None) or Counter(map(to, those))
        (name, where, scale), _ = counts.most_common(1)[0]
        alone = len({s for n, w, s in counts if (n, w) == (name, where)}) == 1
        common[table] = {(name, where, scale), (name, where, None if alone else scale)}
    return [
        row
        if row.reference is not None and to(row) in common[row.table]
        else replace(row, ratio=None, ratio_interval=None, reference=None)
        for row in found
    ]


def _scale_of_reference(row: Row, timed: Sequence[Row]) -> str | None:
    """Of the model that a row's ratio is to: as it stands in the row's session, else the row's own where it has it."""
    assert row.reference is not None
    beside = {r.scale for r in timed if r.session == row.session and r.name == row.reference}
    if len(beside) == 1:
        return beside.pop()
    return row.scale if has_scales_of(row.reference, row.scale) else None


def _with_training_ratios(found: list[Row]) -> list[Row]:
    """Training time over that of the table's reference at as many epochs, in circumstances that both had."""
    out = []
    for row in found:
        table = [r for r in found if r.table == row.table]
        name = next((r.reference for r in table if r.reference is not None), budget.ENDS[1])
        like = [r for r in table if r.name == name and r.epochs == row.epochs and "native" not in r.label]
        if has_scales_of(name, row.scale):
            like = [r for r in like if r.scale == row.scale]
        reference = like[0] if len(like) == 1 else None  # of several, nobody could say which
        if reference is not None and (where := sorted(row.training_s.keys() & reference.training_s.keys())):
            fastest = min(where, key=lambda one: reference.training_s[one])
            row = replace(row, training_ratio=row.training_s[fastest] / reference.training_s[fastest])
        out.append(row)
    return out


def _training_seconds(group: Iterable[Stored]) -> dict[str, float]:
    """What a training takes at most, by where it was made and of how many images: the least of such ones, since each
    says at most.
    """
    out: dict[str, float] = {}
    for run in (s.run for s in group if s.run.status == "ok"):
        if (took := run.training_seconds) is not None:
            where = f"{_where(run)}, {run.train_images} images"
            out[where] = min(took, out.get(where, took))
    return out


def _machine(run: RunRecord) -> str:
    p = run.provenance
    threads = f"{p.threads} CPU thread{'' if p.threads == 1 else 's'}"
    return p.device_name or (f"{threads} in portable arithmetic" if p.arithmetic else threads)


def _where(run: RunRecord) -> str:
    return f"{_circumstances(run.provenance)}, {run.shared}"


def _circumstances(p: Provenance) -> str:
    return f"{p.cpu}, {p.cpu_capability}, {p.arithmetic}, {p.device_name}, {p.threads}"


def parameters_of(group: Iterable[Stored]) -> tuple[int | None, bool]:
    """A model's parameters that run in evaluation, and False; as built, and True, where no record has them."""
    built = None
    for stored in group:
        facts, profile = stored.run.model, stored.profile
        touched = facts.in_evaluation if facts is not None else None
        if touched is None and profile is not None and profile.parameters is not None:
            touched = profile.parameters.get("in_evaluation")
        if touched is not None:
            return touched, False
        if built is None and facts is not None:
            built = facts.parameters
    return built, built is not None


def label_of(cell: Cell) -> str:
    """How figures and tables name a cell's model, variant and, where it is the library's own, training."""
    label = models.label(cell.model, cell.variant)
    return f"{label} native" if isinstance(cell.recipe, NativeRecipe) else label


def _row(group: list[Stored], spreads: Spreads, studied: Sequence[Course], lengths: _Lengths) -> Row:
    # Of its trainings those that were measured were made with the same.
    first = next((s.run for s in group if s.run.metrics is not None), group[0].run)
    cell = first.cell
    measured = [s.run.metrics for s in group if s.run.metrics is not None]
    profiles = [s.profile for s in group if s.profile is not None]
    # One profile may lack what another has: a count that failed, a machine that was busy.
    macs = next((p.macs.macs for p in profiles if p.macs is not None), None)
    latency, timed = next(((p.latency, p) for p in profiles if p.latency is not None), (None, None))
    twice = lengths.twice(first)
    return Row(
        dataset=cell.dataset,
        split=cell.split,
        name=cell.name,
        label=label_of(cell),
        stage=models.get(cell.model).stage,
        scale=cell.scale,
        image_size=cell.image_size,
        epochs=cell.recipe.epochs,
        runs=len(measured),
        images=sum(m.images for m in measured),
        boxes=sum(m.boxes for m in measured),
        boxes_small=sum(m.boxes_small for m in measured),
        accuracy={name: value_of(name, [s.run for s in group], spreads) for name in ACCURACY},
        samples=samples_of("AP50", [s.run for s in group]),
        samples_AP=samples_of("AP", [s.run for s in group]),
        samples_small=samples_of("AP_small", [s.run for s in group]),
        groups=_a_run([m.groups for m in measured]),
        good=_a_run([m.inspection.defect_free_images if m.inspection else None for m in measured]),
        test_share=test_share([s.run for s in group]),
        parameters=parameters_of(group)[0],
        as_built=parameters_of(group)[1],
        macs=macs,
        latency_ms=latency.p50["end_to_end"] if latency else None,
        ratio=latency.ratio if latency else None,
        ratio_interval=latency.ratio_interval if latency else None,
        reference=latency.reference if latency else None,
        training_s=_training_seconds(group),
        training_ratio=None,
        device_class=cell.device_class,
        machines=tuple(sorted({_machine(s.run) for s in group})),
        amended=sum(s.run.provenance.amended is not None for s in group),
        statuses=tuple(sorted({s.run.status for s in group})),
        diverged=sum(s.run.status == "diverged" for s in group),
        pretrained=_pretrained(group),
        never_found=_never_found(measured),
        request=request_of(cell),
        learning=budget.verdict(first, studied),
        cell_ids=tuple(s.run.cell_id for s in sorted(group, key=lambda s: (s.run.cell.fold, s.run.cell.seed))),
        timed_on=_circumstances(timed.provenance) if timed is not None else "",
        session=timed.session if timed is not None else "",
        trained_by={name: getattr(first.fingerprint, name) for name in ("recipe", "transforms")},
        twice={name: samples_of(name, twice) for name in ("AP50", "AP_small")},
        gone_at_twice=tuple(sorted((r.cell.fold, r.cell.seed) for r in twice if r.status == "diverged")),
    )


def _pretrained(group: Sequence[Stored]) -> bool | None:
    known = [s.run.model.weights is not None for s in group if s.run.model is not None]
    return any(known) if known else None


def _a_run(counts: Sequence[int | None]) -> int | None:
    """Mean over runs, whose folds may differ; None where one does not say."""
    known = [n for n in counts if n is not None]
    return round(statistics.fmean(known)) if known and len(known) == len(counts) else None


class _Lengths:
    """Trainings of every model under one recipe and by one version of the code, by their length."""

    def __init__(self, runs: Iterable[RunRecord]) -> None:
        self._runs: dict[tuple[object, ...], list[RunRecord]] = {}
        for run in runs:
            self._runs.setdefault(self._key(run, run.cell.recipe.epochs), []).append(run)

    @staticmethod
    def _key(run: RunRecord, epochs: int) -> tuple[object, ...]:
        return run.cell.dataset, budget.made_alike(run), run.cell.name, run.fingerprint.builder, epochs

    def twice(self, run: RunRecord) -> list[RunRecord]:
        """Those like a run, for twice its epochs."""
        return self._runs.get(self._key(run, 2 * run.cell.recipe.epochs), [])


class Spreads:
    """The variance between trainings of a family on one data set under one recipe, from every record there is."""

    def __init__(self, runs: Iterable[RunRecord]) -> None:
        self._runs: dict[str, dict[tuple[str, int, int], list[RunRecord]]] = {}
        for run in runs:
            one = run.cell.name, run.fingerprint.builder, run.cell.fold
            self._runs.setdefault(self._tier(run), {}).setdefault(one, []).append(run)

    @staticmethod
    def _tier(run: RunRecord) -> str:
        """The family of a model, and what trainings of one recipe and length by one version of the code share."""
        return digest_of([models.get(run.cell.model).family, run.cell.recipe.epochs, budget.made_alike(run)])

    def of(self, name: str, row: list[RunRecord]) -> Training | None:
        """The variance of a metric between trainings of models like that of a row, from other runs than its own."""
        own = {run.cell_id for run in row}
        found = []
        for runs in self._runs.get(self._tier(row[0]), {}).values():
            values = [run.metrics.value(name) for run in runs if run.metrics is not None and run.cell_id not in own]
            found.append([v for v in values if v is not None])
        return pooled(found)


def samples_of(name: str, runs: Iterable[RunRecord]) -> dict[tuple[int, int], RunMetric]:
    """A metric of each run that has it, by fold and seed."""
    out = {}
    for run in runs:
        if run.metrics is not None and (sample := run_metric(name, run.metrics)) is not None:
            out[run.cell.fold, run.cell.seed] = sample
    return out


def run_metric(name: str, metrics: Metrics) -> RunMetric | None:
    """A metric of one run with what is known of other images; None where it was not measured."""
    value = metrics.value(name)
    return None if value is None else RunMetric(value, *_over_images(name, metrics))


def _over_images(name: str, metrics: Metrics) -> tuple[tuple[float, ...], float | None, float | None]:
    """Draws, groups and standard error of a metric, as far as the record has them."""
    groups = metrics.effective_groups or metrics.groups or metrics.images
    if drawn := metrics.draws.get(name):
        return drawn, groups, None
    if (error := metrics.standard_errors.get(name)) is None and (span := metrics.intervals.get(name)) is not None:
        error = (span[1] - span[0]) / (2 * 1.96)  # an older record
    return (), groups, error


def test_share(runs: Iterable[RunRecord]) -> float | None:
    """Test images over training images, mean over the runs that say both."""
    shares = [r.metrics.images / r.train_images for r in runs if r.metrics and r.train_images]
    return statistics.fmean(shares) if shares else None


def value_of(name: str, runs: list[RunRecord], spreads: Spreads) -> Value:
    """A metric of a row's runs, by its name as `Metrics.value` takes it."""
    samples = samples_of(name, runs)
    training = spreads.of(name, runs) if len(samples) < LEAST_RUNS else None
    got = estimate(samples, test_share=test_share(runs), training=training)
    if got is None:
        return Value(None, None)
    interval, covers = got.interval, got.covers
    if name in COUNTS:
        interval, covers = exact(got.mean, _images(name, runs)), "images only"
    return Value(got.mean, interval, covers, got.values, got.training)


def _images(name: str, runs: list[RunRecord]) -> int:
    """The images that a share is of, as far as they show other places: those of each fold once, however many seeds.

    0 where a record does not say, which leaves the share without an interval.
    """
    by_fold: dict[int, float] = {}
    for run in runs:
        if run.metrics is not None and (seen := run.metrics.inspection) is not None:
            alone = seen.effective_defect_free if name.endswith("overkill") else seen.effective_defective
            if alone is None:
                return 0
            by_fold[run.cell.fold] = alone
    return math.floor(sum(by_fold.values()))

"""Who is trained to the end: what twice the schedule gains, told from little or not. Data and Markdown; torch-free."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ablations.effects import (
    CONVERGED_BELOW,
    RUNS_ONCE,
    RUNS_TWICE,
    Doubling,
    Learning,
    between,
    doubling,
    points,
    spread_of,
    worse,
)
from ablations.variants import VARIANTS
from benchmarks import models
from benchmarks.cells import Cell, apart, digest_of, request_of
from benchmarks.report.escaping import markdown as markdown_name
from benchmarks.store import RunRecord

BUDGET = "_budget"
"""Folder below results/ with trainings at other lengths than the schedule."""
ENDS = ("canet", "fasterrcnn_fpn")
"""What lies `between` them, on one recipe, takes the worse of their verdicts."""
LENGTHS = (0.5, 1, 2, 4)
SEVERAL = "machines of several kinds"
"""The `Course.device_class` of trainings on more than one class of device, judged together."""
LEAST_FREEDOM = 5
"""Of the spread between trainings within kinds of machine: with less, what lies between them is not judged."""
ALIKE = ("data", "split", "recipe", "transforms", "detection")
"""Of a `Fingerprint`, what trainings of any models share that are judged together."""
Table = tuple[str, str, int, str | None]
"""What rows that are compared have in common: data set, split list, input size in pixels, class of device."""


@dataclass(frozen=True)
class Course:
    """A model on one data set under one recipe but for its length: AP50 in [0, 1] of each training by epochs.

    recipe, builder: what its trainings share, `made_alike`, and the version of their model's builder.
    once: the epochs of the schedule that is judged. seconds: of a training of it, at most. diverged: trainings that
    did, by epochs; with any of them at the schedule or at twice it, no model is converged. doubling: None where none of
    a length ended. ratio: `machine_ratio`, of `SEVERAL` kinds; None where it is not known.
    made: what was asked of its trainings, and the versions that made them, by name: what tells
    two courses of a table apart.
    """

    dataset: str
    split: str
    image_size: int
    device_class: str | None
    name: str
    label: str
    recipe: str
    builder: int
    fold: int
    values: Mapping[int, Sequence[float]]
    seconds: float | None
    once: int
    doubling: Doubling | None
    diverged: Mapping[int, int]
    made: Mapping[str, object]
    ratio: float | None = None

    @property
    def table(self) -> Table:
        return self.dataset, self.split, self.image_size, self.device_class


def courses(runs: Iterable[RunRecord]) -> list[Course]:
    """Every model that was trained at some length and at twice that, on the fold where most of these trainings are.

    For each class of device by itself; and, where several trained a model, over all of them: the bound of a gain then
    covers another kind of machine too. What was made with other data, or by other versions of the code, is no length of
    one schedule: it is another course.
    """
    known = list({run.cell_id: run for run in runs if run.status == "diverged" or _measured(run)}.values())
    found = _courses([(run, made_alike(run)) for run in known])
    found += _courses([(run, made_alike(run, anywhere=True)) for run in known], machine_ratio(known), several=True)
    found = _told_apart(found)
    order = {name: i for i, name in enumerate(models.MODELS)}
    return sorted(
        found,
        key=lambda c: (
            c.dataset,
            c.split,
            c.image_size,
            c.device_class == SEVERAL,
            c.device_class or "",
            order.get(models.split_name(c.name)[0], len(order)),
            c.name,
            c.builder,
            c.once,
        ),
    )


def machine_ratio(runs: Iterable[RunRecord]) -> float | None:
    """SD between classes of device over that between trainings on one: the upper end of its one-sided 95% interval.

    From all that several classes trained, each model, fold and length in units of the spread of its data set and
    recipe: classes differ in rounding, which moves a training as its seed does, by more where that moves it by more.
    None where too little was.
    """
    lines: dict[tuple[str, str], dict[tuple[str, int, int, int], list[RunRecord]]] = {}
    for run in runs:
        cell = run.cell
        line = lines.setdefault((cell.dataset, made_alike(run, anywhere=True)), {})
        line.setdefault((cell.name, run.fingerprint.builder, cell.fold, cell.recipe.epochs), []).append(run)
    rows = []
    for line in lines.values():
        own = [kinds for of in line.values() if len(kinds := list(_by_class(_by_newest(of)).values())) > 1]
        sd, freedom = spread_of([values for kinds in own for values in kinds])
        if freedom >= LEAST_FREEDOM and sd:
            rows += [[[value / sd for value in values] for values in kinds] for kinds in own]
    told = between(rows)
    return None if told is None else told.most


def _courses(runs: Sequence[tuple[RunRecord, str]], ratio: float | None = None, several: bool = False) -> list[Course]:
    """Of runs and what those that are one course share.

    Args:
        ratio: `machine_ratio`; None where it is not known.
        several: whether courses are of several classes of device; then those of one are left out.
    """
    groups: dict[tuple[str, str, str, int, int], list[RunRecord]] = {}
    for run, recipe in runs:
        key = (run.cell.dataset, recipe, run.cell.name, run.fingerprint.builder, run.cell.fold)
        groups.setdefault(key, []).append(run)
    best: dict[tuple[str, str, str, int], tuple[int, dict[int, list[RunRecord]]]] = {}
    for (dataset, recipe, name, builder, fold), of in sorted(groups.items()):
        by_epochs: dict[int, list[RunRecord]] = {}
        for run in _by_newest(of):
            by_epochs.setdefault(run.cell.recipe.epochs, []).append(run)
        if _once(by_epochs) is None:
            continue
        known = best.get((dataset, recipe, name, builder))
        if known is None or _trainings(by_epochs) > _trainings(known[1]):
            best[dataset, recipe, name, builder] = fold, by_epochs
    spreads = {}
    for asked in {key[:2] for key in best}:  # of one recipe: what starts from random weights varies ten times as much
        lines = [line for key, (_, line) in best.items() if key[:2] == asked]
        spreads[asked] = spread_of([v for line in lines for e in _pair(line) for v in _by_class(line[e]).values()])
    out = []
    for (dataset, recipe, name, builder), (fold, line) in best.items():
        once, twice = _pair(line)
        cell = line[once][0].cell
        if several and len({run.cell.device_class for e in (once, twice) for run in line[e]}) == 1:
            continue
        # A GPU is shared by as many trainings as fit, of one length, and a CPU by whatever else ran on it.
        lengths = line.items() if cell.device_class is None else [(once, line[once])]
        fastest = min((took / e for e, of in lengths for took in _times(of)), default=None)
        values = {epochs: found for epochs, of in sorted(line.items()) if (found := _values(of))}
        diverged = {e: n for e, of in sorted(line.items()) if (n := sum(run.status == "diverged" for run in of))}
        sd, freedom = spreads[dataset, recipe]
        machines = 0.0
        if several:
            freedom = 0 if ratio is None else freedom
            machines = (ratio or 0.0) ** 2 * sum(_uneven(line[e]) for e in (once, twice))
        gain = doubling(values.get(once, ()), values.get(twice, ()), sd, freedom, machines)
        if gain is not None and gain.verdict == "converged" and not diverged.keys().isdisjoint((once, twice)):
            gain = replace(gain, verdict="not told")
        out.append(
            Course(
                dataset=dataset,
                split=cell.split,
                image_size=cell.image_size,
                device_class=SEVERAL if several else cell.device_class,
                name=name,
                label=models.label(cell.model, cell.variant),
                recipe=recipe,
                builder=builder,
                fold=fold,
                values=values,
                seconds=None if several or fastest is None else once * fastest,
                once=once,
                doubling=gain,
                diverged=diverged,
                ratio=ratio,
                made=_made(line[once][0]),
            )
        )
    return out


def _made(run: RunRecord) -> dict[str, object]:
    """What `made_alike` compares, and the builder, by name: digests shortened, milestones as parts of the length."""
    asked = request_of(run.cell)
    facts = {k: v for k, v in asked.items() if k not in ("model", "variant", "epochs", "device_class")}
    if steps := facts.get("milestones"):
        assert isinstance(steps, list)
        facts["milestones"] = [round(step / run.cell.recipe.epochs, 3) for step in steps]
    versions = {name: getattr(run.fingerprint, name) for name in (*ALIKE, "builder")}
    return facts | {name: value[:8] if isinstance(value, str) else value for name, value in versions.items()}


def _told_apart(found: Sequence[Course]) -> list[Course]:
    """Courses of one label in one table, with what they differ in."""
    same: dict[tuple[Table, str], list[Course]] = {}
    for course in found:
        same.setdefault((course.table, course.label), []).append(course)
    out = []
    for course in found:
        others = same[course.table, course.label]
        facts = apart(course.made, [other.made for other in others])
        out.append(replace(course, label=f"{course.label} ({facts})") if len(others) > 1 else course)
    return out


def _by_class(runs: Sequence[RunRecord]) -> dict[str | None, list[float]]:
    """AP50 of trainings by their class of device."""
    classes = dict.fromkeys(run.cell.device_class for run in runs)
    found = {kind: _values([run for run in runs if run.cell.device_class == kind]) for kind in classes}
    return {kind: values for kind, values in found.items() if values}


def _uneven(runs: Sequence[RunRecord]) -> float:
    """Of the variance between classes of device, the part that the mean of trainings has: 1 / k if k have as many."""
    counts = [len(values) for values in _by_class(runs).values()]
    return sum(n * n for n in counts) / sum(counts) ** 2 if counts else 0.0


def verdict(run: RunRecord, known: Sequence[Course]) -> Learning:
    """The verdict on a model as a run trained it; "not told" where there is no study of it, made with the same.

    What was trained longer than a schedule that is long enough has come to its end too; of longer than one that is not,
    nothing is told. Variants of CANet take the worse verdict of CANet and Faster R-CNN, between which they lie, unless
    a study of their own judges as long a schedule as those of the two. Where its own class of device does not tell,
    trainings on all of them do.
    """
    fitting = [c for c in known if c.builder == run.fingerprint.builder or not _of_model(c.name, run.cell.model)]
    recipes = made_alike(run), made_alike(run, anywhere=True)
    told = (_verdict(run.cell, recipes[:n], fitting) for n in (1, 2))
    return next((one for one in told if one != "not told"), "not told")


def _verdict(cell: Cell, recipes: Sequence[str], known: Sequence[Course]) -> Learning:
    """By the courses of the last of `recipes`; a study of the model itself may be of any of them.

    What one class of device alone trained has no course over several, where the two ends may have theirs.
    """
    newest_last = sorted(known, key=lambda c: c.builder)  # of an end that several builders made
    of = {c.name: c for c in newest_last if (c.dataset, c.recipe) == (cell.dataset, recipes[-1])}
    studies = [c.once for c in known if (c.dataset, c.name) == (cell.dataset, cell.name) and c.recipe in recipes]
    studied = max(studies, default=0)

    def one(name: str) -> Learning | None:
        course = of.get(name)
        if course is None or course.doubling is None or cell.recipe.epochs < course.once:
            return None
        longer = cell.recipe.epochs > course.once  # than what was judged
        return course.doubling.verdict if course.doubling.verdict == "converged" or not longer else None

    own = one(cell.name)
    variant = VARIANTS.get(cell.variant) if cell.model == ENDS[0] else None
    between = variant is not None and variant.between and all(name in of for name in ENDS)
    if own is None and between and studied < max(of[name].once for name in ENDS):
        a, b = (one(name) for name in ENDS)
        own = None if a is None or b is None else worse(a, b)
    return own or "not told"


def of_table(known: Sequence[Course], table: Table) -> list[Course]:
    """The courses of a table; of models that have none there, or none that tells where those do, those on several kinds
    of machine: what `verdict` goes by.
    """
    own = [c for c in known if c.table == table]
    names, told = {c.name for c in own}, {c.name for c in own if _tells(c)}
    others = [
        c
        for c in known
        if c.table == (*table[:3], SEVERAL) and (c.name not in names or (_tells(c) and c.name not in told))
    ]
    return [c for c in own if c.name not in {o.name for o in others}] + others


def _tells(course: Course) -> bool:
    return course.doubling is not None and course.doubling.verdict != "not told"


def markdown(known: Sequence[Course]) -> str:
    """`budget.md`."""
    lines = ["# Trained to the end?", ""]
    if not known:
        lines += ["No model was trained at its schedule and at twice it: nothing is told, and nothing ranked.", ""]
    for table, title in titles(course.table for course in known).items():
        lines += [f"## {markdown_name(title)}", ""]
        head = (
            "model",
            "epochs at 1x",
            *(f"{length:g}x" for length in LENGTHS),
            "twice - once",
            "90% below",
            "verdict",
            "minutes at 1x",
        )
        lines += ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
        for course in (c for c in known if c.table == table):
            cells = [str(course.once), *(_at(course, course.once * length) for length in LENGTHS)]
            gain = course.doubling
            cells.append("–" if gain is None else points(gain.gain))
            cells.append("–" if gain is None or gain.bound is None else points(gain.bound))
            cells.append("not told" if gain is None else gain.verdict)
            cells.append("–" if course.seconds is None else f"{course.seconds / 60:.1f}")
            lines.append(f"| {markdown_name(course.label)} | " + " | ".join(cells) + " |")
        lines.append("")
    lines += [
        "AP50 in percent, means, and of how many trainings on one fold. 1x is the schedule that is judged: of those "
        "with trainings of twice its length, the one with the most that a verdict asks for, or the longest of several. "
        "A model is *still learning* when twice that "
        f"schedule gains {100 * CONVERGED_BELOW:.0f} points or more; *converged* when, from {RUNS_ONCE} trainings at "
        f"the schedule and {RUNS_TWICE} at twice, with the spread pooled over the models of the table that share their "
        f"recipe, the one-sided 90% bound of that gain lies below {100 * CONVERGED_BELOW:.0f} points; else *not told*. "
        "With an SD of 1.5 points a model that gains nothing passes 7 times in 10, one that still gains 3 points once "
        "in 80 (`tests/ablations/test_effects.py`). With a training that diverged among them, a model is not "
        "*converged*. Only converged models are ranked. Variants between CANet and Faster R-CNN (parts are taken away "
        "or plain, none is new) take the worse verdict of the two, "
        "unless they were studied at as long a schedule themselves. Minutes are what training takes at most: on CPUs "
        "as the fastest epoch of all trainings of a model tells it, since what else ran on a machine slowed the "
        "others; on a GPU as the fastest training of that length took, beside as many others as its record says.",
        "",
    ]
    if several := [c for c in known if c.device_class == SEVERAL]:
        ratio = several[0].ratio
        span = (
            "too few were trained on several to tell how far these lie apart, so that no bound is told"
            if ratio is None
            else f"whose SD is taken for {ratio:.2f} of that between trainings, the upper end of its one-sided 95% "
            "interval from all that several classes trained, each model and length for itself"
        )
        lines += [
            f"On {SEVERAL}: every training of a model, whatever it ran on. The spread is that between trainings on one "
            f"class of device; the bound covers other classes as well, {span}. What gains 2 points is then *converged* "
            "at most one time in ten (`tests/ablations/test_effects.py`). A verdict of these stands for a model where "
            "its own class of device does not tell.",
            "",
        ]
    return "\n".join(lines)


def titles(tables: Iterable[Table]) -> dict[Table, str]:
    """How tables are headed: data set and input size, the split list where a set has several, and the accelerator."""
    tables = list(dict.fromkeys(tables))
    splits = {(dataset, split) for dataset, split, _, _ in tables}
    out = {}
    for table in tables:
        dataset, split, image_size, device_class = table
        several = sum(other == dataset for other, _ in splits) > 1
        title = f"{dataset}, {image_size} px" + (f", {split}" if several else "")
        out[table] = f"{title}, on {device_class}" if device_class else title
    return out


def _at(course: Course, epochs: float) -> str:
    if epochs != int(epochs):
        return "–"
    values, diverged = course.values.get(int(epochs), ()), course.diverged.get(int(epochs), 0)
    notes = [str(len(values))] if values else []
    notes += [f"{diverged} diverged"] if diverged else []
    shown = f"{100 * statistics.fmean(values):.1f}" if values else "–"
    return f"{shown} ({', '.join(notes)})" if notes else shown


def _measured(run: RunRecord) -> bool:
    return run.metrics is not None and run.metrics.AP50 is not None


def _by_newest(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Those that diverged, and of the others what the newest evaluator measured: values of two are not averaged."""
    newest = max((run.fingerprint.evaluator for run in runs if _measured(run)), default=None)
    return [run for run in runs if not _measured(run) or run.fingerprint.evaluator == newest]


def _of_model(name: str, model: str) -> bool:
    return models.split_name(name)[0] == model


def made_alike(run: RunRecord, anywhere: bool = False) -> str:
    """`recipe_of` with the data and the versions that a training was made with, but for those of its model's builder
    and of the evaluator.

    anywhere: whatever it was trained on.
    """
    cell = run.cell.model_copy(update={"device_class": None}) if anywhere else run.cell
    return digest_of([recipe_of(cell), anywhere, *(getattr(run.fingerprint, name) for name in ALIKE)])


def recipe_of(cell: Cell) -> str:
    """All of a request but the model, fold, seed and length; two models share it, or one has its own.

    Milestones are parts of the length: with the same ones twice the epochs (`--epochs`) are no longer schedule, but the
    same with a tail at its lowest rate, which gains nothing.
    """
    rest = cell.model_dump(mode="json", exclude={"model", "variant", "fold", "seed"})
    epochs = rest["recipe"].pop("epochs")
    rest["recipe"]["milestones"] = [epoch / epochs for epoch in rest["recipe"].get("milestones", ())]
    return digest_of(rest)


def _values(runs: Sequence[RunRecord]) -> list[float]:
    ordered = sorted(runs, key=lambda run: run.cell.seed)
    return [run.metrics.AP50 for run in ordered if run.metrics is not None and run.metrics.AP50 is not None]


def _times(runs: Sequence[RunRecord]) -> list[float]:
    return [took for run in runs if run.status == "ok" and (took := run.training_seconds) is not None]


def _once(by_epochs: Mapping[int, Sequence[RunRecord]]) -> int | None:
    """Of the epochs with trainings of twice as many, those with most of the trainings that a verdict asks for.

    Of several the longest, so that a schedule is not judged by a shorter one once it can be by its own.
    """

    def enough(epochs: int) -> int:
        once, twice = (sum(map(_measured, by_epochs[e])) for e in (epochs, 2 * epochs))
        return min(once, RUNS_ONCE) + min(twice, RUNS_TWICE)

    doubled = [e for e in by_epochs if 2 * e in by_epochs]
    return max(doubled, key=lambda e: (enough(e), e)) if doubled else None


def _pair(by_epochs: Mapping[int, Sequence[RunRecord]]) -> tuple[int, int]:
    once = _once(by_epochs)
    assert once is not None
    return once, 2 * once


def _trainings(by_epochs: Mapping[int, Sequence[RunRecord]]) -> int:
    return sum(sum(map(_measured, by_epochs[e])) for e in _pair(by_epochs))

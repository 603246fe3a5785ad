"""Who is trained to the end: what twice the schedule gains, told from little or not. Data and Markdown; torch-free."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ablations.effects import CONVERGED_BELOW, RUNS_ONCE, RUNS_TWICE, Doubling, Learning, doubling, spread_of, worse
from benchmarks import models
from benchmarks.cells import Cell, digest_of
from benchmarks.report.escaping import markdown as markdown_name
from benchmarks.store import RunRecord

BUDGET = "_budget"
"""Folder below results/ with trainings at other lengths than the schedule."""
ENDS = ("canet", "fasterrcnn_fpn")
"""What lies between them, on one recipe, takes the worse of their verdicts."""
LENGTHS = (0.5, 1, 2, 4)


@dataclass(frozen=True)
class Course:
    """A model on one data set under one recipe but for its length: AP50 in [0, 1] of each training by epochs.

    once: the epochs of the schedule that is judged, None where nothing was trained twice as long. seconds: of training.
    """

    dataset: str
    name: str
    label: str
    recipe: str
    fold: int
    values: Mapping[int, Sequence[float]]
    seconds: Mapping[int, float]
    once: int | None
    doubling: Doubling | None


def courses(runs: Iterable[RunRecord]) -> list[Course]:
    """Every model that was trained at some length and at twice that, on the fold where most of these trainings are."""
    by_id = {run.cell_id: run for run in runs if run.metrics is not None and run.metrics.AP50 is not None}
    groups: dict[tuple[str, str, str, int], dict[int, list[RunRecord]]] = {}
    for run in by_id.values():
        key = (run.cell.dataset, recipe_of(run.cell), run.cell.name, run.cell.fold)
        groups.setdefault(key, {}).setdefault(run.cell.recipe.epochs, []).append(run)
    best: dict[tuple[str, str, str], tuple[int, dict[int, list[RunRecord]]]] = {}
    for (dataset, recipe, name, fold), by_epochs in sorted(groups.items()):
        if _once(by_epochs) is None:
            continue
        known = best.get((dataset, recipe, name))
        if known is None or _trainings(by_epochs) > _trainings(known[1]):
            best[dataset, recipe, name] = fold, by_epochs
    spreads = {}
    for dataset in {key[0] for key in best}:
        lines = [line for key, (_, line) in best.items() if key[0] == dataset]
        spreads[dataset] = spread_of([_values(line[e]) for line in lines for e in _pair(line)])
    out = []
    for (dataset, recipe, name), (fold, line) in best.items():
        once, twice = _pair(line)
        cell = line[once][0].cell
        fastest = min((took / e for e, of in line.items() for took in _times(of)), default=None)
        out.append(
            Course(
                dataset=dataset,
                name=name,
                label=models.label(cell.model, cell.variant),
                recipe=recipe,
                fold=fold,
                values={epochs: _values(of) for epochs, of in sorted(line.items())},
                seconds={} if fastest is None else {e: e * fastest for e in line},
                once=once,
                doubling=doubling(_values(line[once]), _values(line[twice]), *spreads[dataset]),
            )
        )
    order = {name: i for i, name in enumerate(models.MODELS)}
    return sorted(out, key=lambda c: (c.dataset, order.get(models.split_name(c.name)[0], len(order)), c.name))


def verdict(cell: Cell, known: Sequence[Course]) -> Learning:
    """The verdict on a model as it was trained; "not told" where there is no study of it.

    What was trained longer than a schedule that is long enough has come to its end too; of longer than one that is not,
    nothing is told. Variants of CANet that have no study of their own take the worse verdict of CANet and Faster R-CNN,
    between which they lie.
    """
    of = {c.name: c for c in known if (c.dataset, c.recipe) == (cell.dataset, recipe_of(cell))}

    def one(name: str) -> Learning | None:
        course = of.get(name)
        if course is None or course.once is None or course.doubling is None or cell.recipe.epochs < course.once:
            return None
        longer = cell.recipe.epochs > course.once  # than what was judged
        return course.doubling.verdict if course.doubling.verdict == "converged" or not longer else None

    own = one(cell.name)
    if own is None and cell.model == ENDS[0] and cell.variant != "default":
        a, b = (one(name) for name in ENDS)
        own = None if a is None or b is None else worse(a, b)
    return own or "not told"


def markdown(known: Sequence[Course]) -> str:
    """`budget.md`."""
    lines = ["# Trained to the end?", ""]
    if not known:
        lines += ["No model was trained at its schedule and at twice it: nothing is told, and nothing ranked.", ""]
    for dataset in dict.fromkeys(course.dataset for course in known):
        lines += [f"## {markdown_name(dataset)}", ""]
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
        for course in (c for c in known if c.dataset == dataset):
            assert course.once is not None
            assert course.doubling is not None
            cells = [str(course.once), *(_at(course, course.once * length) for length in LENGTHS)]
            bound = "–" if course.doubling.bound is None else f"{100 * course.doubling.bound:+.1f}"
            seconds = course.seconds.get(course.once)
            cells += [f"{100 * course.doubling.gain:+.1f}", bound, course.doubling.verdict]
            cells.append("–" if seconds is None else f"{seconds / 60:.1f}")
            lines.append(f"| {markdown_name(course.label)} | " + " | ".join(cells) + " |")
        lines.append("")
    lines += [
        "AP50 in percent, means, and of how many trainings on one fold. 1x is the schedule that is judged: of those "
        "with trainings of twice its length, the one with the most that a verdict asks for, or the longest of several. "
        "A model is *still learning* when twice that "
        f"schedule gains {100 * CONVERGED_BELOW:.0f} points or more; *converged* when, from {RUNS_ONCE} trainings at "
        f"the schedule and {RUNS_TWICE} at twice, with the spread pooled over the models of the set, the one-sided 90% "
        f"bound of that gain lies below {100 * CONVERGED_BELOW:.0f} points; else *not told*. With an SD of 1.5 points "
        "a model that gains nothing passes 7 times in 10, one that still gains 3 points once in 80 "
        "(`tests/ablations/test_effects.py`). Only converged models are ranked. Variants between CANet and Faster "
        "R-CNN take the worse verdict of the two. Minutes are what training takes at most, "
        "from the fastest epoch of all trainings of a model: what else ran on a machine slowed the others.",
        "",
    ]
    return "\n".join(lines)


def _at(course: Course, epochs: float) -> str:
    values = course.values.get(int(epochs)) if epochs == int(epochs) else None
    return f"{100 * statistics.fmean(values):.1f} ({len(values)})" if values else "–"


def recipe_of(cell: Cell) -> str:
    """All of a request but the model, fold, seed and length; two models share it, or one has its own."""
    rest = cell.model_dump(mode="json", exclude={"model", "variant", "fold", "seed"})
    for name in ("epochs", "milestones", "warmup_iters"):
        rest["recipe"].pop(name, None)
    return digest_of(rest)


def _values(runs: Sequence[RunRecord]) -> list[float]:
    ordered = sorted(runs, key=lambda run: run.cell.seed)
    return [run.metrics.AP50 for run in ordered if run.metrics is not None and run.metrics.AP50 is not None]


def _times(runs: Sequence[RunRecord]) -> list[float]:
    return [took for run in runs if (took := run.training_seconds) is not None]


def _once(by_epochs: Mapping[int, Sequence[RunRecord]]) -> int | None:
    """Of the epochs with trainings of twice as many, those with most of the trainings that a verdict asks for.

    Of several the longest, so that a schedule is not judged by a shorter one once it can be by its own.
    """

    def enough(epochs: int) -> int:
        return min(len(by_epochs[epochs]), RUNS_ONCE) + min(len(by_epochs[2 * epochs]), RUNS_TWICE)

    doubled = [e for e in by_epochs if 2 * e in by_epochs]
    return max(doubled, key=lambda e: (enough(e), e)) if doubled else None


def _pair(by_epochs: Mapping[int, Sequence[RunRecord]]) -> tuple[int, int]:
    once = _once(by_epochs)
    assert once is not None
    return once, 2 * once


def _trainings(by_epochs: Mapping[int, Sequence[RunRecord]]) -> int:
    return sum(len(by_epochs[e]) for e in _pair(by_epochs))

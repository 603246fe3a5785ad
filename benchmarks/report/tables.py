"""The summary as a terminal table and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.text import Text

from ablations.effects import LEAST_RUNS, UNTRAINED_BELOW
from benchmarks import models
from benchmarks.cells import NativeRecipe
from benchmarks.cli import console, print_table
from benchmarks.datasets.splits import SUPERSEDED
from benchmarks.metrics.spread import pooled
from benchmarks.report import headline
from benchmarks.report.budget import titles
from benchmarks.report.comparisons import by_result, compared, rankable, verdict
from benchmarks.report.escaping import markdown as md
from benchmarks.report.escaping import plain
from benchmarks.report.rows import (
    GAINS,
    HEADLINE,
    INSPECTION,
    PROTOCOLS,
    Row,
    Value,
    label_of,
    parameters_of,
    rows,
)
from benchmarks.store import Stored

_HEAD = (
    "model",
    "params (M)",
    "GMACs",
    *HEADLINE,
    "latency ratio",
    "start",
    "epochs",
    "runs",
)


_DROPPED = ("runs", "epochs", "start", "GMACs", "params (M)", "AP small", "latency ratio", "AP")
"""Columns that a narrow terminal does without, the first first."""


def _number(value: float | None, digits: int, factor: float = 1.0) -> str:
    return "–" if value is None else f"{value * factor:.{digits}f}"


def _span(span: tuple[float, float], digits: int, factor: float = 1.0) -> str:
    return f"{span[0] * factor:.{digits}f}–{span[1] * factor:.{digits}f}"


def parameters_text(parameters: int | None, as_built: bool) -> str:
    """In millions, with a word where they are not those that run in evaluation."""
    return _number(parameters, 2, 1e-6) + (" as built" if as_built else "")


def start_text(pretrained: bool | None) -> str:
    """What a row's trainings started from; where no record says it, that is not known."""
    return "–" if pretrained is None else "pretrained" if pretrained else "scratch"


def percent(value: Value, runs: int | None = None) -> str:
    """Value and interval; of two runs without an interval both values; degenerate is an interval of no width.

    runs: how many trainings the row has; where the value is of fewer, it says of how many.
    """
    if runs is not None and 0 < len(value.values) < runs:
        return f"{percent(value)} in {len(value.values)} of {runs}"
    shown = _number(value.value, 1, 100)
    if value.interval is not None:
        return f"{shown} (degenerate)" if value.degenerate else f"{shown} ({_span(value.interval, 1, 100)})"
    if len(value.values) == 2:
        return f"{shown} [{', '.join(_number(v, 1, 100) for v in value.values)}]"
    return shown


def _cells(row: Row) -> tuple[str, ...]:
    notes = [f"{row.diverged} diverged"] if row.diverged else []
    notes += [s for s in row.statuses if s not in ("ok", "diverged")] + (["untrained"] if row.untrained else [])
    notes += [f"never finds {name}, {n} boxes" for name, n in row.never_found.items() if not row.untrained]
    ratio = _number(row.ratio, 2)
    if row.ratio_interval is not None:
        ratio += f" ({_span(row.ratio_interval, 2)})"
    return (
        row.title + (f" ({', '.join(notes)})" if notes else ""),
        parameters_text(row.parameters, row.as_built),
        _number(row.macs, 2, 1e-9),
        *(percent(row.accuracy[name], row.runs) for name in HEADLINE.values()),
        ratio,
        start_text(row.pretrained),
        str(row.epochs),
        str(row.runs),
    )


def reference_label(row: Row) -> str:
    """The model that a row's ratios are to, as tables name it."""
    return models.label_of(row.reference) if row.reference else "–"


def sections(all_rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by title: data set and input size, the split list where there are several, and the accelerator."""
    title_of = titles(row.table for row in all_rows)
    sections: dict[str, list[Row]] = {}
    for row in all_rows:
        sections.setdefault(title_of[row.table], []).append(row)
    return {title: _by_result(section) for title, section in sections.items()}


def _by_result(section: list[Row]) -> list[Row]:
    """What may be ranked, the best on AP50 first, then the others as they come: a place in the order is a rank too."""
    if sum(rankable(row) for row in section) < 2:
        return section
    ranked = by_result(section, "AP50") or [row for row in section if rankable(row)]
    return [*ranked, *(row for row in section if row not in ranked)]


def best(section: Sequence[Row], name: str) -> Row | None:
    """The best on a metric of the rows that may be ranked; None of fewer than two."""
    return next(iter(by_result(section, name)), None)


def _tested_on(section: Sequence[Row]) -> str:
    """Images and boxes of a run: those of one row, since all of a table are tested on the same; a mean over folds."""
    row = max(section, key=lambda r: r.runs)
    if not row.runs:
        return "Nothing was tested."
    a_run = [round(n / row.runs) for n in (row.images, row.boxes, row.boxes_small)]
    return "Test images: {} a run, with {} boxes, {} of them small.".format(*a_run)


def _between_trainings(section: Sequence[Row]) -> list[str]:
    """The standard deviation of AP50 over trainings on the same test images, of rows with `LEAST_RUNS` of them."""
    found = []
    for row in section:
        by_fold: dict[int, list[float]] = {}
        for (fold, _), sample in row.samples.items():
            by_fold.setdefault(fold, []).append(sample.value)
        spread = pooled(by_fold.values())
        if spread is not None and row.runs >= LEAST_RUNS:
            found.append(f"{md(row.title)} {100 * spread.variance**0.5:.1f} ({row.runs})")
    return [f"SD between trainings on one fold, in points of AP50: {', '.join(found)}.", ""] if found else []


def _superseded(section: Sequence[Row]) -> list[str]:
    """A line per split list of a section that is superseded."""
    return [f"{split}: {SUPERSEDED[split]}" for split in sorted({r.split for r in section} & set(SUPERSEDED))]


def _details(section: Sequence[Row], columns: Mapping[str, str]) -> list[str]:
    """A Markdown table of some metrics; columns that nobody has are left out."""
    shown = {label: name for label, name in columns.items() if any(r.accuracy[name].value is not None for r in section)}
    if not shown:
        return []
    lines = _head(("model", *shown))
    lines += [
        f"| {md(r.title)} | " + " | ".join(percent(r.accuracy[n], r.runs) for n in shown.values()) + " |"
        for r in section
    ]
    return [*lines, ""]


def _differences(section: Sequence[Row]) -> list[str]:
    """A Markdown table of differences against the reference, and of ablations against the whole model."""
    found = compared(section)
    if not found:
        return []
    lines = _head(("model", "against", "AP50, difference", "p", "p, Holm", "better in", "AP small, difference"))
    for c in found:
        p = ("–", "–") if c.AP50.p is None or c.adjusted is None else (_p(c.AP50.p), _p(c.adjusted))
        better = f"{c.AP50.better} of {c.AP50.runs} runs"
        cells = (md(c.row.title), md(c.against.title), headline.told(c.AP50), *p, better, headline.told(c.AP_small))
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _what_intervals_cover(section: Sequence[Row]) -> list[str]:
    """What the brackets of a section's rows cover, and that one training ranks nothing."""
    measured = [row for row in section if row.AP50 is not None]
    if not measured:
        return []
    out = []
    if all(row.runs == 1 for row in measured):
        out.append("**One training each: nothing is ranked.**")
    elif few := [md(row.title) for row in measured if row.runs < LEAST_RUNS]:
        out.append(f"**Fewer than {LEAST_RUNS} trainings, and ranked against nothing: {', '.join(few)}.**")
    for learning in ("still learning", "not told"):
        which = [md(row.title) for row in measured if row.learning == learning and row.runs >= LEAST_RUNS]
        if which:
            why = "Still learning" if learning == "still learning" else "Not told whether trained to the end"
            out.append(f"**{why}, and ranked against nothing: {', '.join(which)}.**")
    covers = {md(row.title): row.accuracy["AP50"] for row in measured}
    alone = [label for label, value in covers.items() if value.covers == "images only"]
    if alone:
        whose = "Intervals" if len(alone) == len(covers) else f"The intervals of {', '.join(alone)}"
        out.append(f"{whose}: images only; another training may lie outside.")
    borrowed = {value.training for value in covers.values() if value.training is not None}
    for training in sorted(borrowed, key=lambda t: (t.runs, t.variance)):
        labels = [label for label, value in covers.items() if value.training == training]
        whose = f"{training.runs - training.own} other trainings of the family"
        whose += f" and its own {training.own}, {training.runs} together" if training.own else ""
        spread = f"SD {100 * training.variance**0.5:.1f} points of AP50"
        out.append(f"The spread between trainings of {', '.join(labels)} is that of {whose}: {spread}.")
    return [" ".join(out), ""]


def _head(labels: Sequence[str]) -> list[str]:
    return ["| " + " | ".join(labels) + " |", "| --- |" + " ---: |" * (len(labels) - 1)]


def print_tables(records: Iterable[Stored], published: Iterable[Stored] = ()) -> None:
    """For the terminal, a table per data set with as many columns as fit, and its verdict."""
    left_out: dict[str, None] = {}
    for title, section in sections(rows(records, published)).items():
        lines = "\n".join(plain(line) for line in (title, *_superseded(section)))
        found = [tuple(plain(cell) for cell in _cells(row)) for row in section]
        left_out |= dict.fromkeys(print_table(_HEAD, found, title=lines, drop=_DROPPED))
        for sentence in verdict(section):
            console.print(plain(sentence), highlight=False, markup=False)
    if left_out:
        console.print(Text(f"not shown, for lack of room: {', '.join(left_out)}", "dim"))


def models_table(records: Iterable[Stored]) -> str:
    """A row per model, scale and recipe: family, parameters, multiply-accumulates, what it was trained with."""
    groups: dict[tuple[str, ...], list[Stored]] = {}
    for stored in records:
        cell, facts = stored.run.cell, stored.run.model
        if facts is not None:
            built = str(facts.parameters)
            groups.setdefault((cell.name, cell.scale, built, recipe_text(stored)), []).append(stored)
    order = {name: i for i, name in enumerate(models.MODELS)}
    ranked = sorted(groups.items(), key=lambda item: (order.get(item[1][0].run.cell.model, len(order)), item[0]))
    labels = ("model", "family", "scale", "params (M)", "GMACs", "trained with")
    lines = ["| " + " | ".join(labels) + " |", "| --- | --- | --- | ---: | ---: | --- |"]
    for (_, scale, _, recipe), group in ranked:
        first = group[0].run.cell
        macs = {
            f"{s.profile.macs.macs / 1e9:.2f} at {s.run.cell.image_size} px": None
            for s in group
            if s.profile is not None and s.profile.macs is not None
        }
        where = dict.fromkeys(f"{s.run.cell.dataset} {s.run.cell.recipe.epochs} epochs" for s in group)
        label, family = label_of(first), models.get(first.model).family
        size = parameters_text(*parameters_of(group))
        cells = (md(label), family, scale, size, ", ".join(macs) or "–", md(f"{recipe}: {', '.join(where)}"))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def recipe_text(stored: Stored) -> str:
    """How a model was trained, in a line."""
    recipe, facts = stored.run.cell.recipe, stored.run.model
    start = "start not known" if facts is None else facts.weights or "from scratch"
    if isinstance(recipe, NativeRecipe):
        return f"the library's own trainer, batch {recipe.batch_size}, {start}"
    if (tile := stored.run.cell.tile) is not None:
        start = f"in tiles of {tile.size} px, {start}"
    schedule = recipe.schedule.replace("_", " ")
    optimizer = {"sgd": "SGD", "adamw": "AdamW"}[recipe.optimizer]
    return f"{optimizer} {recipe.lr:g}, {schedule}, batch {recipe.batch_size}, {recipe.augment}, {start}"


def markdown(found: Sequence[Row], records: Iterable[Stored], more: Sequence[str] = ()) -> str:
    """`summary.md` of records and their rows: a table per data set, lines of `more`, the models, and how to read it."""
    lines = ["# Summary", "", *headline.table(sections(found))]
    for title, section in sections(found).items():
        lines += [f"## {md(title)}", "", *(f"- {md(sentence)}" for sentence in verdict(section)), "", *_head(_HEAD)]
        leaders = {label: best(section, name) for label, name in HEADLINE.items()}
        for row in section:
            name, *values = _cells(row)
            for i, label in enumerate(_HEAD[1:]):
                if leaders.get(label) is row:
                    number, blank, rest = values[i].partition(" ")
                    values[i] = f"**{number}**{blank}{rest}"
            lines.append("| " + " | ".join([md(name), *values]) + " |")
        references = {row.reference for row in section if row.reference}
        lines += [
            "",
            f"{_tested_on(section)} Scales: "
            f"{', '.join(sorted({r.scale for r in section}))}. Trained on: "
            f"{md(', '.join(sorted({one for r in section for one in r.machines})))}."
            + (f" Latency ratios are to {', '.join(sorted(references))}." if references else ""),
            "",
        ]
        lines += _between_trainings(section)
        if amended := sum(r.amended for r in section):
            lines += [
                f"Of {amended} records something was put right after the run; their `provenance.amended` says it.",
                "",
            ]
        lines += [line for warning in _superseded(section) for line in (f"**{warning}.**", "")]
        lines += _what_intervals_cover(section)
        lines += _differences(section)
        details = [line for columns in (PROTOCOLS, INSPECTION, GAINS) for line in _details(section, columns)]
        if details:
            lines += ["<details><summary>Other protocols, inspection, errors</summary>", "", *details, "</details>", ""]
    lines += [*more, "## Models", "", models_table(records), ""]
    lines += [
        "## How to read it",
        "",
        "- AP50, AP and AP small are COCO metrics in percent, all from one evaluator and from saved detections; "
        "areas are in pixels of the image as given.",
        "- In brackets: a 95% interval over another training and other test images, by one method "
        "(docs/accuracy.md): the variance between trainings on the same images, and the bootstrap's over their overlap "
        "groups. One or two trainings have the first from published trainings of their family on this data set under "
        "this recipe, two pooled with their own; where there are none, the interval of one is over images only, and "
        "the lines below the table say so, and of two both values stand in square brackets. Escape and overkill have "
        "exact intervals (Clopper and Pearson) over the images that they are a share of. Degenerate: nothing varied, "
        "which says nothing of other images.",
        f"- Differences are paired, by the same method: both models on the same resamples of the same test images, the "
        f"same folds and seeds. They are given, with p and Holm's p for all of its table, from {LEAST_RUNS} trainings "
        "of each on, where both are trained to the end (budget.md); all else is ranked against nothing.",
        "- Other protocols stand in columns of their own and are not to be compared with COCO's: VOC07 takes 11 "
        "recall points (+1: box widths of x2 - x1 + 1), VOC12 all of them; DeepPCB asks for an IoU above 0.33, F is "
        "its best F-score over thresholds, or that at the threshold that is best on the validation images.",
        "- Inspection: recall at 1/8 and at 1 false positive per image, and per defect-free image (good parts); AUROC "
        "of the images' highest scores; precision, recall, escape (defective images without a detection) and overkill "
        "(defect-free ones with one) at the threshold of the best F1 on the validation images; best F1 is that of the "
        "test images themselves, an upper bound; ECE is the calibration error of scores from 0.1.",
        "- Errors: the points of AP50 that mending one kind of error alone would gain (TIDE).",
        "- Parameters are those that an inference touches, in the form in which a model's library ships it: heads that "
        'only training uses, and norms that are folded, are not among them (docs/cost-and-time.md). "As built" stands '
        "where a record has no other count.",
        "- GMACs are multiply-accumulates of one image at the size given, counted on the operators that really run; "
        "FLOPs are twice that. Operators that were not counted are listed in each profile record.",
        "- Latency ratio: end to end at batch 1, on trained weights and real images, timed in turns in one process; "
        "the median of paired ratios with its 95% interval. No absolute time is quoted for a CPU.",
        "- Start: from scratch, or from a pretrained backbone. A class of which a model finds not one box in any run "
        "is named beside it, with the number of its boxes over all runs. Rows of one label say in what they differ.",
        f"- A model whose AP50 is below {UNTRAINED_BELOW:.1f} is called untrained.",
        "",
        "Drawn by `python -m benchmarks.report` from the records under `results/`.",
        "",
    ]
    return "\n".join(lines)

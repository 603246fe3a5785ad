"""The summary for papers and other tools: CSV, LaTeX (booktabs) and BibTeX. Torch-free."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from importlib import resources

from benchmarks import models
from benchmarks.report.comparisons import over_folds, rankable
from benchmarks.report.escaping import latex as escaped
from benchmarks.report.escaping import plain
from benchmarks.report.rows import ACCURACY, HEADLINE, Row, Value
from benchmarks.report.tables import best, sections

_FACTS = ("dataset", "split", "image_size", "device_class", "model", "variant", "label", "scale", "recipe")
_COUNTS = (
    "epochs",
    "folds",
    "runs",
    "images",
    "boxes",
    "boxes_small",
    "learning",
    "pretrained",
    "statuses",
    "diverged",
    "interval_covers",
)
_COSTS = ("parameters", "parameters_as_built", "macs", "latency_ratio", "latency_ratio_low", "latency_ratio_high")


def as_csv(all_rows: Sequence[Row]) -> str:
    """A line per row, every metric in [0, 1] with the bounds of its interval; what was not measured is empty."""
    metrics = [f"{name}{suffix}" for name in ACCURACY for suffix in ("", "_low", "_high")]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*_FACTS, *_COUNTS, *_COSTS, "latency_ratio_to", *metrics])
    for row in all_rows:
        base, variant = models.split_name(row.name)
        facts = [row.dataset, row.split, row.image_size, row.device_class, base, variant or "default", row.label]
        counts: list[object] = [
            row.epochs,
            " ".join(map(str, row.folds)),
            row.runs,
            row.images,
            row.boxes,
            row.boxes_small,
            row.learning,
            row.pretrained,
        ]
        costs = [row.parameters, row.as_built, row.macs, row.ratio, *(row.ratio_interval or (None, None))]
        values = [v for name in ACCURACY for v in _three(row.accuracy[name])]
        counts += [" ".join(row.statuses), row.diverged, row.accuracy["AP50"].covers]
        line = [*facts, row.scale, row.apart, *counts, *costs, row.reference, *values]
        writer.writerow([_cell(value) for value in line])
    return out.getvalue()


def _three(value: Value) -> tuple[float | None, float | None, float | None]:
    low, high = value.interval or (None, None)
    return value.value, low, high


def _cell(value: object) -> object:
    """Twelve digits, since CPUs differ in the sixteenth; a name that a spreadsheet would take for a formula is text."""
    if not isinstance(value, str):
        return f"{value:.12g}" if isinstance(value, float) else value
    return f"'{plain(value)}" if value[:1] in ("=", "+", "-", "@") else plain(value)


def as_latex(all_rows: Sequence[Row]) -> str:
    """A table (packages booktabs and textcomp) per data set; bold is the best of what may be ranked, if two may."""
    out = [
        "% Needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}. Percent, 95% intervals in brackets.",
        "% Bold: the best of the models that may be ranked, trained to the end, often enough, two at least.",
    ]
    for title, section in sections(all_rows).items():
        leaders = {name: best(section, name) for name in HEADLINE.values()}
        runs = sorted({row.runs for row in section})
        trainings = str(runs[0]) if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
        out += [
            "",
            "\\begin{table}",
            f"  \\caption{{{escaped(title)}. Trainings a model: {trainings}.}}",
            "  \\begin{tabular}{l" + "r" * (2 + len(HEADLINE)) + "}",
            "    \\toprule",
            "    " + " & ".join(["Model", "Params (M)", "GMACs", *HEADLINE]) + " \\\\",
            "    \\midrule",
        ]
        for row in section:
            size = "--" if row.parameters is None else f"{row.parameters / 1e6:.2f}"
            size += "$^\\dagger$" if row.as_built else ""
            macs = "--" if row.macs is None else f"{row.macs / 1e9:.2f}"
            values = [_latex_value(row.accuracy[name], row is leaders[name]) for name in HEADLINE.values()]
            out.append("    " + " & ".join([escaped(row.title), size, macs, *values]) + " \\\\")
        out += ["    \\bottomrule", "  \\end{tabular}"]
        if (others := over_folds(section)) is not None:
            out.append(f"  Means over different folds: {escaped(others)}. Differences compare, means do not.")
        if untold := [escaped(row.title) for row in section if row.AP50 is not None and not rankable(row)]:
            whose = "All models are" if len(untold) == len(section) else f"{', '.join(untold)}:"
            out.append(f"  {whose} ranked against nothing, not shown to be trained to the end, or too seldom trained.")
        if alone := [row.title for row in section if row.accuracy["AP50"].covers == "images only"]:
            whose = "All intervals" if len(alone) == len(section) else f"Intervals of {', '.join(map(escaped, alone))}"
            out.append(f"  {whose}: images only; another training may lie outside.")
        if gone := [f"{escaped(row.title)} ({row.diverged})" for row in section if row.diverged]:
            out.append(f"  Trainings that diverged, and are not in the means: {', '.join(gone)}.")
        if any(row.as_built for row in section):
            out.append("  $^\\dagger$ as built; the others are the parameters that run in evaluation.")
        out.append("\\end{table}")
    return "\n".join([*out, ""])


def _latex_value(value: Value, bold: bool) -> str:
    if value.value is None:
        return "--"
    shown = f"{100 * value.value:.1f}"
    shown = f"\\textbf{{{shown}}}" if bold else shown
    if value.interval is None or value.degenerate:
        return shown
    low, high = value.interval
    return f"{shown} ({100 * low:.1f}--{100 * high:.1f})"


_ALWAYS = ("canet", "coco", "tide")
_OF_DATA = {"neu_det": "neu_det", "deep_pcb": "deep_pcb"}
_OF_FAMILY = {
    "canet": (),
    "fasterrcnn": ("faster_rcnn", "fpn"),
    "retinanet": ("retinanet",),
    "fcos": ("fcos",),
    "ssd": ("ssd",),
    "yolo": ("ultralytics",),
}


def _entries() -> dict[str, str]:
    """BibTeX entries by key."""
    text = (resources.files("benchmarks") / "report" / "references.bib").read_text(encoding="utf-8")
    return {entry.partition("{")[2].partition(",")[0]: entry for entry in text.strip().split("\n\n")}


def as_bibtex(all_rows: Sequence[Row]) -> str:
    """What the rows rest on: the paper of CANet, the metrics, data sets and models; what has no entry is named."""
    keys = dict.fromkeys(_ALWAYS)
    without: dict[str, None] = {}
    for row in all_rows:
        family = models.get(models.split_name(row.name)[0]).family
        keys |= dict.fromkeys(_OF_FAMILY.get(family, ()))
        if family not in _OF_FAMILY:
            without[row.label] = None
        if row.dataset in _OF_DATA:
            keys[_OF_DATA[row.dataset]] = None
        elif not row.dataset.startswith("synthetic_"):
            without[row.dataset] = None
    entries = _entries()
    lines = [entries[key] for key in keys]
    if without:
        lines.append(f"% No entry is known here of: {plain(', '.join(without))}")
    return "\n\n".join(lines) + "\n"

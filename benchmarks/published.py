"""The published trade-off figure: its sixteen points, and what the parameters on its axis count.

    python -m benchmarks.published

builds every model of the figure (extra `mmdet`), counts it, and writes published_params.md and published_params.csv.
The points in published.csv were read from the marker coordinates of the authors' SVG: parameters to 0.01 M, mAP50
to 0.1. Torch-free but for the counting.
"""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import models
from benchmarks.cli import console, run_app
from benchmarks.errors import RequestError
from benchmarks.store import write_atomic

TOLERANCE_M = 0.02
CLASSES = 2
"""Foreground classes that the positions fit."""


@dataclass(frozen=True)
class Point:
    """A mark of the published figure; parameters in millions, mAP50 in percent.

    counted_m: all parameters of `model` with two classes and three anchors, as the audit counts them.
    """

    name: str
    stage: str
    params_m: float
    map50: float
    model: str
    counted_m: float | None = None


def points() -> list[Point]:
    """The sixteen points, in the order of their parameters within each kind."""
    text = (resources.files("benchmarks") / "published.csv").read_text(encoding="utf-8")
    return [
        Point(r["name"], r["stage"], float(r["params_m"]), float(r["map50"]), r["model"], float(r["counted_m"]))
        for r in csv.DictReader(io.StringIO(text))
    ]


@dataclass(frozen=True)
class Count:
    """Parameters of one model in one way of counting, in millions. `anchors` is None where there is no RPN."""

    model: str
    classes: int
    anchors: int | None
    basis: str
    millions: float

    @property
    def how(self) -> str:
        anchors = f", {self.anchors} anchors" if self.anchors else ""
        return f"{self.basis}, {self.classes} classes{anchors}"


@dataclass(frozen=True)
class Explanation:
    """A point with our counts of its model, and the count that explains its position: the nearest, where it is close.

    `swapped` names the point whose model it is that fits, where that is another one.
    """

    point: Point
    counts: tuple[Count, ...]
    best: Count
    swapped: str | None

    @property
    def difference(self) -> float:
        """Published minus ours, in millions."""
        return self.point.params_m - self.best.millions

    @property
    def frozen_m(self) -> float:
        """What all parameters exceed the trainable ones by, in millions."""
        pair = [c.millions for c in self.counts if c.classes == CLASSES and c.anchors in (3, None)]
        return max(pair) - min(pair)

    @property
    def explained(self) -> bool:
        return abs(self.difference) <= TOLERANCE_M


def count(model: str) -> Iterator[Count]:
    """Every count of a model: two classes and 80, with 3 and 9 anchors where it has an RPN. Needs the extra."""
    spec = models.get(model)
    module = importlib.import_module(spec.builder.partition(":")[0])
    config = spec.options["config"]
    for classes in (CLASSES, 80):
        for anchors in (3, 9) if module.has_rpn(config) else (None,):
            for basis, number in module.published_counts(config, num_classes=classes, anchors=anchors).items():
                yield Count(model, classes, anchors, basis, number / 1e6)


def explain(all_points: Sequence[Point], counts: dict[str, tuple[Count, ...]]) -> list[Explanation]:
    """The simplest account of each position: its own model with two classes, else with 80, else another's label."""

    def distance(c: Count, point: Point) -> float:
        return abs(c.millions - point.params_m)

    out = []
    for point in all_points:
        own = counts[point.model]
        two = [c for c in own if c.classes == CLASSES]
        others = {p.name: [c for c in counts[p.model] if c.classes == CLASSES] for p in all_points if p != point}
        accounts: list[tuple[str | None, Sequence[Count]]] = [(None, two), (None, own), *others.items()]
        nearest = [(whose, min(account, key=lambda c: distance(c, point))) for whose, account in accounts]
        close = [(whose, best) for whose, best in nearest if distance(best, point) <= TOLERANCE_M]
        whose, best = close[0] if close else nearest[0]
        out.append(Explanation(point, own, best, whose))
    return out


def _pick(explanation: Explanation, anchors: int, basis: str) -> str:
    """A count with two classes as a table shows it; a model without an RPN has one, whatever the anchors."""
    found = (
        c for c in explanation.counts if c.classes == CLASSES and c.basis == basis and c.anchors in (anchors, None)
    )
    return f"{next(found).millions:.3f}"


_COLUMNS = [(3, "total"), (3, "trainable"), (9, "total"), (9, "trainable")]


def as_csv(explanations: Sequence[Explanation]) -> str:
    """published_params.csv: one row a point, parameters in millions."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    counted = [f"{basis}_{CLASSES}cls_{anchors}anchors_m" for anchors, basis in _COLUMNS]
    writer.writerow(["name", "model", "published_m", *counted, "basis", "model_that_fits", "fits_m", "difference_m"])
    for f in explanations:
        numbers = [_pick(f, anchors, basis) for anchors, basis in _COLUMNS]
        fits = [f.best.how, f.best.model, f"{f.best.millions:.3f}", f"{f.difference:+.3f}"]
        writer.writerow([f.point.name, f.point.model, f"{f.point.params_m:.2f}", *numbers, *fits])
    return out.getvalue()


def as_markdown(explanations: Sequence[Explanation]) -> str:
    """published_params.md: the table and what it says."""
    head = ["point", "published", *(f"{basis}, {anchors} anchors" for anchors, basis in _COLUMNS), "fits", "difference"]
    lines = [
        "# What the axis of the published figure counts",
        "",
        'Parameters, in millions, of the sixteen points of the figure "Trade-off of model parameters and detection '
        'mAP50" that the authors of CANet publish, beside our counts of the MMDetection models that fit them, with '
        "two foreground classes. Trainable leaves out what the configurations freeze (stem and first stage, mostly). "
        "Models without an RPN have one count for either number of anchors.",
        "",
        "| " + " | ".join(head) + " |",
        "| --- |" + " ---: |" * 5 + " --- | ---: |",
    ]
    for f in explanations:
        fits = f.best.how + (f", **of {f.swapped}**" if f.swapped else "") + ("" if f.explained else " (nearest)")
        cells = [f.point.name, f"{f.point.params_m:.2f}", *(_pick(f, a, b) for a, b in _COLUMNS), fits]
        lines.append("| " + " | ".join([*cells, f"{f.difference:+.3f}"]) + " |")
    return "\n".join([*lines, "", *_in_words(explanations), ""])


def _in_words(explanations: Sequence[Explanation]) -> list[str]:
    explained = [f for f in explanations if f.explained]
    own = [f for f in explained if f.swapped is None and f.best.classes == CLASSES]
    apart = [f for f in own if f.frozen_m > 0]
    by_basis = {b: [f.point.name for f in apart if f.best.basis == b] for b in ("total", "trainable")}
    swapped = [f for f in explained if f.swapped]
    other = [f for f in explained if f.best.classes != CLASSES]
    unexplained = [f for f in explanations if not f.explained]
    out = [
        f"{len(explained)} of {len(explanations)} positions are within {TOLERANCE_M} M of one of our counts, "
        f"{len(own)} of them of their own model's with {CLASSES} classes.",
        "",
        f"- **Two bases are mixed.** Of the models that have frozen parameters, all parameters are shown for "
        f"{', '.join(by_basis['total'])}, and only trainable ones for {', '.join(by_basis['trainable'])}. "
        f"A comparison along this axis is off by up to {max(f.frozen_m for f in apart):.2f} M for that alone.",
        f"- **The data set is not named, and has {CLASSES} classes.** Heads for six classes (NEU-DET), 20 (VOC) or 80 "
        "(COCO) have more parameters than these positions. That it is the authors' engine surface set is likely, "
        "and nothing that they state.",
    ]
    out += [
        f"- **{f.point.name}** stands at {f.point.params_m:.2f} M, its count with {f.best.classes} classes: "
        "its head was not set to the data set's."
        for f in other
    ]
    if swapped:
        pairs = " and ".join(f"the mark called {f.point.name} fits {f.swapped} ({f.best.how})" for f in swapped)
        out.append(f"- **Two labels look swapped:** {pairs}.")
    out += [
        f"- **{f.point.name}** is not explained: the nearest count is {f.best.how}, {f.difference:+.3f} M away."
        for f in unexplained
    ]
    out += [
        "- 3 and 9 anchors per location differ by 0.008 M, which positions read to 0.01 M hardly tell apart; where a "
        "row says one of them, the other is as good.",
        "- CANet's counts hold the fusion block of 1.44 M that the authors' code builds and never uses, since "
        "theirs must; ours does not have it (`canet_mmdet` is smaller by that).",
        "",
        "Counted by `python -m benchmarks.published` (extra `mmdet`), from onedl-mmdetection 3.5.1.",
    ]
    return out


app = typer.Typer(add_completion=False)


@app.command()
def main(reports: Annotated[Path, typer.Option(help="folder to write into")] = Path("reports")) -> None:
    """Count the models of the published figure: published_params.md and published_params.csv."""
    all_points = points()
    if (message := models.missing_extra(all_points[0].model)) is not None:
        raise RequestError(message)
    counts = {}
    for point in all_points:
        console.print(f"counting {point.model}", highlight=False)
        counts[point.model] = tuple(count(point.model))
    explanations = explain(all_points, counts)
    for name, text in {
        "published_params.md": as_markdown(explanations),
        "published_params.csv": as_csv(explanations),
    }.items():
        write_atomic(reports / name, text.encode())
    explained = sum(f.explained for f in explanations)
    console.print(f"{explained} of {len(explanations)} explained -> {reports}/published_params.md", highlight=False)


if __name__ == "__main__":
    run_app(app)

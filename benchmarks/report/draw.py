"""The trade-off figures: AP50 over cost, a panel per data set. Byte-identical for equal records.

`trade_off.svg` is over the parameters that run in evaluation, its siblings over multiply-accumulates, latency and
training time; `published_figure.svg` has the published points, with our counts of their models.

Shapes tell kinds of models, as in the published figure: one-stage crosses, two-stage plus signs, multi-stage triangles;
hollow where a model is still learning, half-filled where that is not told. Faint points are single trainings, whiskers
the intervals of `Row`. One file serves light pages and dark ones.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ablations.effects import UNTRAINED_BELOW, Learning
from benchmarks import models, published
from benchmarks.cells import Cell
from benchmarks.report import budget, history, latency, machines, papers, tables
from benchmarks.report.comparisons import by_result, over_folds
from benchmarks.report.escaping import plain
from benchmarks.report.labels import Rectangle, place
from benchmarks.report.rows import Row, belonging, rows
from benchmarks.report.style import GREY, INK, PAGE, UNTRAINED, for_pages, our_style
from benchmarks.store import Stored, scan, write_atomic

_MARKS = {
    "one-stage": ("X", "#d55e00"),
    "two-stage": ("P", "#0072b2"),
    "multi-stage": ("v", "#009e73"),
    "other": ("o", "#cc79a7"),
}
"""Okabe and Ito's colours, which the colour-blind tell apart."""
_FILLS: dict[str, Any] = {"converged": "full", "not told": "left", "still learning": "none"}
_LEAST_SPAN = 20.0  # points of AP50 that a panel shows at least
# Points. A page shows a panel at 420 px or more, where a letter of 9 points is 9 pixels high.
_WIDTH, _LEFT, _RIGHT, _HEIGHT = 432.0, 44.0, 8.0, 250.0
_ABOVE, _BELOW, _LINE = 44.0, 44.0, 11.0
_ACROSS = 2
"""Panels in a row."""
_NAME, _SMALL = 9.0, 8.0
_RADIUS = 6.0


@dataclass(frozen=True)
class Axis:
    """What a figure is drawn over. value, span: of a row, in the unit of `label`."""

    file: str
    label: Callable[[Sequence[Row]], str]
    value: Callable[[Row], float | None]
    span: Callable[[Row], tuple[float, float] | None] = lambda row: None
    as_built: bool = False
    """Whether it says which rows have parameters as built alone."""


def _reference(section: Sequence[Row]) -> str:
    found = next((tables.reference_label(row) for row in section if row.reference), None)
    return found or models.label(budget.ENDS[1], "default")


PARAMETERS = Axis(
    "trade_off.svg",
    lambda section: "Parameters in evaluation / (M)",
    lambda row: None if row.parameters is None else row.parameters / 1e6,
    as_built=True,
)
AXES = (
    PARAMETERS,
    Axis(
        "trade_off_macs.svg",
        lambda section: "Multiply-accumulates of an image / (G)",
        lambda row: None if row.macs is None else row.macs / 1e9,
    ),
    Axis(
        "trade_off_latency.svg",
        lambda section: f"Latency, end to end, as a ratio to {_reference(section)}",
        lambda row: row.ratio,
        lambda row: row.ratio_interval,
    ),
    Axis(
        "trade_off_training.svg",
        lambda section: f"Training time at most, as a ratio to {_reference(section)}",
        lambda row: row.training_ratio,
    ),
)


PUBLISHED = "_published"
"""Folder below results/ with the records of the published figure's models."""
GATE = "_gate"
"""Folder below results/ with the gate's baselines and their history."""


def write(
    records: Sequence[Stored],
    folder: Path,
    *,
    beside_published: bool = False,
    published: Sequence[Stored] = (),
    timed: Path | None = None,
) -> None:
    """Draw the trade-off figures and `summary.md`, `.csv`, `.tex` and `references.bib` of records into a folder.

    beside_published: `published_figure.svg` and `.md` instead, with the published points in a panel of their own.
    published: further records, from which single trainings take their spread.
    timed: folder of records whose files of latencies (`benchmarks.cost.latency_files`) are told of.
    """
    found = rows(records, published)
    if beside_published:
        drawn = {"published_figure.svg": figure(found, beside=published_panel())}
    else:
        drawn = {axis.file: figure(found, axis=axis) for axis in AXES}
        drawn["summary.csv"] = papers.as_csv(found).encode()
        drawn["summary.tex"] = papers.as_latex(found).encode()
        drawn["references.bib"] = papers.as_bibtex(found).encode()
    trained = {s.run.cell_id: s.run for s in (*published, *records)}.values()
    told = {_images(s.run.cell) for s in records}  # of other sets nothing else is in the summary
    kinds = machines.section(run for run in trained if _images(run.cell) in told)
    more = [*kinds, *([] if timed is None else latency.markdown(timed))]
    summary = tables.markdown(found, records, more)
    drawn["published_figure.md" if beside_published else "summary.md"] = summary.encode()
    for name, content in drawn.items():
        _keep(folder / name, content)


def _images(cell: Cell) -> tuple[str, str, int]:
    return cell.dataset, cell.split, cell.image_size


def _keep(path: Path, content: bytes) -> None:
    """Write a file unless it is there as it should be."""
    if not path.exists() or path.read_bytes() != content:
        write_atomic(path, content)


def write_all(results: Path, reports: Path) -> int:
    """Draw the reports of all records below `results`; the number of records."""
    records = list(scan(results))
    studied = belonging(records, scan(results / budget.BUDGET))
    write(records, reports, published=studied, timed=results)
    known = {s.run.cell_id: s.run for s in (*studied, *records)}
    _keep(reports / "budget.md", budget.markdown(budget.courses(known.values())).encode())
    write_history(results, reports)
    if (results / PUBLISHED).is_dir():  # ours, and not what somebody keeps of their own
        _keep(reports / "published_figure.svg", figure([], beside=published_panel()))
    return len(records)


def write_history(results: Path, reports: Path) -> None:
    """Draw the history of the gate's baselines, where there is one."""
    if baselines := history.read(results / GATE / history.FILE):
        _keep(reports / history.FIGURE, history.figure(baselines))


@dataclass(frozen=True)
class Mark:
    """What a panel shows of one model: cost in the axis' unit, accuracy and its interval in percent."""

    label: str
    stage: str
    x: float
    y: float
    interval: tuple[float, float] | None = None
    untrained: bool = False
    values: tuple[float, ...] = ()
    """Accuracy of each training, in percent."""
    learning: Learning | None = None
    """None: not ours to judge."""
    counted: float | None = None
    """Our count of a published point's model, in millions."""
    span: tuple[float, float] | None = None
    """Interval of x."""
    ranked: bool = False
    """Whether it may stand on the Pareto front."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    x_label: str
    y_label: str
    marks: Sequence[Mark]
    caption: str = ""

    @property
    def front(self) -> list[Mark]:
        """Those of the ranked that no other ranked one beats in both, from the cheapest on; [] of fewer than two."""
        ranked = sorted((m for m in self.marks if m.ranked), key=lambda m: (m.x, -m.y))
        best = [m for i, m in enumerate(ranked) if all(m.y > other.y for other in ranked[:i])]
        return best if len(ranked) > 1 else []


def published_panel() -> list[Panel]:
    """The published points as they are, with our counts of their models."""
    marks = [Mark(p.name, p.stage, p.params_m, p.map50, counted=p.counted_m) for p in published.points()]
    caption = (
        "Data set not named. Rings: our counts of the models, all parameters, two classes. The published axis mixes "
        "all parameters with trainable ones, and two labels look swapped."
    )
    return [Panel("as published", "Model parameters / (M)", "mAP50 / (%)", marks, caption)]


def _mark(row: Row, axis: Axis, ranked: Sequence[Row]) -> Mark | None:
    """ranked: the rows that may stand on the Pareto front."""
    x = axis.value(row)
    if row.AP50 is None or x is None:
        return None
    interval = None if row.interval is None else (100 * row.interval[0], 100 * row.interval[1])
    label = row.title + (" *" if row.pretrained else "")
    values = tuple(100 * v for v in row.accuracy["AP50"].values)
    mark = Mark(label, row.stage, x, 100 * row.AP50, interval, row.untrained, values, row.learning)
    return replace(mark, span=axis.span(row), ranked=row in ranked)


def figure(
    all_rows: Sequence[Row], format: str = "svg", beside: Sequence[Panel] = (), axis: Axis = PARAMETERS
) -> bytes:
    """A trade-off figure as SVG (or "png"), with a panel for each data set and input size, after those `beside`."""
    panels, without = [*beside], []
    for title, section in tables.sections(all_rows).items():
        # A mean over other folds may be higher since these are easier.
        ranked = by_result(section, "AP50")
        folds = max((row.folds for row in ranked), key=len, default=())
        ranked = [row for row in ranked if row.folds == folds]
        if marks := [mark for row in section if (mark := _mark(row, axis, ranked)) is not None]:
            panels.append(Panel(title, axis.label(section), "AP50 / (%)", marks, _caption(section, axis)))
        else:
            without.append(title)
    with our_style():
        return _drawn(
            panels, format, f"Not drawn, since nothing of it was measured: {'; '.join(without)}" * bool(without)
        )


def _drawn(panels: Sequence[Panel], format: str, below: str = "") -> bytes:
    # Not pyplot: it would take the backend of a calling notebook.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    laid = [_Laid.of(panel) for panel in panels]
    across = min(_ACROSS, max(len(laid), 1))
    in_rows = [laid[i : i + across] for i in range(0, len(laid), across)]
    width = _WIDTH * across
    lines = _lines(plain(below), _SMALL, width - 16)
    heights = [max(one.height for one in row) for row in in_rows]
    height = (sum(heights) or (0.0 if below else _HEIGHT)) + (_LINE * (len(lines) + 1) if lines else 0)
    fig = Figure(figsize=(width / 72, height / 72))
    FigureCanvasAgg(fig)
    if not panels and not below:
        fig.text(0.5, 0.5, "no records yet", ha="center", va="center")
    top = height
    for row, of_row in zip(in_rows, heights, strict=True):
        bottom = (top - _ABOVE - _HEIGHT) / height
        for column, one in enumerate(row):
            left = (column * _WIDTH + _LEFT) / width
            _draw(fig.add_axes((left, bottom, (_WIDTH - _LEFT - _RIGHT) / width, _HEIGHT / height)), one)
        top -= of_row
    for number, line in enumerate(lines):
        y = (top - _LINE * number - 2) / height
        fig.text(8 / width, y, line, va="top", fontsize=_SMALL, color=GREY)
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": "CANet-Bench"} if format == "svg" else None
    fig.savefig(buffer, format=format, metadata=metadata, dpi=150, facecolor=PAGE)
    return for_pages(buffer.getvalue()) if format == "svg" else buffer.getvalue()


def _caption(section: Sequence[Row], axis: Axis = PARAMETERS) -> str:
    """What the panel shows, in it: split, epochs, trainings, what whiskers and fillings are."""
    measured = [row for row in section if row.AP50 is not None]
    epochs = ", ".join(str(e) for e in sorted({row.epochs for row in measured}))
    runs = sorted({row.runs for row in measured})
    trainings = f"{runs[0]}" if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
    covers = {row.accuracy["AP50"].covers for row in measured} - {"nothing"}
    whiskers = " or ".join(sorted(covers)) or "none"
    verdicts = {row.learning for row in measured}
    meaning = {
        "still learning": "hollow: still learning",
        "not told": "half-filled: not shown to be trained to the end",
    }
    fills = [text for verdict, text in meaning.items() if verdict in verdicts]
    if axis.as_built and (built := [row.title for row in measured if row.as_built]):
        fills.append(f"parameters as built: {'all' if len(built) == len(measured) else ', '.join(built)}")
    if gone := [f"{row.title} ({row.diverged})" for row in section if row.diverged]:
        fills.append(f"trainings that diverged, and are not in the means: {', '.join(gone)}")
    if missing := [row.title for row in measured if axis.value(row) is None]:
        fills.append(f"not measured, and not drawn: {', '.join(missing)}")
    if any(row.pretrained for row in measured):
        fills.append("*: pretrained")
    others = over_folds(measured)
    parts = [
        f"{measured[0].split}, {epochs} epochs, trainings a model: {trainings}",
        "" if others is None else f"means over different folds: {others}",
        f"whiskers: 95%, {whiskers}",
        "; ".join(fills),
    ]
    return "; ".join(part for part in parts if part)


def _width(text: str, size: float, weight: str = "normal") -> float:
    """Of a text in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family="DejaVu Sans", size=size, weight=weight)
    # Readers whose letters are a little wider still see names that do not touch.
    return 1.03 * text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]


def _lines(text: str, size: float, width: float) -> list[str]:
    """A text broken between words."""
    out: list[str] = []
    for word in text.split():
        longer = f"{out[-1]} {word}" if out else word
        if out and _width(longer, size) <= width:
            out[-1] = longer
        else:
            out.append(word)
    return out


@dataclass(frozen=True)
class _Laid:
    """A panel with its limits, and where its names go, in points from the lower left of its frame."""

    panel: Panel
    xlim: tuple[float, float]
    ylim: tuple[float, float]
    points: Sequence[tuple[float, float]]
    names: Sequence[tuple[str, Rectangle | None]]
    below: Sequence[str]

    @property
    def height(self) -> float:
        return _ABOVE + _HEIGHT + _BELOW + _LINE * len(self.below)

    @classmethod
    def of(cls, panel: Panel) -> _Laid:
        marks = panel.marks
        width = _WIDTH - _LEFT - _RIGHT
        ends = [v for m in marks for v in (*(m.span or ()), m.x)]
        margin = max(0.14 * (max(ends) - min(ends)), 0.05 * max(ends), 0.05)
        # Twice on the right, where names go first.
        xlim = (max(min(ends) - margin, min(0.0, min(ends))), max(ends) + 2 * margin)
        heights = [v for m in marks for v in (*(m.interval or ()), *m.values, m.y)]
        low, high = min(heights), max(heights)
        # Never so tight that a difference of a point looks like much.
        spare = max(_LEAST_SPAN - (high - low), 0.0) / 2
        low, high = low - spare, high + spare
        ylim = low - 0.08 * (high - low), high + 0.08 * (high - low)

        def at(x: float, y: float) -> tuple[float, float]:
            return (x - xlim[0]) / (xlim[1] - xlim[0]) * width, (y - ylim[0]) / (ylim[1] - ylim[0]) * _HEIGHT

        points = [at(m.x, m.y) for m in marks]
        whiskers = []
        for m, (px, py) in zip(marks, points, strict=True):
            if m.interval is not None:
                whiskers.append(Rectangle(px - 1, at(m.x, m.interval[0])[1], px + 1, at(m.x, m.interval[1])[1]))
            if m.span is not None:
                whiskers.append(Rectangle(at(m.span[0], m.y)[0], py - 1, at(m.span[1], m.y)[0], py + 1))
        frame = Rectangle(2, 2, width - 2, _HEIGHT - 2)
        radius = _RADIUS + (1.0 if any(m.counted is not None for m in marks) else 0.0)
        texts = [plain(m.label) for m in marks]
        sizes = [(_width(text, _NAME), _NAME * 1.15) for text in texts]
        boxes = place(points, sizes, frame, radius=radius, avoid=whiskers)
        names, key = list(zip(texts, boxes, strict=True)), []
        left = [i for i, box in enumerate(boxes) if box is None]
        if left:  # a number beside the mark, and the name below
            numbers = [str(n + 1) for n in range(len(left))]
            small = [(_width(n, _NAME), _NAME * 1.15) for n in numbers]
            others = [box for box in boxes if box is not None]
            # All marks, those with names too: a number must not stand beside another's.
            order = left + [i for i in range(len(marks)) if i not in left]
            beside = place(
                [points[i] for i in order],
                [*small, *[(1e6, 1e6)] * (len(order) - len(left))],
                frame,
                radius=radius,
                avoid=whiskers,
                taken=others,
            )
            for i, number, box in zip(left, numbers, beside, strict=False):
                names[i] = number, box
                where = "" if box is not None else f" ({marks[i].x:.2f}, {marks[i].y:.1f})"
                key.append(f"{number}: {texts[i]}{where}")
        caption = "; ".join([*key, plain(panel.caption)]) if panel.caption else "; ".join(key)
        return cls(panel, xlim, ylim, points, names, _lines(caption, _SMALL, _WIDTH - 16))


def _draw(ax: Any, laid: _Laid) -> None:
    from matplotlib.lines import Line2D

    panel, marks = laid.panel, laid.panel.marks
    if front := panel.front:
        ax.plot(
            [m.x for m in front], [m.y for m in front], color=GREY, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1.5
        )
    for m in marks:
        marker, color = _MARKS[m.stage]
        color = UNTRAINED if m.untrained else color
        if m.interval is not None:
            ax.plot([m.x, m.x], m.interval, color=color, alpha=0.45, linewidth=1.4, solid_capstyle="butt", zorder=2)
        if m.span is not None:
            ax.plot(m.span, [m.y, m.y], color=color, alpha=0.45, linewidth=1.4, solid_capstyle="butt", zorder=2)
        if len(m.values) > 1:
            ax.plot(
                [m.x] * len(m.values), m.values, marker=".", color=color, alpha=0.45, markersize=4, linestyle="none"
            )
        if m.counted is not None:
            ax.plot([m.x, m.counted], [m.y, m.y], color=GREY, linewidth=0.8, zorder=2)
            ring: Any = {"markerfacecolor": "none", "markeredgewidth": 0.8, "zorder": 4}
            ax.plot(m.counted, m.y, marker="o", color=GREY, markersize=12, **ring)
        fill = _FILLS.get(m.learning or "converged", "full")
        style: Any = {"markerfacecoloralt": PAGE, "fillstyle": fill, "linestyle": "none", "zorder": 3}
        ax.plot(m.x, m.y, marker=marker, color=color, markersize=9, markeredgewidth=1.2, **style)
    ax.set_xlim(laid.xlim)
    ax.set_ylim(laid.ylim)
    above: Any = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "left"}
    ax.annotate(plain(panel.title), (0, 1), xytext=(0, 24), va="bottom", fontsize=10, fontweight="bold", **above)
    ax.set_xlabel(plain(panel.x_label))
    ax.set_ylabel(panel.y_label)
    for number, line in enumerate(laid.below):
        y = -_BELOW + 8 - _LINE * number
        ax.annotate(line, (0, 0), xytext=(8 - _LEFT, y), va="top", fontsize=_SMALL, color=GREY, **above)
    handles = [
        Line2D([], [], marker=m, color=c, linestyle="none", markersize=7, markeredgewidth=1.2, label=stage)
        for stage, (m, c) in _MARKS.items()
        if any(mark.stage == stage for mark in marks)
    ]
    if any(mark.untrained for mark in marks):
        label = f"untrained (AP50 < {100 * UNTRAINED_BELOW:.0f})"
        handles.append(Line2D([], [], marker="o", color=UNTRAINED, linestyle="none", markersize=5, label=label))
    if front:
        handles.append(Line2D([], [], color=GREY, linewidth=1.0, linestyle=(0, (4, 3)), label="Pareto front"))
    place_legend: Any = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.2, "borderpad": 0.2}
    ax.legend(
        handles=handles, ncol=len(handles), frameon=False, fontsize=_SMALL, handletextpad=0.2, columnspacing=1.2,
        **place_legend,
    )  # fmt: skip
    _write_names(ax, laid)


def _write_names(ax: Any, laid: _Laid) -> None:
    for mark, (name, box), (x, y) in zip(laid.panel.marks, laid.names, laid.points, strict=True):
        if box is None:
            continue
        ink = GREY if mark.untrained else INK
        ax.annotate(
            name,
            (0, 0),
            xycoords="axes points",
            xytext=(box.x0, box.y0 + 0.22 * _NAME),
            textcoords="axes points",
            ha="left",
            va="baseline",
            fontsize=_NAME,
            color=ink,
            zorder=5,
            bbox={"boxstyle": "square,pad=0.05", "facecolor": PAGE, "edgecolor": "none", "alpha": 0.8},  # over lines
        )
        if box.distance(x, y) > 2.2 * _RADIUS:  # a line to a mark that is not beside it
            end = (min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1))
            arrow = {"arrowstyle": "-", "color": UNTRAINED, "linewidth": 0.7, "shrinkA": 0, "shrinkB": _RADIUS}
            ax.annotate("", (x, y), xycoords="axes points", xytext=end, textcoords="axes points", arrowprops=arrow)

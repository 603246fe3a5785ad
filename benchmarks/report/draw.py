"""The trade-off figure: AP50 over parameters, a panel per data set. Byte-identical for equal records.

`published_figure.svg` has the published points, with our counts of their models.

Marks are those of the published figure: one-stage red crosses, two-stage blue plus signs,
multi-stage green triangles; hollow where a model is still learning, half-filled where that is not told. Faint points
are single trainings, whiskers the intervals of `Row.interval`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablations.effects import Learning
from benchmarks.report import budget, published, tables
from benchmarks.report.rows import UNTRAINED_BELOW, Row, rows
from benchmarks.store import Stored, scan, write_atomic

_MARKS = {
    "one-stage": ("X", "#c81e1e"),
    "two-stage": ("P", "#1d4ed8"),
    "multi-stage": ("v", "#15803d"),
    "other": ("o", "#7c3aed"),
}
_UNTRAINED = "#9ca3af"
_FILLS: dict[str, Any] = {"converged": "full", "not told": "left", "still learning": "none"}
_DARK = {"#ffffff": "#0d1117", "#111827": "#e6edf3", "#374151": "#b6c0cc", "#000000": "#e6edf3", "#e5e7eb": "#2d333b"}
"""Colours of the page and its ink, and what they become where a reader's page is dark."""
_LEAST_SPAN = 20.0  # points of AP50 that a panel shows at least
_STYLE: Any = {
    "svg.hashsalt": "canet-bench",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.edgecolor": "#374151",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.6,
    "xtick.color": "#374151",
    "ytick.color": "#374151",
}


PUBLISHED = "_published"
"""Folder below results/ with the records of the published figure's models."""


def write(
    records: Sequence[Stored], folder: Path, *, beside_published: bool = False, published: Sequence[Stored] = ()
) -> None:
    """Draw `trade_off.svg` and `summary.md` of records into a folder.

    beside_published: `published_figure.svg` and `.md` instead, with the published points in a panel of their own.
    published: further records, from which single trainings take their spread.
    """
    names = ("published_figure.svg", "published_figure.md") if beside_published else ("trade_off.svg", "summary.md")
    panels = [*published_panel()] if beside_published else []
    contents = (figure(rows(records, published), beside=panels), tables.markdown(records, published).encode())
    drawn = dict(zip(names, contents, strict=True))
    for name, content in drawn.items():
        _keep(folder / name, content)


def _keep(path: Path, content: bytes) -> None:
    """Write a file unless it is there as it should be."""
    if not path.exists() or path.read_bytes() != content:
        write_atomic(path, content)


def write_all(results: Path, reports: Path) -> int:
    """Draw the reports of all records below `results`; the number of records."""
    records = list(scan(results))
    studied = list(scan(results / budget.BUDGET))
    write(records, reports, published=studied)
    known = {s.run.cell_id: s.run for s in (*studied, *records)}
    _keep(reports / "budget.md", budget.markdown(budget.courses(known.values())).encode())
    if (results / PUBLISHED).is_dir():  # ours, and not what somebody keeps of their own
        _keep(reports / "published_figure.svg", figure([], beside=published_panel()))
    return len(records)


@dataclass(frozen=True)
class Mark:
    """What a panel shows of one model: parameters in millions, accuracy and its interval in percent."""

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


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    y_label: str
    marks: Sequence[Mark]
    caption: str = ""


def published_panel() -> list[Panel]:
    """The published points as they are, with our counts of their models."""
    marks = [Mark(p.name, p.stage, p.params_m, p.map50, counted=p.counted_m) for p in published.points()]
    caption = (
        "data set not named; rings: our counts of the models, all parameters, two classes\n"
        "the published axis mixes all parameters with trainable ones, and two labels look swapped"
    )
    return [Panel("as published", "mAP50 / (%)", marks, caption)]


def _mark(row: Row) -> Mark:
    assert row.parameters is not None
    assert row.AP50 is not None
    interval = None if row.interval is None else (100 * row.interval[0], 100 * row.interval[1])
    label = row.title + (" *" if row.pretrained else "")
    values = tuple(100 * v for v in row.accuracy["AP50"].values)
    return Mark(label, row.stage, row.parameters / 1e6, 100 * row.AP50, interval, row.untrained, values, row.learning)


def figure(all_rows: Sequence[Row], format: str = "svg", beside: Sequence[Panel] = ()) -> bytes:
    """The trade-off figure as SVG (or "png"), with a panel for each data set and input size, after those `beside`."""
    # Not pyplot: it would take the backend of a calling notebook, and a user's settings.
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [r for r in all_rows if r.AP50 is not None and r.parameters is not None]
    own = []
    for title, section in tables.sections(all_rows).items():
        if marks := [_mark(row) for row in section if row in shown]:
            own.append(Panel(title, "AP50 / (%)", marks, _caption(section)))
    panels = [*beside, *own]
    defaults = {k: v for k, v in matplotlib.rcParamsDefault.items() if not k.startswith(("backend", "interactive"))}
    with matplotlib.rc_context({**defaults, **_STYLE}):
        n = max(len(panels), 1)
        fig = Figure(figsize=(6.0 * n, 4.4), layout="constrained")
        FigureCanvasAgg(fig)
        axes = fig.subplots(1, n, squeeze=False)
        if not panels:
            axes[0, 0].text(0.5, 0.5, "no records yet", ha="center", va="center", transform=axes[0, 0].transAxes)
        for ax, panel in zip(axes[0], panels, strict=False):
            _draw(fig, ax, panel)
        buffer = io.BytesIO()
        metadata = {"Date": None, "Creator": "CANet-Bench"} if format == "svg" else None
        fig.savefig(buffer, format=format, metadata=metadata, dpi=150, facecolor="#ffffff")
    return _with_dark_mode(buffer.getvalue()) if format == "svg" else buffer.getvalue()


def _with_dark_mode(svg: bytes) -> bytes:
    """One file for light and dark pages: a style sheet that turns page and ink where the reader prefers dark."""
    rules = "".join(
        f'[style*="{what}: {light}"]{{{what}:{dark} !important}}'
        for light, dark in _DARK.items()
        for what in ("fill", "stroke")
    )
    sheet = f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
    return svg.replace(b"<defs>", sheet.encode() + b"<defs>", 1)


def _caption(section: Sequence[Row]) -> str:
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
    built = [row.title for row in measured if row.as_built]
    if built:
        fills.append(f"parameters as built: {'all' if len(built) == len(measured) else ', '.join(built)}")
    pretrained = ["*: pretrained"] if any(row.pretrained for row in measured) else []
    parts = [
        f"{measured[0].split}, {epochs} epochs, trainings a model: {trainings}",
        f"whiskers: 95%, {whiskers}",
        "; ".join([*fills, *pretrained]),
    ]
    return "\n".join(part for part in parts if part)


def _draw(fig: Any, ax: Any, panel: Panel) -> None:
    from matplotlib.lines import Line2D

    marks = panel.marks
    for m in marks:
        marker, color = _MARKS[m.stage]
        color = _UNTRAINED if m.untrained else color
        if m.interval is not None:
            ax.plot([m.x, m.x], m.interval, color=color, alpha=0.35, linewidth=1.2, solid_capstyle="butt", zorder=2)
        if len(m.values) > 1:
            ax.plot(
                [m.x] * len(m.values), m.values, marker=".", color=color, alpha=0.35, markersize=4, linestyle="none"
            )
        if m.counted is not None:
            ax.plot([m.x, m.counted], [m.y, m.y], color="#374151", linewidth=0.8, zorder=2)
            ring: Any = {"markerfacecolor": "none", "markeredgewidth": 0.8, "zorder": 4}
            ax.plot(m.counted, m.y, marker="o", color="#374151", markersize=13, **ring)
        fill = _FILLS.get(m.learning or "converged", "full")
        style: Any = {"markerfacecoloralt": "#ffffff", "fillstyle": fill, "linestyle": "none", "zorder": 3}
        ax.plot(m.x, m.y, marker=marker, color=color, markersize=9, markeredgewidth=1.2, **style)
    ax.set_title(panel.title)
    ax.set_xlabel("Model parameters / (M)")
    if panel.caption:
        below: Any = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "top", "fontsize": 7.5}
        ax.annotate(panel.caption, (0, 0), xytext=(0, -34), color="#374151", **below)
    ax.set_ylabel(panel.y_label)
    xs = [m.x for m in marks]
    margin = max(0.18 * (max(xs) - min(xs)), 0.1)
    # Room on the right for the names.
    ax.set_xlim(min(xs) - margin, max(xs) + 2.2 * margin)
    ends = [v for m in marks for v in (*(m.interval or ()), m.y)]
    low, high = min(ends), max(ends)
    # Never so tight that a difference of a point looks like much.
    spare = max(_LEAST_SPAN - (high - low), 0.0) / 2
    low, high = low - spare, high + spare
    handles = [
        Line2D([], [], marker=m, color=c, linestyle="none", markersize=7, markeredgewidth=1.6, label=stage)
        for stage, (m, c) in _MARKS.items()
        if any(mark.stage == stage for mark in marks)
    ]
    if any(mark.untrained for mark in marks):
        label = f"untrained (AP50 < {100 * UNTRAINED_BELOW:.0f})"
        handles.append(Line2D([], [], marker="o", color=_UNTRAINED, linestyle="none", markersize=5, label=label))
    room = 0.24 if len(handles) < 4 else 0.30
    ax.set_ylim(low - 0.06 * (high - low), high + room * (high - low))
    ax.legend(handles=handles, loc="upper left", frameon=True, fancybox=False, edgecolor="#374151", fontsize=8)
    _place_names(fig, ax, marks)


def _place_names(fig: Any, ax: Any, marks: Sequence[Mark]) -> None:
    """Write each name beside its mark where it covers least: marks, other names, the legend, the frame."""
    fig.canvas.draw()
    renderer = fig.canvas.get_renderer()
    frame = ax.get_window_extent(renderer)
    taken = [ax.get_legend().get_window_extent(renderer)]
    points = [(m, ax.transData.transform((m.x, m.y))) for m in marks]
    from matplotlib.transforms import Bbox

    taken += [Bbox.from_bounds(x - 6, y - 6, 12, 12) for _, (x, y) in points]
    for m, (x, _) in points:
        if m.interval is not None:
            bottom, top = (ax.transData.transform((0, v))[1] for v in m.interval)
            taken.append(Bbox.from_bounds(x - 1, bottom, 2, top - bottom))
    spots = [
        (dx, dy, ha, va)
        for d in (8, 14, 22, 32)
        for dx, dy, ha, va in (
            (d, 0, "left", "center"),
            (d * 0.7, d * 0.7, "left", "bottom"),
            (d * 0.7, -d * 0.7, "left", "top"),
            (-d, 0, "right", "center"),
            (-d * 0.7, d * 0.7, "right", "bottom"),
            (-d * 0.7, -d * 0.7, "right", "top"),
            (0, d, "center", "bottom"),
            (0, -d, "center", "top"),
        )
    ]
    for m, here in sorted(points, key=lambda p: -p[1][1]):
        best: tuple[float, Any, Any] | None = None
        for dx, dy, ha, va in spots:
            text = ax.annotate(
                m.label,
                (m.x, m.y),
                xytext=(dx, dy),
                textcoords="offset points",
                ha=ha,
                va=va,
                fontsize=8,
                color=_UNTRAINED if m.untrained else "#111827",
                zorder=4,
                arrowprops={
                    "arrowstyle": "-",
                    "color": "#9ca3af",
                    "linewidth": 0.6,
                    "shrinkA": 1,
                    "shrinkB": 4,
                }
                if abs(dx) + abs(dy) > 18
                else None,
            )
            box = text.get_window_extent(renderer).padded(1)
            cost = sum(_overlap(box, other) for other in taken)
            cost += 10 * (box.width * box.height - _overlap(box, frame))
            # A name nearer to another mark than to its own would be read as that one's.
            cost += 100 * any(_distance(box, there) < _distance(box, here) for _, there in points)
            if best is None or cost < best[0] - 1e-6:
                if best is not None:
                    best[1].remove()
                best = (cost, text, box)
            else:
                text.remove()
            if best[0] <= 1e-6:
                break
        assert best is not None
        taken.append(best[2])


def _distance(box: Any, point: Any) -> float:
    x, y = point
    return math.hypot(max(box.x0 - x, x - box.x1, 0.0), max(box.y0 - y, y - box.y1, 0.0))


def _overlap(a: Any, b: Any) -> float:
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(width, 0.0) * max(height, 0.0)

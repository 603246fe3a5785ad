"""The trade-off figure: AP50 over parameters, a panel per data set. Byte-identical for equal records.

Marks are those of the published figure: one-stage red crosses, two-stage blue plus signs,
multi-stage green triangles. Whiskers are the intervals of `Row.interval`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import tables
from benchmarks.report.rows import UNTRAINED_BELOW, Row, rows
from benchmarks.store import Stored, scan, write_atomic

_MARKS = {
    "one-stage": ("x", "#c81e1e"),
    "two-stage": ("+", "#1d4ed8"),
    "multi-stage": ("v", "#15803d"),
}
_UNTRAINED = "#9ca3af"
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


def write(records: Sequence[Stored], folder: Path) -> None:
    """Draw `trade_off.svg` and `summary.md` of records into a folder."""
    drawn = {"trade_off.svg": figure(rows(records)), "summary.md": tables.markdown(records).encode()}
    for name, content in drawn.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != content:
            write_atomic(path, content)


def write_all(results: Path, reports: Path) -> int:
    """Draw the reports of all records below `results`; the number of records."""
    records = list(scan(results))
    write(records, reports)
    return len(records)


def figure(all_rows: Sequence[Row], format: str = "svg") -> bytes:
    """The trade-off figure as SVG (or "png"), with a panel for each data set and input size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = [r for r in all_rows if r.AP50 is not None and r.parameters is not None]
    panels: dict[str, list[Row]] = {}
    for title, section in tables.sections(all_rows).items():
        if panel := [row for row in section if row in shown]:
            panels[title] = panel
    with matplotlib.rc_context(_STYLE):
        n = max(len(panels), 1)
        fig, axes = plt.subplots(1, n, figsize=(6.0 * n, 4.4), squeeze=False, layout="constrained")
        if not panels:
            axes[0, 0].text(0.5, 0.5, "no records yet", ha="center", va="center", transform=axes[0, 0].transAxes)
        for ax, (title, panel) in zip(axes[0], panels.items(), strict=False):
            _panel(fig, ax, title, panel)
        buffer = io.BytesIO()
        metadata = {"Date": None, "Creator": "CANet-Bench"} if format == "svg" else None
        fig.savefig(buffer, format=format, metadata=metadata, dpi=150, facecolor="white")
        plt.close(fig)
    return buffer.getvalue()


def _panel(fig: Any, ax: Any, title: str, panel: list[Row]) -> None:
    from matplotlib.lines import Line2D

    for row in panel:
        marker, color = _MARKS[row.stage]
        color = _UNTRAINED if row.untrained else color
        x, y = row.parameters / 1e6, 100 * row.AP50  # type: ignore[operator]
        if row.interval is not None:
            low, high = (100 * v for v in row.interval)
            ax.plot([x, x], [low, high], color=color, alpha=0.35, linewidth=1.2, solid_capstyle="butt", zorder=2)
        ax.plot(x, y, marker=marker, color=color, markersize=8, markeredgewidth=1.8, linestyle="none", zorder=3)
    ax.set_title(title)
    ax.set_xlabel("Model parameters / (M)")
    ax.set_ylabel("AP50 / (%)")
    xs = [row.parameters / 1e6 for row in panel]  # type: ignore[operator]
    margin = max(0.18 * (max(xs) - min(xs)), 0.1)
    # Room on the right for the names.
    ax.set_xlim(min(xs) - margin, max(xs) + 2.2 * margin)
    ends = [100 * v for row in panel for v in (*(row.interval or ()), row.AP50 or 0.0)]
    low, high = min(ends), max(ends)
    # Never so tight that a difference of a point looks like much; room at the top for the legend.
    spare = max(_LEAST_SPAN - (high - low), 0.0) / 2
    low, high = low - spare, high + spare
    ax.set_ylim(low - 0.06 * (high - low), high + 0.24 * (high - low))
    handles = [
        Line2D([], [], marker=m, color=c, linestyle="none", markersize=7, markeredgewidth=1.6, label=stage)
        for stage, (m, c) in _MARKS.items()
        if any(r.stage == stage for r in panel)
    ]
    if any(r.untrained for r in panel):
        label = f"untrained (AP50 < {100 * UNTRAINED_BELOW:.0f})"
        handles.append(Line2D([], [], marker="o", color=_UNTRAINED, linestyle="none", markersize=5, label=label))
    ax.legend(handles=handles, loc="upper left", frameon=True, fancybox=False, edgecolor="#374151", fontsize=8)
    _place_names(fig, ax, panel)


def _place_names(fig: Any, ax: Any, panel: list[Row]) -> None:
    """Write each name beside its mark where it covers least: marks, other names, the legend, the frame."""
    fig.canvas.draw()
    renderer = fig.canvas.get_renderer()
    frame = ax.get_window_extent(renderer)
    taken = [ax.get_legend().get_window_extent(renderer)]
    points = [(r, ax.transData.transform((r.parameters / 1e6, 100 * r.AP50))) for r in panel]  # type: ignore[operator]
    from matplotlib.transforms import Bbox

    taken += [Bbox.from_bounds(x - 6, y - 6, 12, 12) for _, (x, y) in points]
    for row, (x, _) in points:
        if row.interval is not None:
            bottom, top = (ax.transData.transform((0, 100 * v))[1] for v in row.interval)
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
    for row, _ in sorted(points, key=lambda p: -p[1][1]):
        best: tuple[float, Any, Any] | None = None
        for dx, dy, ha, va in spots:
            text = ax.annotate(
                row.label,
                (row.parameters / 1e6, 100 * row.AP50),  # type: ignore[operator]
                xytext=(dx, dy),
                textcoords="offset points",
                ha=ha,
                va=va,
                fontsize=8,
                color=_UNTRAINED if row.untrained else "#111827",
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


def _overlap(a: Any, b: Any) -> float:
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(width, 0.0) * max(height, 0.0)

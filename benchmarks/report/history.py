"""The gate's baselines over commits: a line for each time that they were replaced, and a figure of these lines.

The figure is drawn from the lines alone, byte-identical for equal ones.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from benchmarks.cells import Hashed
from benchmarks.errors import DataError
from benchmarks.report.escaping import plain
from benchmarks.report.style import for_pages, our_style

FILE = "history.jsonl"
FIGURE = "history.svg"


class BaselineRow(Hashed):
    """One model of a baseline: means over its trainings, in [0, 1], and what it costs."""

    name: str
    runs: int
    AP50: float | None
    AP50_values: tuple[float, ...] = Field(description="of each training, in the order of folds and seeds")
    AP: float | None
    parameters: int | None
    macs: float | None


class Baseline(Hashed):
    """The records that stood from one commit on, and why they replaced those before."""

    date: str = Field(description="when the last of the records was made, ISO 8601")
    commit: str | None = Field(description="of the source that made them")
    reason: str = Field(min_length=1)
    rows: tuple[BaselineRow, ...]


def read(path: Path) -> list[Baseline]:
    """The lines of a history, the oldest first; none where there is no file. DataError names a line that is none."""
    if not path.exists():
        return []
    out = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            out.append(Baseline.model_validate_json(line))
        except ValidationError as e:
            first = e.errors()[0]
            raise DataError(f"{path}, line {number}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return out


def line(baseline: Baseline) -> str:
    """One line of the file."""
    return json.dumps(baseline.model_dump(mode="json"), ensure_ascii=False) + "\n"


def figure(baselines: Sequence[Baseline]) -> bytes:
    """AP50 of every model of the gate, and its multiply-accumulates to the first, over the baselines. SVG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    names = list(dict.fromkeys(row.name for baseline in baselines for row in baseline.rows))
    colours, shapes = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#111827"), "os^Dv"
    # Lines of the reasons below, which a reader wants beside the steps.
    below = [f"{i + 1}: {b.date[:10]} {(b.commit or '-')[:8]} {b.reason}" for i, b in enumerate(baselines)]
    height = 4.6 + 0.16 * len(below)
    with our_style():
        fig = Figure(figsize=(6.0, height))
        FigureCanvasAgg(fig)
        accuracy = fig.add_axes((0.14, 1 - 2.3 / height, 0.83, 2.0 / height))
        cost = fig.add_axes((0.14, 1 - 4.1 / height, 0.83, 1.4 / height), sharex=accuracy)
        for k, name in enumerate(names):
            colour, shape = colours[k % len(colours)], shapes[k // len(colours) % len(shapes)]
            own = [(i + 1, row) for i, b in enumerate(baselines) for row in b.rows if row.name == name]
            points = [(i, 100 * row.AP50) for i, row in own if row.AP50 is not None]
            accuracy.plot(*zip(*points, strict=True), marker=shape, color=colour, label=plain(name)) if points else None
            for i, row in own:
                values = [100 * v for v in row.AP50_values]
                accuracy.plot([i] * len(values), values, marker=".", alpha=0.45, color=colour, linestyle="none")
            work = [(i, row.macs) for i, row in own if row.macs]
            if work:
                cost.plot([i for i, _ in work], [m / work[0][1] for _, m in work], marker=shape, color=colour)
        accuracy.set_ylabel("AP50 / (%)")
        cost.set_ylabel("MACs, to the first")
        cost.set_xlabel("baseline")
        cost.xaxis.set_major_locator(MaxNLocator(integer=True))
        accuracy.set_xlim(0.5, max(len(baselines), 1) + 0.5)
        accuracy.set_title("the gate's baselines, means over trainings (dots)")
        if names:
            accuracy.legend(fontsize=8, frameon=False)
        for i, text in enumerate(below):
            fig.text(
                0.03,
                (0.12 + 0.16 * (len(below) - 1 - i)) / height,
                plain(text if len(text) <= 105 else f"{text[:102]}..."),
                fontsize=7,
            )
        buffer = io.BytesIO()
        fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "CANet-Bench"}, facecolor="#ffffff")
    return for_pages(buffer.getvalue())

"""The summary as a terminal table and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table

from benchmarks.report.rows import UNTRAINED_BELOW, Row, rows
from benchmarks.store import Stored

_HEAD = (
    "model",
    "params (M)",
    "GMACs",
    "AP50",
    "AP",
    "AP small",
    "latency ratio",
    "epochs",
    "runs",
)


def _number(value: float | None, digits: int, factor: float = 1.0) -> str:
    return "–" if value is None else f"{value * factor:.{digits}f}"


def _span(span: tuple[float, float], digits: int, factor: float = 1.0) -> str:
    return f"{span[0] * factor:.{digits}f}–{span[1] * factor:.{digits}f}"


def _cells(row: Row) -> tuple[str, ...]:
    notes = [s for s in row.statuses if s != "ok"] + (["untrained"] if row.untrained else [])
    ap50, ratio = _number(row.AP50, 1, 100), _number(row.ratio, 2)
    if row.interval is not None:
        ap50 += f" ({_span(row.interval, 1, 100)})"
    if row.ratio_interval is not None:
        ratio += f" ({_span(row.ratio_interval, 2)})"
    return (
        row.label + (f" ({', '.join(notes)})" if notes else ""),
        _number(row.parameters, 2, 1e-6),
        _number(row.macs, 2, 1e-9),
        ap50,
        _number(row.AP, 1, 100),
        _number(row.AP_small, 1, 100),
        ratio,
        str(row.epochs),
        str(row.runs),
    )


def _sections(all_rows: Sequence[Row]) -> dict[tuple[str, int], list[Row]]:
    sections: dict[tuple[str, int], list[Row]] = {}
    for row in all_rows:
        sections.setdefault((row.dataset, row.image_size), []).append(row)
    return sections


def console_table(records: Iterable[Stored]) -> Table:
    """One table for the terminal, a section per data set."""
    table = Table(*_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for (dataset, size), section in _sections(rows(records)).items():
        table.add_section()
        table.add_row(f"[bold]{dataset}[/], {size} px")
        for row in section:
            table.add_row(*_cells(row))
    return table


def markdown(records: Iterable[Stored]) -> str:
    """`summary.md`: a table per data set, and how to read it."""
    lines = ["# Summary", ""]
    for (dataset, size), section in _sections(rows(records)).items():
        lines += [f"## {dataset}, {size} px", ""]
        lines.append("| " + " | ".join(_HEAD) + " |")
        lines.append("| --- |" + " ---: |" * (len(_HEAD) - 1))
        lines += ["| " + " | ".join(_cells(row)) + " |" for row in section]
        first = section[0]
        references = {row.reference for row in section if row.reference}
        lines += [
            "",
            f"Test images: {first.images // max(first.runs, 1)} a run. Scales: "
            f"{', '.join(sorted({r.scale for r in section}))}. Trained on: "
            f"{', '.join(sorted({r.machine for r in section}))}."
            + (f" Latency ratios are to {', '.join(sorted(references))}." if references else ""),
            "",
        ]
    lines += [
        "## How to read it",
        "",
        "- AP50, AP and AP small are COCO metrics in percent, all from one evaluator and from saved detections; "
        "areas are in pixels of the image as given.",
        "- In brackets behind AP50: of a single run, the 95% bootstrap interval over its test images; of several, "
        "the mean ∓ one standard deviation over folds and seeds. An interval over images says nothing of another seed: "
        "with one run, differences smaller than the intervals rank nothing.",
        "- GMACs are multiply-accumulates of one image at the size given, counted on the operators that really run; "
        "FLOPs are twice that. Operators that were not counted are listed in each profile record.",
        "- Latency ratio: end to end at batch 1, on trained weights and real images, timed in turns in one process; "
        "the median of paired ratios with its 95% interval. No absolute time is quoted for a CPU.",
        f"- A model whose AP50 is below {UNTRAINED_BELOW:.1f} is called untrained.",
        "",
        "Drawn by `python -m benchmarks.report` from the records under `results/`.",
        "",
    ]
    return "\n".join(lines)

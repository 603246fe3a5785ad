"""All records as one HTML page that needs no network: verdict, table, plots, differences, gallery.

What is in it: `web/` (structure, style, behaviour, ours) and the JavaScript of Vega-Lite, as vl-convert-python ships
it, the renderer that Altair inlines; plots are specified in `web/page.js`, because they follow what the reader picks.
The table is ours: no package of Python keeps Tabulator up, and itables brings DataTables and jQuery, 0.7 MB, where
sorting and filtering some hundred rows, whose cells are numbers with intervals, is 100 lines of `web/page.js`.

Every number is the tables' or the evaluator's; the page computes none but which detections a threshold lets through.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ablations.effects import Key
from benchmarks import extras, models
from benchmarks.cells import Cell
from benchmarks.datasets import catalogue
from benchmarks.errors import RequestError
from benchmarks.metrics.inspection import FROC_POINTS
from benchmarks.metrics.spread import RunMetric
from benchmarks.report import budget
from benchmarks.report.comparisons import beside, rankable, unpaired, unranked, verdict
from benchmarks.report.escaping import in_html, plain
from benchmarks.report.gallery import gallery
from benchmarks.report.rows import (
    ACCURACY,
    ERRORS,
    GAINS,
    Row,
    Spreads,
    Value,
    belonging,
    label_of,
    parameters_of,
    rows,
    samples_of,
    value_of,
)
from benchmarks.report.sizes import by_size
from benchmarks.report.tables import best, reference_label, sections
from benchmarks.store import RunRecord, Stored, scan, write_atomic

WEB = Path(__file__).with_name("web")
MOST_PAIRED = 30
"""Rows of a table of which every pair is compared."""
_SIZES = ("below 16 x 16 px", "below 0.1% of the image", "0.1% to 1%", "1% to 10%", "above 10%")
_IN_CARD = 8
_CARD = {"AP50": "AP50", "AP_small": "AP small"}
"""What a verdict's card shows of its first rows."""
PAIRED = {
    "AP50": "AP50",
    "AP_small": "AP small",
    "AP": "AP",
    "AP75": "AP75",
    "AP_medium": "AP medium",
    "AP_large": "AP large",
    "sizes.below 16 x 16 px.AP50": "AP50 below 16 x 16 px",
    "inspection.FROC.0.125": "recall at 1/8 false alarm an image",
    "inspection.FROC.1": "recall at 1 false alarm an image",
    "inspection.operating_point.precision": "precision",
    "inspection.operating_point.recall": "recall",
    "inspection.operating_point.escape": "escape (less is better)",
    "inspection.operating_point.overkill": "overkill (less is better)",
    "inspection.image_level.AUROC": "AUROC of images",
    "inspection.calibration.ECE": "calibration error (less is better)",
}
"""Metrics of which any two rows are compared."""
_LOG = 400
"""Most points of a training curve."""


def write_page(
    results: Path, out: Path, *, data_root: Path | None = None, with_images: bool = False, say: Callable[[str], None]
) -> int:
    """Write the page of all records below `results`; the number of records.

    Args:
        say: takes a line for each thing that a reader must know and the page cannot show.

    Raises:
        RequestError: the extra `html` is not installed.
        DataError: a record is damaged, or its detections are another's.
    """
    if (remedy := extras.missing("html")) is not None:
        raise RequestError(f"--html needs {remedy}")
    records = list(scan(results))
    studied = belonging(records, scan(results / budget.BUDGET), say)
    content = page_content(records, studied, data_root=data_root, with_images=with_images)
    if with_images:
        held = {s["dataset"] for s in content["sections"] if "images" in s["gallery"]}
        if kept := sorted(name for name in held if not catalogue.get(name, data_root).redistributable):
            say(f"the page holds images of {', '.join(kept)}, which may not be passed on")
    write_atomic(out, render(content).encode())
    return len(records)


def page_content(
    records: Sequence[Stored],
    studied: Sequence[Stored] = (),
    *,
    data_root: Path | None = None,
    with_images: bool = False,
) -> dict[str, Any]:
    """What the page shows, as JSON content. Shares lie in [0, 1]; a value is [mean, low, high, what that covers]."""
    known = {s.run.cell_id: s for s in (*studied, *records)}
    spreads = Spreads(s.run for s in known.values())
    courses = budget.courses(s.run for s in known.values())
    found = []
    all_rows = rows(records, studied)
    for title, section in sections(all_rows).items():
        groups = [[known[cell] for cell in row.cell_ids] for row in section]
        first = section[0]
        found.append(
            {
                "title": title,
                "dataset": first.dataset,
                "verdict": verdict(section),
                "best": {name: section.index(b) if (b := best(section, name)) else None for name in _CARD},
                "reference": _reference(section),
                "rows": [_row_content(row, group, spreads) for row, group in zip(section, groups, strict=True)],
                "pairs": _pairs(section, groups),
                "most_paired": MOST_PAIRED,
                "courses": [_course(c) for c in budget.of_table(courses, first.table)],
                "by_size": by_size(groups, data_root),
                "gallery": gallery(section, known, data_root, with_images=with_images),
            }
        )
    reference_of = {cell: row.reference for row in all_rows for cell in row.cell_ids}
    records_of = [_record(s, reference_of.get(s.run.cell_id)) for s in records]
    return _all_plain({"sections": found, "records": records_of, "errors": list(ERRORS), "paired": PAIRED})


def _reference(section: Sequence[Row]) -> str | None:
    """What ratios of the section are to; None where it has none."""
    timed = next((reference_label(row) for row in section if row.reference), None)
    trained = any(row.training_ratio is not None for row in section)
    return timed or (models.label(budget.ENDS[1], "default") if trained else None)


def _all_plain(value: Any) -> Any:
    """Names without what cannot be seen and steers; numbers as short as they may be."""
    if type(value) is int or value is None:  # most of it
        return value
    if isinstance(value, str):
        return value if value.startswith("data:image/") else plain(value)
    if isinstance(value, dict):
        return {plain(str(k)): _all_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return list(value) if {*map(type, value)} <= {int} else [_all_plain(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    return value


def _value(value: Value) -> list[Any] | None:
    """A value with its interval, which is left out where it has no width: it says nothing of other images."""
    if value.value is None:
        return None
    if value.interval is None or value.degenerate:
        return [value.value, None, None, "nothing"]
    return [value.value, *value.interval, value.covers]


def _row_content(row: Row, group: Sequence[Stored], spreads: Spreads) -> dict[str, Any]:
    runs = [s.run for s in group]
    of = partial(value_of, runs=runs, spreads=spreads)
    measured = [run.metrics for run in runs if run.metrics is not None]
    sizes = {name: [_value(of(f"sizes.{name}.AP50")), _boxes(measured, name)] for name in _SIZES}
    return {
        "title": row.title,
        "name": row.name,
        "family": models.get(models.split_name(row.name)[0]).family,
        "stage": row.stage,
        "scale": row.scale,
        "epochs": row.epochs,
        "folds": list(row.folds),
        "runs": row.runs,
        "images": row.images,
        "learning": row.learning,
        "diverged": row.diverged,
        "rankable": rankable(row),
        "pretrained": row.pretrained,
        "untrained": row.untrained,
        "never_found": dict(row.never_found),
        "parameters": row.parameters,
        "as_built": row.as_built,
        "macs": row.macs,
        "ratio": None if row.ratio is None else [row.ratio, *(row.ratio_interval or (None, None))],
        "training_ratio": row.training_ratio,
        "accuracy": {name: _value(row.accuracy[name]) for name in ACCURACY if row.accuracy[name].value is not None},
        "trainings": list(row.accuracy["AP50"].values),
        "sizes": {name: of_size for name, of_size in sizes.items() if of_size[0] is not None},
        "froc": _froc(of, "FROC"),
        "froc_good": _froc(of, "FROC_defect_free"),
        "classes": _classes(group, of),
        "errors": {kind: _error(row, group, kind) for kind in ERRORS if row.accuracy[GAINS[kind]].value is not None},
        "confusion": _confusion(group),
        "calibration": _calibration(group),
        "curve": _curve(group),
        "latency": _latency(group, row.reference),
    }


def _boxes(measured: Iterable[Any], size: str) -> int:
    return sum(m.sizes[size].boxes for m in measured if size in m.sizes)


def _froc(of: Callable[..., Value], name: str) -> list[Any]:
    """False positives per image, and recall with its interval, of each point that was measured."""
    points = ((point, _value(of(f"inspection.{name}.{point:g}"))) for point in FROC_POINTS)
    return [[point, *value[:3]] for point, value in points if value is not None]


def _classes(group: Sequence[Stored], of: Callable[..., Value]) -> dict[str, Any]:
    """By class: AP50, boxes of all runs, and precision in per mille at recalls 0 to 1, mean over folds of their means.

    The mean of a curve's precisions is AP50 of its class, here as in a record.
    """
    names = dict.fromkeys(n for s in group if s.run.metrics is not None for n in s.run.metrics.per_class)
    out = {}
    for name in names:
        by_fold: dict[int, list[Any]] = {}
        boxes, spans = 0, []
        for s in group:
            own = s.run.metrics.per_class.get(name) if s.run.metrics is not None else None
            if own is None:
                continue
            boxes += own.boxes
            spans.append(own.AP50_interval)
            if own.precision is not None:
                by_fold.setdefault(s.run.cell.fold, []).append(own.precision)
        curve = None
        if by_fold:
            mean = np.mean([np.mean(curves, axis=0) for curves in by_fold.values()], axis=0)
            curve = np.rint(1000 * mean).astype(int).tolist()
        value = _value(of(f"per_class.{name}.AP50"))
        if value is not None and len(spans) == 1 and spans[0] is not None and spans[0][0] != spans[0][1]:
            value = [value[0], *spans[0], "images only"]
        out[name] = [value, boxes, curve]
    return out


def _error(row: Row, group: Sequence[Stored], kind: str) -> list[Any]:
    """What AP50 would gain, with its interval, and how many errors of the kind there are in all runs."""
    inspections = [s.run.metrics.inspection for s in group if s.run.metrics is not None]
    counts = [i.errors[kind].count for i in inspections if i is not None and kind in i.errors]
    value = _value(row.accuracy[GAINS[kind]])
    assert value is not None
    return [*value[:3], sum(counts)]


def _confusion(group: Sequence[Stored]) -> dict[str, Any] | None:
    """Sum over runs, each at the threshold of its own operating point."""
    found = [
        s.run.metrics.inspection.confusion
        for s in group
        if s.run.metrics is not None and s.run.metrics.inspection is not None
    ]
    known = [c for c in found if c is not None]
    if not known:
        return None
    same = [c for c in known if c.labels == known[0].labels]
    return {
        "labels": list(same[0].labels),
        "matrix": np.sum([np.array(c.matrix) for c in same], axis=0).tolist(),
        "thresholds": [c.threshold for c in same],
    }


def _calibration(group: Sequence[Stored]) -> list[Any]:
    """Detections of all runs by score: their number, mean score and precision, of each bin that holds any."""
    kept = [s.run.metrics.inspection for s in group if s.run.metrics is not None]
    each = [i.calibration for i in kept if i is not None]
    if not each:
        return []
    counts = np.array([c.counts for c in each], dtype=float)
    sums = [
        (np.array([[v or 0.0 for v in getattr(c, name)] for c in each]) * counts).sum(axis=0)
        for name in ("confidence", "precision")
    ]
    total = counts.sum(axis=0)
    return [[int(n), a / n, b / n] for n, a, b in zip(total, *sums, strict=True) if n]


def _curve(group: Sequence[Stored]) -> list[Any]:
    """Epoch, sum of its losses (mean over runs, lowest, highest) and learning rate."""
    by_epoch: dict[int, list[Any]] = {}
    for s in group:
        for point in s.run.curve:
            by_epoch.setdefault(point.epoch, []).append((sum(point.losses.values()), point.lr))
    step = max(1, math.ceil(len(by_epoch) / _LOG))
    out = []
    for epoch, points in sorted(by_epoch.items())[::step]:
        losses = [loss for loss, _ in points]
        out.append([epoch + 1, float(np.mean(losses)), min(losses), max(losses), points[0][1]])
    return out


def _latency(group: Sequence[Stored], reference: str | None) -> dict[str, Any] | None:
    """Samples end to end, as multiples of their median: a time is quoted for no CPU. With the session's ratio.

    reference: of the row's table; what was timed beside another one is left out, as in the tables.
    """
    timed = (s.profile.latency for s in group if s.profile is not None)
    latency = next((one for one in timed if one is not None and one.reference == reference), None)
    if latency is None:
        return None
    median = latency.p50["end_to_end"]
    return {
        "samples": [round(v / median, 3) for v in latency.samples_ms.get("end_to_end", [])],
        "p90": latency.p90["end_to_end"] / median,
        "p99": latency.p99["end_to_end"] / median,
        "ratio": latency.ratio,
        "reference": models.label_of(latency.reference),
        "shares": {name: v / median for name, v in latency.p50.items() if name != "end_to_end"},
    }


def _pairs(section: Sequence[Row], groups: Sequence[Sequence[Stored]]) -> list[Any]:
    """Of each two rows: their places, why they are not ranked or not paired, and their differences in `PAIRED`."""
    out = []
    runs = [[s.run for s in group] for group in groups[:MOST_PAIRED]]
    samples = [{name: _arrays(samples_of(name, own)) for name in PAIRED} for own in runs]
    for i, a in enumerate(section[:MOST_PAIRED]):
        for j, b in enumerate(section[:i]):
            effects = [
                None if e is None else [e.mean, *(e.interval or (None, None)), e.p, e.runs, e.better, e.covers]
                for e in (beside(a, b, samples[i][name], samples[j][name]) for name in PAIRED)
            ]
            out.append([i, j, unpaired(a, b) or unranked(a, b), *effects])
    return out


def _arrays(samples: Mapping[Key, RunMetric]) -> dict[Key, RunMetric]:
    """The same, with draws as arrays: a row is in many pairs, and numpy would turn them into arrays for each."""
    changed: Any = [(key, one, np.asarray(one.draws)) for key, one in samples.items()]
    return {key: replace(one, draws=draws) for key, one, draws in changed}


def _course(course: budget.Course) -> dict[str, Any]:
    return {
        "label": course.label,
        "on": budget.SEVERAL if course.device_class == budget.SEVERAL else None,
        "fold": course.fold,
        "once": course.once,
        "points": [_length(course, epochs) for epochs in sorted({*course.values, *course.diverged})],
        "verdict": course.doubling.verdict if course.doubling is not None else "not told",
    }


def _length(course: budget.Course, epochs: int) -> list[Any]:
    """Epochs, mean AP50, of how many trainings, and how many more diverged."""
    values = course.values.get(epochs, ())
    mean = float(np.mean(values)) if values else None
    return [epochs, mean, len(values), course.diverged.get(epochs, 0)]


_RECORD = (
    "AP50",
    "AP",
    "AP_small",
    "inspection.FROC.1",
    "inspection.operating_point.escape",
    "inspection.operating_point.overkill",
)
"""Metrics of the table of records."""


def _record(stored: Stored, reference: str | None) -> dict[str, Any]:
    """A line of the table; a latency ratio that is to another model than `reference`, its table's, is left out."""
    run, profile = stored.run, stored.profile
    cell: Cell = run.cell
    metrics = run.metrics
    accuracy = {}
    for name in _RECORD:
        value = metrics.value(name) if metrics is not None else None
        if metrics is not None and value is not None:
            low, high = metrics.intervals.get(name, (None, None))
            accuracy[name] = [value, low, high] if low != high else [value, None, None]  # no width: it says nothing
    latency = profile.latency if profile is not None else None
    if latency is not None and latency.reference != reference:
        latency = None
    return {
        "id": run.cell_id,
        "dataset": cell.dataset,
        "model": label_of(cell),
        "name": cell.name,
        "scale": cell.scale,
        "pixels": cell.image_size,
        "fold": cell.fold,
        "seed": cell.seed,
        "epochs": cell.recipe.epochs,
        "status": run.status,
        "start": None if run.model is None else run.model.weights or "scratch",
        "parameters": parameters_of([stored])[0],
        "macs": profile.macs.macs if profile is not None and profile.macs is not None else None,
        "ratio": None if latency is None else [latency.ratio, *latency.ratio_interval],
        "minutes": None if run.training_seconds is None else run.training_seconds / 60,
        "device": run.provenance.device_name
        or run.provenance.cpu + (", portable arithmetic" if run.provenance.arithmetic else ""),
        "commit": _commit(run),
        "accuracy": accuracy,
    }


def _commit(run: RunRecord) -> str:
    """Which source made a record, as far as one can say."""
    commit = run.provenance.commit
    return "not known" if commit is None else commit[:8] + (" and changes" if run.provenance.unpublishable else "")


def render(content: Mapping[str, Any]) -> str:
    """The page; the same text for the same content and versions of libraries."""
    parts = {
        "style": (WEB / "page.css").read_text(encoding="utf-8"),
        "script": (WEB / "page.js").read_text(encoding="utf-8"),
        "verdicts": "".join(_verdict(section) for section in content["sections"]),
        "summary": html.escape(_summary(content)),
        "plots": _packed(_vega().encode()),
        "content": _packed(json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()),
    }
    template = (WEB / "page.html").read_text(encoding="utf-8")
    # In one pass, so that nothing that was put in is looked into.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _packed(content: bytes) -> str:
    """As base64 of gzip: a third of its size, and no letter of it can end a script element."""
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script; kept in the user's cache, because bundling takes seconds."""
    import platformdirs

    version = metadata.version("vl-convert-python")
    kept = platformdirs.user_cache_path("canet-bench") / f"vega-{version}.js"
    if kept.is_file():
        return kept.read_text(encoding="utf-8")
    import vl_convert

    whole: Callable[..., str] = vl_convert.javascript_bundle  # without a snippet: all three, on `window`
    bundle = whole(None)
    write_atomic(kept, bundle.encode())
    return bundle


def _verdict(section: Mapping[str, Any]) -> str:
    """A card: the sentences, and the first rows' values; the best in bold where models are ranked."""
    sentences = "".join(f"<li>{in_html(sentence)}</li>" for sentence in section["verdict"])
    lines = []
    for i, row in enumerate(section["rows"][:_IN_CARD]):
        shown = (_percent(row["accuracy"].get(name), bold=section["best"][name] == i) for name in _CARD)
        size = "–" if row["parameters"] is None else f"{row['parameters'] / 1e6:.2f}"
        lines.append(f"<tr><th scope=row>{in_html(row['title'])}</th>{''.join(shown)}<td>{size}</td></tr>")
    more = len(section["rows"]) - len(lines)
    head = "".join(f"<th scope=col>{label}</th>" for label in (*_CARD.values(), "params (M)"))
    return (
        f"<article class=card><h3>{in_html(section['title'])}</h3><ul>{sentences}</ul>"
        f'<div class=scroll tabindex=0 role=region aria-label="{in_html(section["title"])}"><table>'
        f"<thead><tr><th scope=col>model</th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
        + (f"<p class=help>And {more} more below.</p>" if more > 0 else "")
        + "</article>\n"
    )


def _percent(value: Sequence[Any] | None, *, bold: bool) -> str:
    if value is None:
        return "<td>–</td>"
    shown = f"{100 * value[0]:.1f}"
    shown = f"<strong>{shown}</strong>" if bold else shown
    if value[1] is not None:
        shown += f" <span class=ci>({100 * value[1]:.1f}–{100 * value[2]:.1f})</span>"
    return f"<td>{shown}</td>"


def _summary(content: Mapping[str, Any]) -> str:
    records = content["records"]
    status = Counter(record["status"] for record in records)
    rest = ", ".join(f"{n} {name}" for name, n in sorted(status.items()) if name != "ok")
    sets = len({record["dataset"] for record in records})
    return f"{len(records)} records of {sets} data set{'' if sets == 1 else 's'}" + (f", {rest}" if rest else "")

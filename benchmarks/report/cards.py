"""A model card for each trained model, from its records: Markdown with the metadata that hubs read. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks import models
from benchmarks.datasets import catalogue
from benchmarks.datasets.splits import SUPERSEDED
from benchmarks.errors import RequestError
from benchmarks.report import budget
from benchmarks.report.comparisons import rankable
from benchmarks.report.escaping import markdown as md
from benchmarks.report.escaping import plain
from benchmarks.report.papers import as_bibtex
from benchmarks.report.rows import HEADLINE, INSPECTION, Row, Spreads, belonging, rows, value_of
from benchmarks.report.tables import parameters_text, percent, recipe_text, reference_label
from benchmarks.store import Stored, scan, write_atomic

_LICENCES = {"yolo": "agpl-3.0"}
"""Of the code that a model needs, by extra; of all others apache-2.0."""
_LABELS = {"at 1": "recall at 1 false", "at 1 on good parts": "recall at 1 false on good parts"}
"""Of columns that follow another one in the summary's tables."""


def write_cards(results: Path, folder: Path, root: Path | None = None) -> list[Path]:
    """Write a card for every model with a trained record below `results`; their paths.

    root: where prepared sets lie, for the licences of those of the user's own.
    """
    records = list(scan(results))
    studied = belonging(records, scan(results / budget.BUDGET))
    known = {s.run.cell_id: s for s in (*studied, *records)}
    spreads = Spreads(s.run for s in known.values())
    written: list[Path] = []
    for row in rows(records, studied):
        if not row.runs:
            continue
        group = [known[cell] for cell in row.cell_ids]
        path = folder / f"{_file_name(row)}.md"
        while path in written:  # rows of one label, told apart by something else
            path = path.with_stem(f"{path.stem}-{group[0].run.cell_id[:8]}")
        write_atomic(path, card(row, group, spreads, root).encode())
        written.append(path)
    return written


def _file_name(row: Row) -> str:
    parts = (row.dataset, row.name, row.scale, f"{row.image_size}px", f"{row.epochs}epochs", row.device_class or "")
    return re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(part for part in parts if part))


def card(row: Row, group: Sequence[Stored], spreads: Spreads, root: Path | None = None) -> str:
    """The card of a row, from its records: what it is, on what it was trained, how good it is, what it is not."""
    lines = ["---", _metadata(row, root).rstrip(), "---", "", f"# {md(row.title)} on {md(row.dataset)}", ""]
    lines += [*_model(row, group), *_data(row, group, root), *_results(row, group, spreads), *_limits(row)]
    lines += [*_cost(row), *_trainings(group)]
    lines += ["## Cite", "", "```bibtex", as_bibtex([row]).rstrip(), "```", ""]
    return "\n".join(lines)


def _metadata(row: Row, root: Path | None) -> str:
    """YAML in the form of Hugging Face's model index."""
    found = [
        {"type": name, "name": label, "value": round(100 * value, 1)}
        for label, name in HEADLINE.items()
        if (value := row.accuracy[name].value) is not None
    ]
    data = {"name": plain(row.dataset), "type": plain(row.dataset), "split": row.split}
    content: dict[str, Any] = {
        **_licence(row, root),
        "pipeline_tag": "object-detection",
        "tags": ["defect-detection", "small-objects", "canet-bench"],
        "datasets": [plain(row.dataset)],
        "model-index": [
            {
                "name": plain(row.title),
                "results": [{"task": {"type": "object-detection"}, "dataset": data, "metrics": found}],
            }
        ],
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _licence(row: Row, root: Path | None) -> dict[str, str]:
    """Of the code, where the data set may be passed on; else "other", and why: weights may hold what images show."""
    code = _LICENCES.get(models.get(models.split_name(row.name)[0]).extra or "", "apache-2.0")
    try:
        passed_on = catalogue.get(row.dataset, root).redistributable
    except RequestError:
        passed_on = False
    return {"license": code} if passed_on else {"license": "other", "license_name": f"code {code}, data as it says"}


def _model(row: Row, group: Sequence[Stored]) -> list[str]:
    facts = {
        "model": f"`{row.name}`, {row.stage}, scale `{row.scale}`",
        "parameters": f"{parameters_text(row.parameters, row.as_built)} M",
        "input": _input(row),
        "training": f"{md(recipe_text(group[0]))}, {row.epochs} epochs",
        "device": md(", ".join(row.machines)),
    }
    return ["## Model", "", *(f"- {name}: {text}" for name, text in facts.items()), ""]


def _input(row: Row) -> str:
    longer = f"longer side {row.image_size} px"
    if (tile := row.request.get("tile")) is None:
        return longer
    return f"tiles of {tile} px of an image, each brought to {longer}; what they find is merged (docs/loading.md)"


def _data(row: Row, group: Sequence[Stored], root: Path | None) -> list[str]:
    try:
        licence = catalogue.get(row.dataset, root).licence
    except RequestError:  # a set of the user's own that is not prepared here
        licence = "not known here"
    folds = sorted({s.run.cell.fold for s in group})
    seeds = sorted({s.run.cell.seed for s in group})
    trained = {s.run.train_images for s in group} - {None}
    out = [
        "## Data",
        "",
        f"- {md(row.dataset)}; licence: {md(licence)}",
        f"- split `{row.split}`, folds {_listed(folds)}, seeds {_listed(seeds)}",
    ]
    if trained:
        out.append(f"- {_listed(sorted(n for n in trained if n))} training images a fold")
    images, boxes, small = (round(n / max(row.runs, 1)) for n in (row.images, row.boxes, row.boxes_small))
    tested = f"- tested on {images} images a run with {boxes} boxes, {small} of them small"
    tested += f", in {row.groups} groups of overlapping ones" if row.groups is not None else ""
    tested += f"; {row.good} of the images are good parts" if row.good is not None else ""
    return [*out, tested, ""]


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def _results(row: Row, group: Sequence[Stored], spreads: Spreads) -> list[str]:
    """Values in percent with intervals: headline, inspection, by size, by class."""
    out = ["## Results", "", "Percent; in brackets 95% intervals.", "", *_head("metric", "value", "interval over")]
    for label, name in (HEADLINE | INSPECTION).items():
        value = row.accuracy[name]
        if value.value is not None and not name.startswith("sizes."):  # those stand below
            over = "–" if value.covers == "nothing" else value.covers
            out.append(f"| {_LABELS.get(label, label)} | {percent(value)} | {over} |")
    runs = [s.run for s in group]
    measured = [run.metrics for run in runs if run.metrics is not None]
    sizes = dict.fromkeys(name for m in measured for name in m.sizes)
    found = {name: value_of(f"sizes.{name}.AP50", runs, spreads) for name in sizes}
    if any(value.value is not None for value in found.values()):
        out += ["", *_head("defect size", "AP50", "boxes, all trainings")]
        for name, value in found.items():
            boxes = sum(m.sizes[name].boxes for m in measured if name in m.sizes)
            out.append(f"| {name} | {percent(value)} | {boxes} |")
    out += ["", *_head("class", "AP50", "boxes, all trainings")]
    for name in dict.fromkeys(name for m in measured for name in m.per_class):
        boxes = sum(m.per_class[name].boxes for m in measured if name in m.per_class)
        out.append(f"| {md(name)} | {percent(value_of(f'per_class.{name}.AP50', runs, spreads))} | {boxes} |")
    return [*out, ""]


def _head(*labels: str) -> list[str]:
    return ["| " + " | ".join(labels) + " |", "| --- |" + " ---: |" * (len(labels) - 1)]


def _limits(row: Row) -> list[str]:
    """What must be known before it is used, or compared."""
    out = []
    if row.AP50 is None:
        out.append("No test image holds a defect that counts: it has no average precision.")
    if row.untrained:
        out.append(f"Untrained: AP50 is {percent(row.accuracy['AP50'])}.")
    if not rankable(row):
        gone = f" Diverged: {row.diverged} more." if row.diverged else ""
        out.append(f"Trainings: {row.runs}.{gone} Trained to the end: {row.learning}. It is ranked against nothing.")
    if row.accuracy["AP50"].covers == "images only":
        out.append("The intervals are over test images only; another training may lie outside.")
    out += [f"Not one box of {md(name)} is found, of {n}." for name, n in row.never_found.items()]
    if row.split in SUPERSEDED:
        out.append(f"{row.split}: {SUPERSEDED[row.split]}.")
    if row.dataset.startswith("synthetic_"):
        out.append("Its images are generated. It has seen no real surface, and is for comparing models.")
    out.append("Results hold for images like those that it was tested on; choose the score threshold on your own.")
    return ["## Limits", "", *(f"- {line}" for line in out), ""]


def _cost(row: Row) -> list[str]:
    out = []
    if row.macs is not None:
        out.append(f"{row.macs / 1e9:.2f} G multiply-accumulates an image at {row.image_size} px")
    if row.ratio is not None:
        low, high = row.ratio_interval or (row.ratio, row.ratio)
        out.append(f"latency {row.ratio:.2f} ({low:.2f}–{high:.2f}) times that of {md(reference_label(row))}")
    return ["## Cost", "", *(f"- {line}" for line in out), ""] if out else []


def _trainings(group: Sequence[Stored]) -> list[str]:
    out = ["## Trainings", "", *_head("cell", "fold", "seed", "AP50", "threshold", "status", "commit", "weights")]
    for s in group:
        run = s.run
        metrics = run.metrics
        AP50 = "–" if metrics is None or metrics.AP50 is None else f"{100 * metrics.AP50:.1f}"
        point = metrics.inspection.operating_point if metrics is not None and metrics.inspection is not None else None
        cells: Mapping[str, object] = {
            "cell": f"`{run.cell_id}`",
            "fold": run.cell.fold,
            "seed": run.cell.seed,
            "AP50": AP50,
            "threshold": "–" if point is None else f"{point.threshold:.3f}",
            "status": run.status.replace("_", " "),
            "commit": (f"`{run.provenance.commit[:8]}`" if run.provenance.commit else "–")
            + (" and changes" if run.provenance.commit and run.provenance.unpublishable else ""),
            "weights": f"`sha256:{run.weights_sha256[:16]}`" if run.weights_sha256 else "–",
        }
        out.append("| " + " | ".join(map(str, cells.values())) + " |")
    return [*out, "", "Threshold: of the best F1 on the validation images.", "", *_packages(group)]


def _packages(group: Sequence[Stored]) -> Iterator[str]:
    versions: dict[str, set[str]] = {}
    for s in group:
        for name, version in s.run.provenance.packages.items():
            versions.setdefault(name, set()).add(version)
    if versions:
        told = (f"{md(name)} {md(' and '.join(sorted(found)))}" for name, found in sorted(versions.items()))
        yield "Made with " + ", ".join(told) + "."
        yield ""

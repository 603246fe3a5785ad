"""Curves by defect size of a table's rows, from the detections beside their records: records hold none. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.datasets.splits import load_split
from benchmarks.detections import Detections
from benchmarks.metrics import MAX_DETECTIONS
from benchmarks.metrics.inspection import FROC_POINTS
from benchmarks.metrics.scene import Floats, Scene
from benchmarks.metrics.size_curves import SIZES, SizeCurves, size_curves
from benchmarks.report.gallery import has_detections, tested_on
from benchmarks.store import Stored, read_named

MOST_TRAININGS, MOST_READ = 5, 100
"""Of a row, in turns over its folds, and fewer of each where a table has many rows: at least one."""


def by_size(groups: Sequence[Sequence[Stored]], data_root: Path | None) -> dict[str, Any]:
    """What the page shows of rows, each a group of trainings, as JSON content; `{"absent": why}` where nothing is told.

    `rows` has for each group the number of trainings that were read, their folds and, by size, [boxes of all of these,
    precision in per mille at recalls 0 to 1, [false alarms, recall] per image, and per defect-free image], means over
    folds of their means; a size without a box and a group without detections are left out (the latter as None).

    Raises:
        DataError: detections are not those of their record.
    """
    most = max(1, min(MOST_TRAININGS, MOST_READ // max(len(groups), 1)))
    readable = [_in_turns([s for s in group if has_detections(s)])[:most] for group in groups]
    first = next((group[0] for group in readable if group), None)
    if first is None:
        return {"absent": "No detections lie beside these records."}
    if isinstance(known := tested_on(first.run, data_root), str):
        return {"absent": known}
    data, _ = known
    truths: dict[int, dict[str, Any]] = {}
    out: list[dict[str, Any] | None] = []
    for group in readable:
        found: dict[str, dict[int, list[SizeCurves]]] = {}
        for stored in group:
            cell, path = stored.run.cell, stored.paths.detections
            if cell.fold not in truths:
                truths[cell.fold] = data.coco(load_split(cell.dataset, cell.split, cell.fold, data_root).test)
            detections = Detections.loads(read_named(path, stored.run.detections_sha256), str(path))
            scene = Scene.of(truths[cell.fold], detections, data.classes, per_image=MAX_DETECTIONS)
            for size, curves in size_curves(scene).items():
                found.setdefault(size, {}).setdefault(cell.fold, []).append(curves)
        told = {size: _mean(found[size]) for size in SIZES if size in found}
        folds = sorted({stored.run.cell.fold for stored in group})
        out.append({"trainings": len(group), "folds": folds, "sizes": told} if group else None)
    return {"rows": out}


def _in_turns(group: Sequence[Stored]) -> list[Stored]:
    """The lowest seed of each fold, then the next of each: the first few are of as many folds as may be."""
    by_fold: dict[int, list[Stored]] = {}
    for stored in sorted(group, key=lambda s: s.run.cell.seed):
        by_fold.setdefault(stored.run.cell.fold, []).append(stored)
    turns = [(turn, fold, stored) for fold, own in by_fold.items() for turn, stored in enumerate(own)]
    return [stored for _, _, stored in sorted(turns, key=lambda one: one[:2])]


def _mean(by_fold: dict[int, list[SizeCurves]]) -> list[Any]:
    def over(name: str) -> Floats | None:
        folds = [[v for c in own if (v := getattr(c, name)) is not None] for own in by_fold.values()]
        kept = [np.mean(own, axis=0) for own in folds if own]
        return np.mean(kept, axis=0) if kept else None

    precision, clean = over("precision"), over("FROC_defect_free")
    assert precision is not None
    return [
        sum(c.boxes for own in by_fold.values() for c in own),
        np.rint(1000 * precision).astype(int).tolist(),
        _points(over("FROC")),
        _points(clean),
    ]


def _points(recalls: Floats | None) -> list[list[float]]:
    return [] if recalls is None else [[p, float(v)] for p, v in zip(FROC_POINTS, recalls, strict=True)]

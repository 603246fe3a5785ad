"""Precision over recall and FROC of boxes of one size, by COCO's bins, from saved detections. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from benchmarks.metrics import coco
from benchmarks.metrics.inspection import FROC_POINTS, Sweep
from benchmarks.metrics.resampling import COCO_RECALLS, draw
from benchmarks.metrics.scene import Bools, Floats, Found, Ints, Scene, match

SIZES = tuple(name for name in coco.BINS if name != "all")


@dataclass(frozen=True)
class SizeCurves:
    """Curves over the boxes of one bin, at IoU 0.5.

    precision: interpolated, at the recalls 0, 0.01, ..., 1, mean over the classes with such boxes, (101,). A detection
        is false where it finds nothing and its own area lies in the bin, as COCO has it: the mean height is COCO's AP50
        of the bin.
    FROC, FROC_defect_free: recall of these boxes at each of `FROC_POINTS` false alarms per image, and per defect-free
        image, (7,); false alarms of every size count, as they do for the operator. The latter is None where no image is
        free of defects.
    """

    boxes: int
    precision: Floats
    FROC: Floats
    FROC_defect_free: Floats | None


def size_curves(scene: Scene) -> dict[str, SizeCurves]:
    """Curves by size; a size without a box is left out. A box on the border of two bins is in both."""
    ends = [coco.BINS[name] for name in ("all", *SIZES)]
    outside, dt_outside = (
        np.array([(area < low) | (area > high) for low, high in ends]) for area in (scene.gt_area, scene.dt_area)
    )
    found = match(scene, [0.5], outside, dt_outside)
    everywhere, *sized = (Found(found.true[a, 0], found.ignored[a, 0], found.gt[a, 0]) for a in range(len(ends)))
    sweep = Sweep.of(scene, draw(scene.images, 0), everywhere)
    order = np.argsort(-scene.dt_scores, kind="stable")
    found_boxes = everywhere.gt[order][everywhere.true[order]]  # of the sweep's hits, in its order
    last_of_equals = np.searchsorted(-sweep.scores, -sweep.scores, side="right") - 1
    false = sweep.total - sweep.hits, sweep.total_defect_free
    images = np.array([float(scene.images)]), np.array([float(scene.good.sum())])
    out = {}
    for name, far, of_view in zip(SIZES, outside[1:], sized, strict=True):
        own = ~far & ~scene.gt_ignored
        if not own.any():
            continue
        hits = np.cumsum(own[found_boxes])[last_of_equals].astype(float)
        of_size = replace(sweep, hits=hits[:, None], boxes=np.array([float(own.sum())]))
        per_image, per_clean = (
            np.array([of_size.recall_at(alarms, n, limit)[0] for limit in FROC_POINTS])
            for alarms, n in zip(false, images, strict=True)
        )
        out[name] = SizeCurves(
            boxes=int(own.sum()),
            precision=_precision(scene, own, order, of_view),
            FROC=per_image,
            FROC_defect_free=per_clean if images[1][0] else None,
        )
    return out


def _precision(scene: Scene, own: Bools, order: Ints, found: Found) -> Floats:
    """Mean over the classes of `own` boxes of the interpolated precision at COCO's recalls, (101,)."""
    curves = []
    for k in np.unique(scene.gt_class[own]):
        mine = order[(scene.dt_class[order] == k) & ~found.ignored[order]]
        hits = np.cumsum(found.true[mine])
        recall = hits / np.count_nonzero(own & (scene.gt_class == k))
        precision = np.maximum.accumulate((hits / np.arange(1, len(mine) + 1))[::-1])[::-1]
        curves.append(np.append(precision, 0.0)[np.searchsorted(recall, COCO_RECALLS)])
    return np.mean(curves, axis=0)

"""COCO's own numbers, by faster-coco-eval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.metrics.scene import Floats, Scene

IOUS = np.linspace(0.5, 0.95, 10)
AT_50, AT_75 = 0, 5
SMALL, LARGE = 32.0**2, 96.0**2
BINS = {"all": (0.0, 1e10), "small": (0.0, SMALL), "medium": (SMALL, LARGE), "large": (LARGE, 1e10)}
"""Areas in pixels of the image as given, ends included, as COCO has them."""
MAX_DETECTIONS = (1, 10, 100)


@dataclass(frozen=True)
class CocoArrays:
    """precision (T thresholds, R recalls, K classes, A bins, M maxima of detections) and recall (T, K, A, M).

    NaN where there is no box.
    """

    precision: Floats
    recall: Floats


def accumulate(scene: Scene, bins: Sequence[tuple[float, float]] = tuple(BINS.values())) -> CocoArrays:
    """COCO's protocol over bins of area in pixels."""
    from faster_coco_eval import COCO, COCOeval_faster  # not at the top: it imports OpenCV where that is installed

    categories = [{"id": k + 1, "name": name} for k, name in enumerate(scene.classes)]
    images = [{"id": i + 1} for i in range(scene.images)]
    truth, found = COCO(), COCO()
    # The library knows one reason to ignore a box that is no crowd: its area lies outside of every bin.
    areas = np.where(scene.gt_difficult, 2 * BINS["all"][1], scene.gt_area)
    of_boxes = (scene.gt_image, scene.gt_class, scene.gt_boxes, areas, scene.gt_crowd)
    boxes = [
        {"id": j, "image_id": i + 1, "category_id": k + 1, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for j, (i, k, box, area, crowd) in enumerate(zip(*(c.tolist() for c in of_boxes), strict=True), start=1)
    ]
    of_detections = (scene.dt_image, scene.dt_class, scene.dt_boxes, scene.dt_area, scene.dt_scores)
    detections = [
        {"id": j, "image_id": i + 1, "category_id": k + 1, "bbox": box, "area": area, "score": score, "iscrowd": 0}
        for j, (i, k, box, area, score) in enumerate(zip(*(c.tolist() for c in of_detections), strict=True), start=1)
    ]
    for side, rows in ((truth, boxes), (found, detections)):
        side.dataset = {"info": {}, "images": images, "categories": categories, "annotations": rows}
        side.createIndex()
    run = COCOeval_faster(truth, found, "bbox", print_function=lambda *_: None)
    run.params.areaRng = [list(ends) for ends in bins]
    run.params.maxDets = list(MAX_DETECTIONS)
    run.evaluate()
    run.accumulate()
    precision, recall = (np.asarray(run.eval[name], dtype=float) for name in ("precision", "recall"))
    return CocoArrays(np.where(precision < 0, np.nan, precision), np.where(recall < 0, np.nan, recall))


def mean(values: Floats) -> float | None:
    """Mean over what is defined, as COCO's summary takes it."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else None

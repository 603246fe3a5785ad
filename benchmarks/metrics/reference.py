"""COCO's numbers by pycocotools, the reference implementation, as its own documentation drives it (extra `test`)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.detections import Detections
from benchmarks.errors import RequestError
from benchmarks.metrics import MAX_DETECTIONS
from benchmarks.metrics.scene import Scene

NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_1", "AR_10", "AR_100")
_OUT_OF_ALL_BINS = 1e11
"""An area that no bin has: the one reason but `iscrowd` for which pycocotools ignores a box."""


def coco_numbers(truth: Mapping[str, Any], found: Detections, classes: Sequence[str]) -> tuple[float | None, ...]:
    """The numbers of NAMES, in [0, 1]; None where there is no box. Of each image the best 100 detections.

    RequestError where pycocotools is not installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise RequestError("--evaluator pycocotools needs it: python -m pip install pycocotools") from None
    scene = Scene.of(truth, found, classes, per_image=MAX_DETECTIONS)
    columns = (scene.dt_image, scene.dt_class, scene.dt_boxes, scene.dt_scores)
    results = [
        {"image_id": int(scene.image_ids[i]), "category_id": int(k) + 1, "bbox": box.tolist(), "score": float(score)}
        for i, k, box, score in zip(*columns, strict=True)
    ]
    boxes = [{**a, "area": _OUT_OF_ALL_BINS} if a.get("ignore") else a for a in truth["annotations"]]
    with contextlib.redirect_stdout(io.StringIO()):
        known, detected = COCO(), COCO()
        known.dataset = {**truth, "annotations": boxes, "info": {}}
        known.createIndex()
        if results:
            detected = known.loadRes(results)
        else:
            detected.dataset = {**truth, "annotations": []}
            detected.createIndex()
        run = COCOeval(known, detected, "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return tuple(None if value < 0 else float(value) for value in run.stats[:9])

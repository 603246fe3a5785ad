"""COCO metrics from saved detections. Torch-free; pycocotools does the matching.

Source: the COCO detection protocol (101 recall points, IoU 0.50:0.05:0.95, best 100 detections per
image, areas in pixels of the image as given: small below 32**2, large above 96**2).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.errors import DataError
from benchmarks.store import ClassMetrics, Detections, Metrics

EVALUATOR_VERSION = 1
"""Raise it when the same detections give other numbers."""

RESAMPLES = 1000
MAX_DETECTIONS = 100
_SMALL, _LARGE = 32.0**2, 96.0**2


def evaluate(truth: dict[str, Any], detections: Detections, classes: Sequence[str]) -> Metrics:
    """Metrics of detections against COCO ground truth.

    Args:
        truth: COCO dict with `images` (file_name, id), `annotations` (bbox x y w h) and `categories`
            with ids 1..K in the order of `classes`.
        detections: of exactly the images of `truth`, in any order.
        classes: the K class names.

    Returns:
        Metrics in [0, 1]; `AP50_interval` is a 95% bootstrap interval over images.

    Raises:
        DataError: the images are not the same ones.
    """
    by_name = {image["file_name"]: int(image["id"]) for image in truth["images"]}
    if set(by_name) != set(detections.file_names) or len(by_name) != len(detections.file_names):
        odd = sorted(set(by_name) ^ set(detections.file_names))[:1] or ["a duplicate"]
        raise DataError(f"detections and ground truth are of different images, for example {odd[0]!r}")
    annotations = truth["annotations"]
    areas = np.array([a["area"] for a in annotations], dtype=float)
    counts = {
        "images": len(by_name),
        "boxes": len(annotations),
        "boxes_small": int((areas < _SMALL).sum()),
        "boxes_medium": int(((areas >= _SMALL) & (areas < _LARGE)).sum()),
        "boxes_large": int((areas >= _LARGE).sum()),
    }
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        gt = COCO()
        gt.dataset = {**truth, "info": {}}
        gt.createIndex()
        dt = COCO()
        dt.dataset = {
            "images": truth["images"],
            "categories": truth["categories"],
            "annotations": _annotations(detections, by_name),
        }
        dt.createIndex()
        run = COCOeval(gt, dt, "bbox")
        run.evaluate()
        run.accumulate()
    # [T IoU thresholds, R recalls, K classes, A areas, M max detections]; -1 where undefined
    precision, recall = run.eval["precision"], run.eval["recall"]
    iou = {t: int(np.argmin(np.abs(run.params.iouThrs - t))) for t in (0.5, 0.75)}
    per_class = {}
    for k, name in enumerate(classes):
        per_class[name] = ClassMetrics(
            AP=_mean(precision[:, :, k, 0, -1]),
            AP50=_mean(precision[iou[0.5], :, k, 0, -1]),
            boxes=sum(a["category_id"] == k + 1 for a in annotations),
        )
    return Metrics(
        AP=_mean(precision[:, :, :, 0, -1]),
        AP50=_mean(precision[iou[0.5], :, :, 0, -1]),
        AP75=_mean(precision[iou[0.75], :, :, 0, -1]),
        AP_small=_mean(precision[:, :, :, 1, -1]),
        AP_medium=_mean(precision[:, :, :, 2, -1]),
        AP_large=_mean(precision[:, :, :, 3, -1]),
        AR_100=_mean(recall[:, :, 0, -1]),
        AP50_interval=_interval(run, iou[0.5]),
        per_class=per_class,
        **counts,
    )


def _annotations(detections: Detections, by_name: dict[str, int]) -> list[dict[str, Any]]:
    """Detections as COCO results, best first within an image (ties keep their order)."""
    out: list[dict[str, Any]] = []
    for i, name in enumerate(detections.file_names):
        rows = slice(int(detections.offsets[i]), int(detections.offsets[i + 1]))
        boxes, scores = detections.boxes[rows].astype(float), detections.scores[rows].astype(float)
        labels = detections.labels[rows]
        for j in np.argsort(-scores, kind="stable")[:MAX_DETECTIONS]:
            x1, y1, x2, y2 = boxes[j]
            width, height = float(x2 - x1), float(y2 - y1)
            out.append(
                {
                    "id": len(out) + 1,
                    "image_id": by_name[name],
                    "category_id": int(labels[j]),
                    "bbox": [float(x1), float(y1), width, height],
                    "area": width * height,
                    "score": float(scores[j]),
                    "iscrowd": 0,
                }
            )
    return out


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    """Mean over what is defined, as pycocotools' summary does."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


def _interval(run: COCOeval, t: int) -> tuple[float, float] | None:
    """95% percentile bootstrap interval of AP at IoU threshold index `t`, resampling images.

    Images keep their matches, so a resample only reweights detections and boxes: the precision
    and recall of 1,000 resamples come from one weighted cumulative sum per class.
    """
    images = {image: i for i, image in enumerate(run.params.imgIds)}
    n = len(images)
    if n < 2:
        return None
    draws = np.random.default_rng(0).integers(0, n, size=(RESAMPLES, n))
    weights = np.stack([np.bincount(d, minlength=n) for d in draws]).astype(np.float32)  # (B, n)
    area = run.params.areaRng[0]
    per_class = []
    for k in run.params.catIds:
        scores, matched, image, boxes = [], [], [], np.zeros(n, dtype=np.float32)
        for e in run.evalImgs:
            if e is None or e["category_id"] != k or e["aRng"] != area:
                continue
            i = images[e["image_id"]]
            boxes[i] += np.count_nonzero(e["gtIgnore"] == 0)
            keep = ~e["dtIgnore"][t].astype(bool)
            scores.append(np.asarray(e["dtScores"])[keep])
            matched.append(e["dtMatches"][t][keep] > 0)
            image.append(np.full(int(keep.sum()), i))
        positives = weights @ boxes  # (B,)
        if not boxes.any():
            continue
        order = np.argsort(-np.concatenate(scores), kind="mergesort")
        true = np.concatenate(matched)[order]
        image_of = np.concatenate(image)[order].astype(int)
        per_class.append(_weighted_ap(weights, true, image_of, positives))
    if not per_class:
        return None
    ap = np.stack(per_class)  # (classes, B)
    # A resample without a box of a class leaves that class out, as the metric itself does.
    means = np.nanmean(ap[:, ~np.isnan(ap).all(axis=0)], axis=0)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _weighted_ap(
    weights: npt.NDArray[np.float32],
    true: npt.NDArray[np.bool_],
    image_of: npt.NDArray[np.int64],
    positives: npt.NDArray[np.float32],
) -> npt.NDArray[np.float64]:
    """101-point AP of each resample, (B,); NaN where a resample holds no box of the class."""
    recalls = np.linspace(0, 1, 101)
    out = np.full(len(weights), np.nan)
    hit_rows = np.flatnonzero(true)
    for b in range(len(weights)):
        if positives[b] == 0:
            continue
        if not len(hit_rows):
            out[b] = 0.0
            continue
        w = weights[b][image_of]
        total = np.cumsum(w)[hit_rows]
        hits = np.cumsum(w[hit_rows])
        present = total > 0
        # Precision is highest right at a hit, so only hits matter for the envelope.
        precision = hits[present] / total[present]
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(hits[present] / positives[b], recalls - 1e-9, side="left")
        out[b] = (
            np.where(at < len(envelope), envelope[np.minimum(at, len(envelope) - 1)], 0).mean()
            if len(envelope)
            else 0.0
        )
    return out

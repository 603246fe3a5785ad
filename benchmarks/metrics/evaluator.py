"""Metrics from saved detections. Torch-free.

COCO's numbers come from faster-coco-eval. The others, and the bootstrap intervals of all, come from the matches of
`scene`, whose AP at weight one equals COCO's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.detections import Detections
from benchmarks.metrics import MAX_DETECTIONS, coco, inspection, tide
from benchmarks.metrics.resampling import (
    Weights,
    all_points,
    average_precision,
    draw,
    mean,
    point,
    sized_average_precision,
    voc_rule,
)
from benchmarks.metrics.scene import Bools, Floats, Found, Ints, Scene, match, match_all, match_voc
from benchmarks.metrics.spread import FEW_BOXES, LEAST_BOXES, LEAST_GROUPS, RATE, SHARE, effective, exact, over_images
from benchmarks.results import ClassMetrics, Inspection, Interval, Metrics, SizeMetrics

RESAMPLES = 1000
DRAWN = ("AP50", "AP", "AP_small")
"""Metrics whose resamples a record keeps, so that models can be compared on the same images."""
TINY = 16.0**2
RELATIVE_BINS = {
    "below 0.1% of the image": (0.0, 1e-3),
    "0.1% to 1%": (1e-3, 1e-2),
    "1% to 10%": (1e-2, 1e-1),
    "above 10%": (1e-1, np.inf),
}
"""The area of the box, not of a mask in it, over image area; an upper end belongs to the next bin."""
DEEP_PCB_IOU = float(np.nextafter(0.33, 1))
"""DeepPCB asks for more than 0.33."""


def evaluate(
    truth: dict[str, Any],
    detections: Detections,
    classes: Sequence[str],
    *,
    validation: tuple[dict[str, Any], Detections] | None = None,
    groups: Mapping[str, int] | None = None,
    resamples: int = RESAMPLES,
) -> Metrics:
    """Metrics of detections against COCO ground truth.

    Args:
        truth: COCO dict with `images` (file_name, id, width, height), `annotations` (bbox x y w h, area) and
            `categories` with ids 1..K in the order of `classes`.
        detections: of exactly the images of `truth`, in any order; the best 100 of each image are evaluated.
        classes: the K class names.
        validation: the same of the images on which the operating point is chosen.
        groups: group of each image by its file name, of images that show the same place; without, each is its own.

    Returns:
        Metrics in [0, 1], with 95% intervals over images, of one training; see `benchmarks.metrics.spread`.

    Raises:
        DataError: the images are not the same ones.
    """
    scene = Scene.of(truth, detections, classes, per_image=MAX_DETECTIONS)
    group = _groups(truth, groups)
    number = int(group.max(initial=-1)) + 1
    boxes_of_groups = np.bincount(group[scene.gt_image[~scene.gt_ignored]], minlength=number)
    alike = effective(boxes_of_groups) if boxes_of_groups.any() else float(number)
    weights = draw(group, resamples)
    found = match_all(scene, 0.5)
    resampled: dict[str, Floats] = {}

    def note(name: str, values: Floats) -> float | None:
        resampled[name] = values
        return point(values)

    arrays = coco.accumulate(scene)
    precision, recall = arrays.precision[..., -1], arrays.recall[..., -1]
    sizes, views = _views(scene)
    ap, ar = _sized(scene, weights, *views)  # (A, K, T, B)
    names = ("AP", "AP_small", "AP_medium", "AP_large")
    real = scene.gt_area[~scene.gt_ignored]
    within = [int(((real >= low) & (real <= high)).sum()) for low, high in coco.BINS.values()]
    for a, name in enumerate(names):
        if within[a] >= LEAST_BOXES:
            note(name, mean(ap[a].mean(axis=1)))
    AP50 = mean(ap[0, :, coco.AT_50])
    note("AP50", AP50)
    note("AP75", mean(ap[0, :, coco.AT_75]))
    note("AR_100", mean(ar[0].mean(axis=1)))
    in_bins = {}
    for a, (name, boxes) in enumerate(sizes.items(), start=len(names)):
        both = {"AP": mean(ap[a].mean(axis=1)), "AP50": mean(ap[a, :, coco.AT_50])}
        if boxes >= LEAST_BOXES:
            resampled |= {f"sizes.{name}.{which}": values for which, values in both.items()}
        in_bins[name] = SizeMetrics(**{which: point(values) for which, values in both.items()}, boxes=boxes)
    per_class = {}
    for k, name in enumerate(classes):
        by_size = {n: coco.mean(precision[:, :, k, a]) for a, n in enumerate(names)}
        at_50 = precision[coco.AT_50, :, k, 0]
        of_class = int(((scene.gt_class == k) & ~scene.gt_ignored).sum())
        span = over_images(ap[0, k, coco.AT_50], number, alike) if of_class >= LEAST_BOXES else None
        per_class[name] = ClassMetrics(
            **by_size,
            AP50=coco.mean(at_50),
            AP75=coco.mean(precision[coco.AT_75, :, k, 0]),
            AR_100=coco.mean(recall[:, k, 0]),
            boxes=of_class,
            AP50_interval=None if span is None else span[0],
            precision=None if np.isnan(at_50).any() else tuple(np.round(at_50, 4).tolist()),
        )
    voc = _voc(scene, weights, match_voc(scene, 0.5))
    plus1 = _voc(scene, weights, match_voc(scene, 0.5, plus=1.0))
    loose = match_all(scene, DEEP_PCB_IOU)
    other = None if validation is None else Scene.of(*validation, classes, per_image=MAX_DETECTIONS)
    loose_at = None if other is None else _best_threshold(other, DEEP_PCB_IOU)
    seen = _inspect(scene, weights, found, other, group, resampled)
    measured = dict(
        AP=coco.mean(precision[:, :, :, 0]),
        AP50=coco.mean(precision[coco.AT_50, :, :, 0]),
        AP75=coco.mean(precision[coco.AT_75, :, :, 0]),
        AP_small=coco.mean(precision[:, :, :, 1]),
        AP_medium=coco.mean(precision[:, :, :, 2]),
        AP_large=coco.mean(precision[:, :, :, 3]),
        AR_1=coco.mean(arrays.recall[:, :, 0, 0]),
        AR_10=coco.mean(arrays.recall[:, :, 0, 1]),
        AR_100=coco.mean(recall[:, :, 0]),
        VOC07_AP50=note("VOC07_AP50", voc["VOC07"]),
        VOC07_AP50_plus1=note("VOC07_AP50_plus1", plus1["VOC07"]),
        VOC12_AP50=note("VOC12_AP50", voc["VOC12"]),
        DeepPCB_AP=note("DeepPCB_AP", _voc(scene, weights, loose)["VOC12"]),
        DeepPCB_F=note("DeepPCB_F", inspection.Sweep.of(scene, weights, loose).F1()),
        DeepPCB_F_operating=None
        if loose_at is None
        else note("DeepPCB_F_operating", inspection.rates(scene, weights, loose, loose_at)["F1"]),
        images=scene.images,
        boxes=len(real),
        boxes_small=within[1],
        boxes_medium=within[2],
        boxes_large=within[3],
        sizes=in_bins,
        per_class=per_class,
        inspection=seen,
    )
    alone = {"escape": seen.effective_defective or 0.0, "overkill": seen.effective_defect_free or 0.0}
    intervals, deviations = _spans(resampled, alone, len(real), number, alike)
    draws = {
        name: tuple(np.round(values[1:], 4).tolist())
        for name in DRAWN
        if number >= LEAST_GROUPS and (values := resampled.get(name)) is not None and not np.isnan(values).any()
    }
    return Metrics.model_validate(
        {
            **measured,
            "intervals": intervals,
            "standard_errors": deviations,
            "draws": draws,
            "groups": number,
            "effective_groups": alike,
        }
    )


def _groups(truth: Mapping[str, Any], groups: Mapping[str, int] | None) -> Ints:
    """Number of the group of each image, from 0, in the order of the scene."""
    images = sorted(truth["images"], key=lambda image: int(image["id"]))
    if groups is None:
        return np.arange(len(images))
    return np.unique([groups[image["file_name"]] for image in images], return_inverse=True)[1].astype(np.int64)


def _spans(
    resampled: Mapping[str, Floats], alone: Mapping[str, float], boxes: int, groups: int, alike: float
) -> tuple[dict[str, Interval], dict[str, float]]:
    """Intervals over images by name, those of counts exact, and standard errors of the others.

    Args:
        alone: effective number of the groups whose images escape and overkill are shares of.
        alike: the same of the groups that `boxes` lie in.
    """
    intervals: dict[str, Interval] = {}
    errors: dict[str, float] = {}
    for name, values in sorted(resampled.items()):
        what = name.rpartition(".")[2]
        counted = alone.get(what) if "operating_point" in name else None
        if counted is None and boxes < FEW_BOXES and (what == "recall" or "FROC" in name):
            counted = alike
        value = point(values)
        if counted is not None:
            if value is not None and (exactly := exact(value, math.floor(counted))) is not None:
                intervals[name] = exactly
            continue
        span = over_images(values, groups, alike, RATE if what == "false_positives_per_image" else SHARE)
        if span is not None:
            intervals[name], errors[name] = span
    return intervals, errors


def _views(scene: Scene) -> tuple[dict[str, int], tuple[Bools, Bools]]:
    """COCO's four bins and then ours: boxes of each of ours by name, and what lies outside of each bin, see `match`."""
    areas = scene.gt_boxes[:, 2] * scene.gt_boxes[:, 3], scene.dt_area
    relative = areas[0] / scene.image_areas[scene.gt_image], areas[1] / scene.image_areas[scene.dt_image]
    outside = [
        [(area < low) | (area > high) for area in (scene.gt_area, scene.dt_area)] for low, high in coco.BINS.values()
    ]
    outside.append([area >= TINY for area in areas])
    outside += [[(area < low) | (area >= high) for area in relative] for low, high in RELATIVE_BINS.values()]
    ours = [~gt & ~scene.gt_ignored for gt, _ in outside[len(coco.BINS) :]]
    sizes = {name: int(which.sum()) for name, which in zip(("below 16 x 16 px", *RELATIVE_BINS), ours, strict=True)}
    return sizes, (np.array([gt for gt, _ in outside]), np.array([dt for _, dt in outside]))


def _sized(scene: Scene, weights: Weights, outside: Bools, dt_outside: Bools) -> tuple[Floats, Floats]:
    """AP and recall of views, classes, thresholds and resamples, two arrays of (A, K, T, B)."""
    found = match(scene, coco.IOUS.tolist(), outside, dt_outside)
    each = [sized_average_precision(scene, weights, found, outside, dt_outside, k) for k in range(len(scene.classes))]
    return np.stack([ap for ap, _ in each], axis=1), np.stack([ar for _, ar in each], axis=1)


def _voc(scene: Scene, weights: Weights, found: Found) -> dict[str, Floats]:
    """VOC's two averages over classes, (B,)."""
    rules = {"VOC07": voc_rule, "VOC12": all_points}
    each = []
    for k in range(len(scene.classes)):
        mine = scene.dt_class == k
        columns = (scene.dt_image[mine], scene.dt_scores[mine], found.true[mine], found.ignored[mine])
        each.append(average_precision(weights, *columns, scene.boxes_of(k), rules))
    return {name: mean(np.array([made[name] for made in each])) for name in rules}


def _best_threshold(scene: Scene, iou: float) -> float | None:
    """The score at which F1 is highest."""
    return inspection.Sweep.of(scene, draw(scene.images, 0), match_all(scene, iou)).best_threshold()


def _inspect(
    scene: Scene,
    weights: Weights,
    found: Found,
    validation: Scene | None,
    group: Ints,
    resampled: dict[str, Floats],
) -> Inspection:
    """Everything in `Metrics.inspection`; adds to `resampled`."""
    sweep = inspection.Sweep.of(scene, weights, found)
    froc, froc_clean, recalls = inspection.froc(scene, weights, sweep)
    resampled |= recalls
    chosen = None if validation is None else _best_threshold(validation, 0.5)
    best = sweep.best_threshold()
    point_chosen = point_best = None
    if chosen is not None:
        point_chosen, spread = inspection.operating_point(scene, weights, found, chosen, "validation")
        resampled |= {f"inspection.operating_point.{name}": values for name, values in spread.items()}
    if best is not None:
        point_best, _ = inspection.operating_point(scene, weights, found, best, "test")
        resampled["inspection.best_F1.F1"] = sweep.F1()
    curve, auroc = inspection.image_level(scene, weights, found)
    calibration, ece = inspection.calibration(scene, weights, found)
    resampled |= {"inspection.image_level.AUROC": auroc, "inspection.calibration.ECE": ece}
    threshold = chosen if chosen is not None else best
    return Inspection(
        defect_free_images=int(scene.good.sum()),
        defective_images=int(scene.defective.sum()),
        effective_defect_free=effective(np.bincount(group[scene.good])),
        effective_defective=effective(np.bincount(group[scene.defective])),
        FROC=froc,
        FROC_defect_free=froc_clean,
        operating_point=point_chosen,
        best_F1=point_best,
        image_level=curve,
        confusion=inspection.confusion(scene, threshold) if threshold is not None else None,
        calibration=calibration,
        errors=tide.split(scene),
    )

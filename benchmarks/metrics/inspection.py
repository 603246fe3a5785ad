"""What an inspection line asks: how many false alarms a recall costs, what escapes, whether scores can be believed.

Hits are COCO's at IoU 0.5, classes told apart, unless said otherwise. Rates over images look only at whether an image
has a detection, wherever it lies: that decides whether a part is taken out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.metrics.resampling import Ranking, Weights, point, ratio, weighted
from benchmarks.metrics.scene import Bools, Floats, Found, Ints, Scene
from benchmarks.results import Calibration, Confusion, ImageCurve, OperatingPoint

FROC_POINTS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives per image: those of LUNA16 (Setio et al., 2017)."""
CURVE_THRESHOLDS = tuple(round(i / 20, 2) for i in range(20))
CALIBRATION_BINS = 10
MISSED_IOU = 0.5


@dataclass(frozen=True)
class Sweep:
    """All thresholds at once, over every class: at each score of a hit, from high to low, ties together.

    scores (H,); hits and total (H, B): weights of the true and of all counted detections of at least that score.
    """

    scores: Floats
    hits: Floats
    total: Floats
    total_defect_free: Floats
    boxes: Floats

    @classmethod
    def of(cls, scene: Scene, weights: Weights, found: Found) -> Sweep:
        """Args: found: of (N,)."""
        ranking = Ranking(weights, scene.dt_image, scene.dt_scores)
        true, counted = found.true[ranking.order], ~found.ignored[ranking.order]
        rows = np.flatnonzero(true)
        clean = scene.good[ranking.image]
        boxes = np.bincount(scene.gt_image[~scene.gt_ignored], minlength=scene.images)
        return cls(
            scores=ranking.scores[rows],
            hits=ranking.total(rows, true, ties=True),
            total=ranking.total(rows, counted, ties=True),
            total_defect_free=ranking.total(rows, counted & clean, ties=True),
            boxes=weighted(boxes.astype(float), weights),
        )

    def F1(self) -> Floats:
        """Best F1 over all thresholds, (B,)."""
        if not self.boxes.any():
            return np.full(len(self.boxes), np.nan)
        best = np.max(ratio(2 * self.hits, self.total + self.boxes), axis=0, initial=0.0)
        return np.where(self.boxes > 0, best, np.nan)

    def best_threshold(self) -> float | None:
        """The score at which F1 of the sample itself is highest, the highest of equals; None without a hit."""
        if not len(self.scores):
            return None
        return float(self.scores[np.argmax(2 * self.hits[:, 0] / (self.total[:, 0] + self.boxes[0]))])

    def recall_at(self, false_positives: Floats, images: Floats, limit: float) -> Floats:
        """Highest recall with at most `limit` of `false_positives` (H, B) per image, of which there are (B,)."""
        if not len(self.scores):
            return np.where(images > 0, ratio(np.zeros_like(self.boxes), self.boxes), np.nan)
        allowed = np.count_nonzero(false_positives <= limit * images + 1e-6, axis=0)
        hits = np.concatenate([np.zeros((1, self.hits.shape[1])), self.hits])
        found = ratio(np.take_along_axis(hits, allowed[None], axis=0)[0], self.boxes)
        return np.where(images > 0, found, np.nan)


def froc(
    scene: Scene, weights: Weights, sweep: Sweep
) -> tuple[dict[str, float | None], dict[str, float | None] | None, dict[str, Floats]]:
    """Recall at fixed false positives per image, per defect-free image, and the resamples of both."""
    resampled = {}
    sides = []
    clean = weighted(scene.good, weights)
    for name, false, images in (
        ("FROC", sweep.total - sweep.hits, np.sum(weights, axis=0)),
        ("FROC_defect_free", sweep.total_defect_free, clean),
    ):
        recalls = {}
        for limit in FROC_POINTS:
            values = sweep.recall_at(false, images.astype(float), limit)
            recalls[f"{limit:g}"] = point(values)
            resampled[f"inspection.{name}.{limit:g}"] = values
        sides.append(recalls)
    return sides[0], sides[1] if clean[0] else None, resampled


def operating_point(
    scene: Scene, weights: Weights, found: Found, threshold: float, chosen_on: str
) -> tuple[OperatingPoint, dict[str, Floats]]:
    """What happens when all detections of at least `threshold` are reported, and the resamples by name."""
    at = rates(scene, weights, found, threshold)
    values = {name: point(value) for name, value in at.items()}
    return OperatingPoint.model_validate({"threshold": threshold, "chosen_on": chosen_on, **values}), at


def rates(scene: Scene, weights: Weights, found: Found, threshold: float) -> dict[str, Floats]:
    """The rates of `OperatingPoint` at a threshold, (B,) each."""
    kept = (scene.dt_scores >= threshold) & ~found.ignored
    n = scene.images
    hits, reported, boxes = (
        np.bincount(image, minlength=n).astype(float)
        for image in (scene.dt_image[kept & found.true], scene.dt_image[kept], scene.gt_image[~scene.gt_ignored])
    )
    defective, good, alarm = scene.defective, scene.good, reported > 0

    def over(values: Floats | Bools) -> Floats:
        return weighted(values, weights)

    return {
        "precision": ratio(over(hits), over(reported)),
        "recall": ratio(over(hits), over(boxes)),
        "F1": ratio(2 * over(hits), over(reported) + over(boxes)),
        "false_positives_per_image": ratio(over(reported - hits), over(np.ones(n))),
        "escape": ratio(over(defective & ~alarm), over(defective)),
        "overkill": ratio(over(good & alarm), over(good)),
    }


def image_level(scene: Scene, weights: Weights, found: Found) -> tuple[ImageCurve, Floats]:
    """Escape and overkill over thresholds, and the AUROC of the images' highest scores, with its resamples."""
    score = np.full(scene.images, -1.0)  # of an image without a detection
    counted = ~found.ignored
    np.maximum.at(score, scene.dt_image[counted], scene.dt_scores[counted])
    bad, good = scene.defective, scene.good
    escape = tuple(float(np.mean(score[bad] < t)) for t in CURVE_THRESHOLDS) if bad.any() else None
    overkill = tuple(float(np.mean(score[good] >= t)) for t in CURVE_THRESHOLDS) if good.any() else None
    areas = _auroc(score, good, bad, weights)
    curve = ImageCurve(thresholds=CURVE_THRESHOLDS, escape=escape, overkill=overkill, AUROC=point(areas))
    return curve, areas


def _auroc(score: Floats, negative: Bools, positive: Bools, weights: Weights) -> Floats:
    """Share of pairs of a positive and a negative image in which the positive one scores higher; ties count half."""
    level = np.unique(score, return_inverse=True)[1]
    levels = int(level.max(initial=-1)) + 1
    by_level = np.zeros((2, levels, weights.shape[1]))
    for side, which in enumerate((negative, positive)):
        np.add.at(by_level[side], level[which], weights[which])
    negatives, positives = by_level
    below = np.cumsum(negatives, axis=0) - negatives / 2
    return ratio((positives * below).sum(axis=0), positives.sum(axis=0) * negatives.sum(axis=0))


def confusion(scene: Scene, threshold: float) -> Confusion:
    """Boxes by class against detections of at least `threshold` by class, paired at IoU 0.5 whatever their class.

    The pair that overlaps most goes first, then the better score. Detections in a crowd are left out.
    """
    k = len(scene.classes)
    pairs = scene.pairs.only((scene.pairs.iou >= MISSED_IOU) & (scene.dt_scores[scene.pairs.dt] >= threshold))
    crowd = scene.gt_ignored[pairs.gt]
    box_of: dict[int, int] = {}
    found_by: dict[int, int] = {}
    real = pairs.only(~crowd)
    for i in np.lexsort((real.gt, -scene.dt_scores[real.dt], -real.iou)):
        dt, gt = int(real.dt[i]), int(real.gt[i])
        if dt not in box_of and gt not in found_by:
            box_of[dt], found_by[gt] = gt, dt
    matrix = np.zeros((k + 1, k + 1), dtype=int)
    for gt in np.flatnonzero(~scene.gt_ignored):
        finder = found_by.get(int(gt))
        matrix[scene.gt_class[gt], k if finder is None else scene.dt_class[finder]] += 1
    in_crowd = set(pairs.dt[crowd].tolist())
    for dt in np.flatnonzero(scene.dt_scores >= threshold).tolist():
        if dt not in box_of and dt not in in_crowd:
            matrix[k, scene.dt_class[dt]] += 1
    return Confusion(
        threshold=threshold,
        labels=(*scene.classes, "background"),
        matrix=tuple(tuple(row) for row in matrix.tolist()),
    )


def calibration(scene: Scene, weights: Weights, found: Found) -> tuple[Calibration, Floats]:
    """How often detections of a score are right: D-ECE of Kueppers et al. (2020) without box coordinates.

    The first bin, below 0.1, is counted but left out of the ECE: evaluation asks for detections down to 0.001, which
    nobody would report, and there are so many of them that they would decide it.
    """
    counted = ~found.ignored
    image, score, true = scene.dt_image[counted], scene.dt_scores[counted], found.true[counted]
    bins = np.minimum((score * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)

    def sums(values: Floats | Ints | Bools) -> Floats:
        """The weighted sum of `values` in each bin, (bins, B)."""
        flat = np.bincount(bins * scene.images + image, values, minlength=CALIBRATION_BINS * scene.images)
        return weighted(flat.reshape(CALIBRATION_BINS, scene.images).astype(float), weights)

    count, scores, hits = sums(np.ones(len(score))), sums(score), sums(true)
    gap = np.abs(scores - hits)[1:].sum(axis=0)
    error = ratio(gap, count[1:].sum(axis=0))
    confidence, precision = ratio(scores[:, 0], count[:, 0]), ratio(hits[:, 0], count[:, 0])
    made = Calibration(
        ECE=point(error),
        counts=tuple(int(c) for c in count[:, 0]),
        confidence=tuple(None if np.isnan(v) else float(v) for v in confidence),
        precision=tuple(None if np.isnan(v) else float(v) for v in precision),
    )
    return made, error

"""Metrics of many resamples of the images at once.

An image keeps its matches, so a resample only changes how often it counts: every metric here is a function of
weights (n images, B resamples). Column 0 has weight one for every image: the sample itself. Images that show the same
place are drawn together, as groups.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from benchmarks.metrics.scene import Bools, Floats, Found, Ints, Scene

Weights = npt.NDArray[np.float32]
Rule = Callable[[Floats, Floats], Floats]
"""Precisions and recalls at the hits, (H, B), to AP, (B,)."""

COCO_RECALLS = np.linspace(0, 1, 101)
VOC_RECALLS = np.arange(0, 1.1, 0.1)


def draw(groups: int | Ints, resamples: int) -> Weights:
    """Weights of the sample itself and of `resamples` draws with replacement, (n, 1 + resamples).

    Args:
        groups: number of the group of each image, (n,), from 0: as many groups are drawn as there are, and their
            images go with them. Or the number of images, each of which is a group.
    """
    group = np.arange(groups) if isinstance(groups, int) else groups
    number = int(group.max(initial=-1)) + 1
    draws = np.random.default_rng(0).integers(0, number, size=(resamples, number))
    counts = [np.ones(number), *(np.bincount(d, minlength=number) for d in draws)]
    return np.ascontiguousarray(np.stack(counts, axis=1)[group], dtype=np.float32)


def weighted(values: Floats | Bools, weights: Weights) -> Floats:
    """Sums over images of values (..., n), weighted: (..., B). Not by BLAS, whose threads stall on a busy machine."""
    return np.einsum("...n,nb->...b", values.astype(np.float64), weights)


def point(values: Floats) -> float | None:
    """The sample's own value."""
    return None if np.isnan(values[0]) else float(values[0])


def mean(values: Floats) -> Floats:
    """Mean over the first axis of what is defined, (B,)."""
    if not len(values):
        return np.full(values.shape[1:], np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nothing is defined: NaN it is
        return np.nanmean(values, axis=0)


def ratio(a: Floats, b: Floats) -> Floats:
    """a / b; NaN where b is 0."""
    return np.divide(a, b, out=np.full(np.broadcast(a, b).shape, np.nan), where=b > 0)


def _running(operation: np.ufunc, values: npt.NDArray[np.floating[Any]]) -> Floats:
    """operation.accumulate over the first axis, long rows one by one: many times faster than numpy's own."""
    out = values.astype(np.float64)
    if out[:1].size == 1:
        return operation.accumulate(out, axis=0)
    for i in range(1, len(out)):
        operation(out[i - 1], out[i], out=out[i])
    return out


def envelope(precision: Floats) -> Floats:
    """Highest precision at this recall or a higher one."""
    return _running(np.maximum, precision[::-1])[::-1]


def at_recalls(recalls: Floats) -> Rule:
    """Mean of the interpolated precision at evenly spaced recalls, as COCO (101) and VOC 2007 (11) take it."""
    last = len(recalls) - 1

    def rule(precision: Floats, recall: Floats) -> Floats:
        # How many of `recalls` are reached; compared with the very floats, on which ties depend.
        near = (recall * last + 1e-9).astype(np.intp)
        reached = near + (recalls[near] <= recall)
        return np.einsum("hb,hb->b", envelope(precision), np.diff(reached, axis=0, prepend=0)) / len(recalls)

    return rule


def all_points(precision: Floats, recall: Floats) -> Floats:
    """Area under the interpolated precision, as VOC takes it from 2010 on."""
    return np.einsum("hb,hb->b", envelope(precision), np.diff(recall, axis=0, prepend=0))


coco_rule, voc_rule = at_recalls(COCO_RECALLS), at_recalls(VOC_RECALLS)


class Ranking:
    """Detections from best to worst, ties by image and then as they stand."""

    def __init__(self, weights: Weights, image: Ints, scores: Floats) -> None:
        self.order = np.argsort(-scores, kind="stable")
        self.image, self.scores, self.weights = image[self.order], scores[self.order], weights

    def total(self, rows: Ints, counted: Bools, *, ties: bool = False) -> Floats:
        """Weight of the counted detections down to each row, the row included, (H, B).

        Args:
            rows: positions in the ranking, rising.
            counted: of each position.
            ties: down to the last one of equal score instead.
        """
        at = np.flatnonzero(counted)
        segment = (
            np.searchsorted(-self.scores[rows], -self.scores[at], side="left")
            if ties
            else np.searchsorted(rows, at, side="left")
        )
        at, segment = at[segment < len(rows)], segment[segment < len(rows)]
        ones, shape = np.ones(len(at), dtype=np.float32), (len(rows), len(self.weights))
        return _running(np.add, csr_array((ones, (segment, self.image[at])), shape=shape) @ self.weights)


def average_precision(
    weights: Weights, image: Ints, scores: Floats, true: Bools, ignored: Bools, boxes: Floats, rules: dict[str, Rule]
) -> dict[str, Floats]:
    """AP of one class by each rule, (B,), and the recall of all detections as "recall"; NaN where no box is.

    Args:
        image, scores, true, ignored: of the N detections of the class.
        boxes: number of its boxes in each image, (n,).
    """
    ranking = Ranking(weights, image, scores)
    true, ignored = true[ranking.order], ignored[ranking.order]
    rows = np.flatnonzero(true)
    total = ranking.total(rows, ~ignored)
    return _averages(weights, ranking.image[rows], total, weighted(boxes, weights), rules)


def _averages(
    weights: Weights, image: Ints, total: Floats, positives: Floats, rules: dict[str, Rule]
) -> dict[str, Floats]:
    """From the images of the hits, (H,), what is counted down to each of them, (H, B), and the boxes, (B,)."""
    empty = positives == 0
    # Precision is highest right at a hit, so the hits are all that its envelope needs.
    hits = _running(np.add, weights[image])
    recall = hits / np.where(empty, 1, positives)
    precision = np.divide(hits, total, out=np.zeros_like(hits), where=total > 0)
    out = {name: rule(precision, recall) for name, rule in rules.items()}
    out["recall"] = recall[-1] if len(image) else np.zeros(weights.shape[1])
    return {name: np.where(empty, np.nan, values) for name, values in out.items()}


def sized_average_precision(
    scene: Scene, weights: Weights, found: Found, outside: Bools, dt_outside: Bools, k: int
) -> tuple[Floats, Floats]:
    """COCO's AP of class k and its recall in A views and at T thresholds: two arrays of (A, T, B).

    Args: as for `match`, whose answer `found` is.
    """
    mine = scene.dt_class == k
    ranking = Ranking(weights, scene.dt_image[mine], scene.dt_scores[mine])
    views, levels = found.true.shape[:2]
    ap, ar = np.full((2, views, levels, weights.shape[1]), np.nan)
    for a in range(views):
        own = (scene.gt_class == k) & ~scene.gt_ignored & ~outside[a]
        if not own.any():
            continue
        boxes = weighted(np.bincount(scene.gt_image[own], minlength=scene.images).astype(float), weights)
        inside = ~dt_outside[a][mine][ranking.order]
        true, ignored, matched = (x[a][:, mine][:, ranking.order] for x in (found.true, found.ignored, found.gt))
        # What is counted without matches is the same at every threshold; matches only correct it.
        touched = np.flatnonzero((matched >= 0).any(axis=0))
        base = ranking.total(touched, inside)
        weight = weights[ranking.image[touched]]
        for t in range(levels):
            hit = true[t, touched]
            # A hit counts wherever it lies; what is matched to an ignored box does not.
            change = hit & ~inside[touched], (matched[t, touched] >= 0) & ignored[t, touched] & inside[touched]
            total = base
            if change[0].any() or change[1].any():
                signs = change[0].astype(np.float32) - change[1]
                total = base + _running(np.add, weight * signs[:, None])
            out = _averages(weights, ranking.image[touched[hit]], total[hit], boxes, {"AP": coco_rule})
            ap[a, t], ar[a, t] = out["AP"], out["recall"]
    return ap, ar

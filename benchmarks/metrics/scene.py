"""Truth and detections of the same images as flat arrays, their overlaps, and which detection finds which box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.detections import Detections
from benchmarks.errors import DataError

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

NONE = -1
"""In an array of matches: no box."""


@dataclass(frozen=True)
class Scene:
    """n images in the order of their ids, classes from 0, boxes as x y w h in pixels.

    Boxes stand by image, in the order of the annotations; detections by image, best first, ties in their own order.
    """

    image_ids: Ints
    image_areas: Floats
    classes: tuple[str, ...]
    gt_image: Ints
    gt_class: Ints
    gt_boxes: Floats
    gt_area: Floats
    gt_crowd: Bools
    gt_difficult: Bools
    """Neither asked for nor false, like a crowd, but one object: its overlap is the IoU."""
    dt_image: Ints
    dt_class: Ints
    dt_boxes: Floats
    dt_scores: Floats

    @classmethod
    def of(
        cls, truth: Mapping[str, Any], detections: Detections, classes: Sequence[str], *, per_image: int | None
    ) -> Scene:
        """From COCO ground truth with categories 1..K, and detections of exactly its images, in any order.

        Args:
            per_image: keep the best so many detections of an image; None for all.

        Raises:
            DataError: the images are not the same ones, or a class is none of `classes`.
        """
        names = [image["file_name"] for image in truth["images"]]
        if set(names) != set(detections.file_names) or len(names) != len(detections.file_names):
            odd = sorted(set(names) ^ set(detections.file_names))[:1] or ["a duplicate"]
            raise DataError(f"detections and ground truth are of different images, for example {odd[0]!r}")
        images = sorted(truth["images"], key=lambda image: int(image["id"]))
        by_name = {image["file_name"]: i for i, image in enumerate(images)}
        by_id = {int(image["id"]): i for i, image in enumerate(images)}
        annotations = truth["annotations"]
        owner = np.array([by_id[int(a["image_id"])] for a in annotations], dtype=np.int64)
        at = np.argsort(owner, kind="stable")
        boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4)
        labels = np.concatenate([detections.labels, [int(a["category_id"]) for a in annotations]])
        if (odd_labels := labels[(labels < 1) | (labels > len(classes))]).size:
            raise DataError(f"class {int(odd_labels[0])} is none of the {len(classes)} classes, which count from 1")
        image = np.array([by_name[name] for name in detections.file_names], dtype=np.int64)[detections.image_index()]
        scores = detections.scores.astype(np.float64)
        order = np.lexsort((-scores, image))
        if per_image is not None:
            order = order[_rank(image[order]) < per_image]
        corners = detections.boxes.astype(np.float64)[order]
        return cls(
            image_ids=np.array(sorted(by_id), dtype=np.int64),
            image_areas=np.array([float(i["width"]) * float(i["height"]) for i in images]),
            classes=tuple(classes),
            gt_image=owner[at],
            gt_class=np.array([int(a["category_id"]) - 1 for a in annotations], dtype=np.int64)[at],
            gt_boxes=boxes[at],
            gt_area=np.array([float(a["area"]) for a in annotations])[at],
            gt_crowd=np.array([bool(a.get("iscrowd", 0)) for a in annotations], dtype=bool)[at],
            gt_difficult=np.array([bool(a.get("ignore", 0)) for a in annotations], dtype=bool)[at],
            dt_image=image[order],
            dt_class=detections.labels.astype(np.int64)[order] - 1,
            dt_boxes=np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),
            dt_scores=scores[order],
        )

    @property
    def images(self) -> int:
        return len(self.image_ids)

    @cached_property
    def gt_ignored(self) -> Bools:
        """Boxes that are neither asked for nor false when they are found: crowds and difficult ones."""
        return self.gt_crowd | self.gt_difficult

    @property
    def dt_area(self) -> Floats:
        return self.dt_boxes[:, 2] * self.dt_boxes[:, 3]

    def boxes_of(self, k: int) -> Floats:
        """Boxes of class k in each image, ignored ones left out, (n,)."""
        return np.bincount(self.gt_image[(self.gt_class == k) & ~self.gt_ignored], minlength=self.images).astype(float)

    @cached_property
    def defective(self) -> Bools:
        """Which images hold a box, ignored ones left out, (n,)."""
        return np.bincount(self.gt_image[~self.gt_ignored], minlength=self.images) > 0

    @cached_property
    def good(self) -> Bools:
        """Which images hold no box at all, (n,): of one with nothing but ignored boxes nobody says whether it is."""
        return np.bincount(self.gt_image, minlength=self.images) == 0

    @cached_property
    def pairs(self) -> Pairs:
        """Every detection with every box of its image."""
        count = np.bincount(self.gt_image, minlength=self.images)
        first = np.concatenate([[0], np.cumsum(count)])
        each = count[self.dt_image]
        dt = np.repeat(np.arange(len(self.dt_image)), each)
        within = np.arange(len(dt)) - np.repeat(np.cumsum(each) - each, each)
        gt = first[self.dt_image[dt]] + within
        return Pairs(dt, gt, overlaps(self.dt_boxes[dt], self.gt_boxes[gt], self.gt_crowd[gt]))

    def same_class(self, pairs: Pairs) -> Bools:
        return self.dt_class[pairs.dt] == self.gt_class[pairs.gt]


@dataclass(frozen=True)
class Pairs:
    """Detections dt and boxes gt of the same image, by detection; and their IoU."""

    dt: Ints
    gt: Ints
    iou: Floats

    def only(self, which: Bools) -> Pairs:
        return Pairs(self.dt[which], self.gt[which], self.iou[which])

    def best(self, detections: int) -> tuple[Floats, Ints]:
        """Each detection's highest IoU and the box it is with, the first of equals; 0 and NONE without a pair."""
        order = np.lexsort((self.gt, -self.iou, self.dt))
        rows, first = np.unique(self.dt[order], return_index=True)
        iou, gt = np.zeros(detections), np.full(detections, NONE)
        iou[rows], gt[rows] = self.iou[order][first], self.gt[order][first]
        return iou, gt


def overlaps(a: Floats, b: Floats, crowd: Bools | None = None, *, plus: float = 0.0) -> Floats:
    """IoU of boxes a with boxes b, row by row, in pycocotools' arithmetic; with a crowd, the share of a inside it.

    Args:
        plus: is added to widths and heights: 1 where coordinates are those of pixels, ends included.
    """
    w = np.minimum(a[:, 0] + a[:, 2], b[:, 0] + b[:, 2]) - np.maximum(a[:, 0], b[:, 0]) + plus
    h = np.minimum(a[:, 1] + a[:, 3], b[:, 1] + b[:, 3]) - np.maximum(a[:, 1], b[:, 1]) + plus
    inside = np.where((w > 0) & (h > 0), w * h, 0.0)
    area_a, area_b = (a[:, 2] + plus) * (a[:, 3] + plus), (b[:, 2] + plus) * (b[:, 3] + plus)
    union = area_a + area_b - inside
    if crowd is not None:
        union = np.where(crowd, area_a, union)
    return np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)


@dataclass(frozen=True)
class Found:
    """Which detections find a box: true (..., N); ignored ones (..., N) count neither as hits nor as false.

    gt is the box that a detection is matched to, (..., N), or NONE.
    """

    true: Bools
    ignored: Bools
    gt: Ints


def match(
    scene: Scene, thresholds: Sequence[float], outside: Bools, dt_outside: Bools, *, first_of_equals: bool = False
) -> Found:
    """COCO's matching: best detections first, each takes the free box of its class that it overlaps most.

    A box to be ignored is only taken where no other is left; of boxes that overlap equally the last one is taken.

    Args:
        thresholds: T least IoUs.
        outside: (A, G), boxes that are ignored in each of A views, like those of another size.
        dt_outside: (A, N), detections that do not count there when they find nothing.
        first_of_equals: instead take the first, as TIDE's code does.

    Returns:
        Arrays of (A, T, N).
    """
    least = np.minimum(np.asarray(thresholds, dtype=float), 1 - 1e-10)
    ignore = outside | scene.gt_ignored
    near = scene.pairs.only(scene.same_class(scene.pairs) & (scene.pairs.iou >= least.min()))
    order = np.lexsort(
        (near.gt if first_of_equals else -near.gt, -near.iou, near.dt)
    )  # each detection's pairs, best first
    gt, iou = near.gt[order], near.iou[order]
    rows, first = np.unique(near.dt[order], return_index=True)
    width = np.diff(np.append(first, len(gt)))
    a, t, n = len(ignore), len(least), len(scene.dt_image)
    matched = np.full((a, t, n), NONE, dtype=np.int64)
    taken = np.zeros((a, t, len(scene.gt_image)), dtype=bool)
    views, levels = np.ogrid[:a, :t]
    # Detections of other images or classes want other boxes, so that the best of each choose at once, then the seconds.
    turns = _turns(scene.dt_image[rows] * len(scene.classes) + scene.dt_class[rows])
    for chosen in (part for turn in turns for part in _by_size(turn, width)):
        row, columns = rows[chosen], np.arange(width[chosen].max())
        there = columns < width[chosen, None]
        at = np.where(there, first[chosen, None] + columns, first[chosen, None])
        g = gt[at]  # (rows of this turn, boxes near each)
        free = (~taken[:, :, g] | scene.gt_crowd[g]) & (iou[at] >= least[:, None, None]) & there
        wanted = free & ~ignore[:, None, g]
        choice = np.where(wanted.any(-1), wanted.argmax(-1), free.argmax(-1))
        hit = free.any(-1)
        found = g[np.arange(len(row)), choice]
        matched[:, :, row] = np.where(hit, found, NONE)
        taken[views[..., None], levels[..., None], found] |= hit
    view = np.arange(a)[:, None, None]
    ignored = np.where(matched == NONE, dt_outside[:, None, :], _take(ignore, view, matched))
    return Found((matched != NONE) & ~ignored, ignored, matched)


def match_all(scene: Scene, threshold: float, *, first_of_equals: bool = False) -> Found:
    """COCO's matching at one IoU over boxes of every size: arrays of (N,)."""
    found = match(scene, [threshold], *everything(scene), first_of_equals=first_of_equals)
    return Found(found.true[0, 0], found.ignored[0, 0], found.gt[0, 0])


def everything(scene: Scene) -> tuple[Bools, Bools]:
    """The view in which nothing is outside."""
    return np.zeros((1, len(scene.gt_image)), dtype=bool), np.zeros((1, len(scene.dt_image)), dtype=bool)


def match_voc(scene: Scene, threshold: float, *, plus: float = 0.0) -> Found:
    """VOC's matching: a detection goes with the box of its class that it overlaps most, and is false if that is taken.

    Crowds count as VOC's difficult boxes, by IoU: by the share of a detection inside it, as COCO has it, a crowd would
    take the detection of every box that lies in it. Arrays of (N,).
    """
    dt, gt = scene.pairs.dt, scene.pairs.gt
    pairs = Pairs(dt, gt, overlaps(scene.dt_boxes[dt], scene.gt_boxes[gt], plus=plus))
    n = len(scene.dt_image)
    iou, gt = pairs.only(scene.same_class(pairs)).best(n)
    gt = np.where(iou >= threshold, gt, NONE)
    ignored = _take(scene.gt_ignored, gt) & (gt != NONE)
    true = np.zeros(n, dtype=bool)
    claimed, first = np.unique(gt, return_index=True)  # detections of an image stand best first
    true[first[claimed != NONE]] = True
    return Found(true & ~ignored, ignored, np.where(true, gt, NONE))


def _take(values: Bools, *index: Ints) -> Bools:
    """values[index], also when there is no value at all."""
    return values[index] if values.size else np.zeros(np.broadcast_shapes(*(i.shape for i in index)), dtype=bool)


def _turns(groups: Ints) -> list[Ints]:
    """Indices of the first of each group, of the second of each, and so on; within a turn by group."""
    order = np.argsort(groups, kind="stable")
    rank = _rank(groups[order])
    by_rank = order[np.argsort(rank, kind="stable")]
    return np.split(by_rank, np.cumsum(np.bincount(rank)))[:-1]


def _by_size(turn: Ints, width: Ints) -> list[Ints]:
    """`turn` in parts whose widths differ by less than a factor of 2, so that little is computed for nothing."""
    sizes = np.frexp(width[turn])[1]
    return [turn[sizes == size] for size in np.unique(sizes)]


def _rank(groups: Ints) -> Ints:
    """Position of each element within its run of equal, adjacent values."""
    starts = np.flatnonzero(np.append(True, np.diff(groups) != 0)[: len(groups)])
    return np.arange(len(groups)) - np.repeat(starts, np.diff(np.append(starts, len(groups))))

"""Why AP50 is not 1: the split of errors of TIDE (Bolya et al., ECCV 2020), from the paper's definitions.

A false positive, by its highest IoU with boxes of its own class and of the others (foreground from 0.5, background up
to 0.1): classification (right place, wrong class), localisation (right class, between), both, duplicate (of a box that
a better detection has), background. A missed box is one that no classification or localisation error would find. Where
several fit, the order is localisation, classification, duplicate, background, both. `dAP50` is what AP50 gains when
one kind alone is mended: classification and localisation errors become hits, the best one of each box staying;
duplicates, background and both are taken away; missed boxes are not asked for.
"""

from __future__ import annotations

import numpy as np

from benchmarks.metrics.resampling import average_precision, coco_rule, draw, mean, point
from benchmarks.metrics.results import ErrorShare
from benchmarks.metrics.scene import NONE, Bools, Floats, Found, Ints, Scene

FOREGROUND, BACKGROUND = 0.5, 0.1
KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")


def split(scene: Scene, found: Found) -> dict[str, ErrorShare]:
    """The errors by kind. Args: found: of (N,), at IoU 0.5."""
    n = len(scene.dt_image)
    pairs = scene.pairs.only(~scene.gt_ignored[scene.pairs.gt])
    same = scene.same_class(pairs)
    own_iou, own = pairs.only(same).best(n)
    other_iou, other = pairs.only(~same).best(n)
    false = ~found.true & ~found.ignored
    is_found = np.zeros(len(scene.gt_image), dtype=bool)
    is_found[found.gt[found.true]] = True
    kinds: dict[str, Bools] = {}
    left = false.copy()
    for kind, fits in (
        ("localisation", (own_iou >= BACKGROUND) & (own_iou <= FOREGROUND)),
        ("classification", other_iou >= FOREGROUND),
        ("duplicate", own_iou >= FOREGROUND),
        ("background", np.maximum(own_iou, other_iou) <= BACKGROUND),
        ("both", np.ones(n, dtype=bool)),
    ):
        kinds[kind] = left & fits
        left &= ~fits
    mendable = np.zeros(len(scene.gt_image), dtype=bool)
    mendable[own[kinds["localisation"]]] = True
    mendable[other[kinds["classification"]]] = True
    missed = ~scene.gt_ignored & ~is_found & ~mendable

    asked = ~scene.gt_ignored
    base = _ap50(scene, scene.dt_class, found.true, ~found.ignored, asked)

    def gain(dt_class: Ints, true: Bools, counted: Bools, boxes: Bools) -> float | None:
        value = _ap50(scene, dt_class, true, counted, boxes)
        return None if value is None or base is None else value - base

    out = {}
    for kind in KINDS:
        if kind == "missed":
            share = gain(scene.dt_class, found.true, ~found.ignored, asked & ~missed)
            out[kind] = ErrorShare(count=int(missed.sum()), dAP50=share)
            continue
        which = kinds[kind]
        if kind in ("classification", "localisation"):
            target = np.where(which, other if kind == "classification" else own, NONE)
            true, counted = _mended(scene, found, which, target)
            dt_class = np.where(which, scene.gt_class[target], scene.dt_class) if which.any() else scene.dt_class
        else:
            true, counted, dt_class = found.true, ~found.ignored & ~which, scene.dt_class
        out[kind] = ErrorShare(count=int(which.sum()), dAP50=gain(dt_class, true, counted, asked))
    return out


def _mended(scene: Scene, found: Found, which: Bools, target: Ints) -> tuple[Bools, Bools]:
    """Hits and counted detections once `which` detect their targets; of each box the best detection stays."""
    gt = np.where(which, target, np.where(found.true, found.gt, NONE))
    claims = np.flatnonzero(gt != NONE)  # of an image best first, so the first claim of a box is the best
    _, first = np.unique(gt[claims], return_index=True)
    true = np.zeros(len(gt), dtype=bool)
    true[claims[first]] = True
    counted = ~found.ignored.copy()
    counted[claims] = true[claims]
    return true, counted


def _ap50(scene: Scene, dt_class: Ints, true: Bools, counted: Bools, asked: Bools) -> float | None:
    """AP of what counts, mean over classes of which boxes are asked for."""
    one = draw(scene.images, 0)
    values: list[Floats] = []
    for k in range(len(scene.classes)):
        mine = dt_class == k
        boxes = np.bincount(scene.gt_image[asked & (scene.gt_class == k)], minlength=scene.images)
        image, scores = scene.dt_image[mine], scene.dt_scores[mine]
        made = average_precision(one, image, scores, true[mine], ~counted[mine], boxes.astype(float), {"AP": coco_rule})
        values.append(made["AP"])
    return point(mean(np.array(values))) if values else None

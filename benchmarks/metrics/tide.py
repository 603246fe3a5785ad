"""Why AP50 is not 1: the split of errors of TIDE (Bolya et al., ECCV 2020), as its released code (tidecv 1.0.1) has it.

A false positive, by its highest IoU with boxes of its own class and of the others (foreground from 0.5, background up
to 0.1): classification (right place, wrong class), localisation (right class, between), both, duplicate (of a box that
a better detection has), background. A missed box is one that no classification or localisation error would find. Where
several fit, the order is localisation, classification, duplicate, background, both. `dAP50` is what AP50 gains when
one kind alone is mended, and never below 0: classification and localisation errors become hits, of each box without a
hit the best one, and those of a box that has a hit are taken away; so are duplicates, background and both; missed boxes
are not asked for. (The paper says that of several the lower scoring are suppressed; the code leaves a hit alone.)

Where this parts from tidecv: a class without boxes is left out of the mean, as COCO leaves it out (there it counts as
0); detections of ignored boxes are no errors (there they are). hotcoco 1.3.0 ranks equal scores in another order.
"""

from __future__ import annotations

import numpy as np

from benchmarks.metrics.scene import NONE, Bools, Floats, Ints, Scene, match_all
from benchmarks.results import ErrorShare

FOREGROUND, BACKGROUND = 0.5, 0.1
KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
_RECALLS = np.arange(101) / 100


def split(scene: Scene) -> dict[str, ErrorShare]:
    """The errors by kind."""
    found = match_all(scene, FOREGROUND, first_of_equals=True)
    n = len(scene.dt_image)
    pairs = scene.pairs.only(~scene.gt_ignored[scene.pairs.gt])
    same = scene.same_class(pairs)
    own_iou, own = pairs.only(same).best(n)
    other_iou, other = pairs.only(~same).best(n)
    false = ~found.true & ~found.ignored
    has_hit = np.zeros(len(scene.gt_image), dtype=bool)
    has_hit[found.gt[found.true]] = True
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
    target = np.where(kinds["localisation"], own, np.where(kinds["classification"], other, NONE))
    best = _best(scene, target, has_hit)
    mendable = np.zeros(len(scene.gt_image), dtype=bool)
    mendable[target[target != NONE]] = True
    missed = ~scene.gt_ignored & ~has_hit & ~mendable

    asked = ~scene.gt_ignored
    counted = ~found.ignored
    # Where scores are equal, the code ranks errors before hits once it has mended some, and by image before.
    ranked = np.zeros(n, dtype=bool)
    base = _ap50(scene, scene.dt_class, found.true, counted, asked, ranked)
    out = {}
    for kind in KINDS:
        dt_class, true, kept, boxes = scene.dt_class, found.true, counted, asked
        if kind == "missed":
            count, boxes = int(missed.sum()), asked & ~missed
        else:
            which = kinds[kind]
            count, kept = int(which.sum()), counted & ~which
            if kind in ("classification", "localisation"):
                mended = which & best
                true, kept = true | mended, kept | mended
                dt_class = np.where(mended, scene.gt_class[target], dt_class) if mended.any() else dt_class
        value = _ap50(scene, dt_class, true, kept, boxes, found.true)
        out[kind] = ErrorShare(count=count, dAP50=None if value is None or base is None else max(value - base, 0.0))
    return out


def _best(scene: Scene, target: Ints, has_hit: Bools) -> Bools:
    """Which errors stay when they become hits of their targets: of each box without a hit the one that scores highest.

    Of both kinds together, so that an error of one kind stays suppressed by a better one of the other.
    """
    errors = np.flatnonzero(target != NONE)
    errors = errors[~has_hit[target[errors]]]
    order = errors[np.lexsort((errors, -scene.dt_scores[errors]))]
    _, first = np.unique(target[order], return_index=True)
    best = np.zeros(len(target), dtype=bool)
    best[order[first]] = True
    return best


def _ap50(scene: Scene, dt_class: Ints, true: Bools, kept: Bools, asked: Bools, last: Bools) -> float | None:
    """AP of what is kept, mean over classes that have boxes; of equal scores those marked `last` come after others.

    A class of which no box is asked for any more counts as 0 while it has detections, and is left out without.
    """
    values = []
    for k in range(len(scene.classes)):
        if not ((scene.gt_class == k) & ~scene.gt_ignored).any():
            continue
        mine = np.flatnonzero((dt_class == k) & kept)
        boxes = int((asked & (scene.gt_class == k)).sum())
        if not boxes:
            if len(mine):
                values.append(0.0)
            continue
        mine = mine[np.lexsort((mine, last[mine], -scene.dt_scores[mine]))]
        values.append(_average(true[mine], boxes))
    return float(np.mean(values)) if values else None


def _average(true: Bools, boxes: int) -> float:
    """AP of detections from best to worst, at 101 recalls."""
    if not true.any():
        return 0.0
    hits = np.cumsum(true)
    precision: Floats = np.maximum.accumulate((hits / np.arange(1, len(true) + 1))[::-1])[::-1]
    at = np.searchsorted(hits / boxes, _RECALLS, side="left")
    return float(np.where(at < len(true), precision[np.minimum(at, len(true) - 1)], 0.0).mean())

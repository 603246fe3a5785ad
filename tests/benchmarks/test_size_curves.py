"""Curves by size against COCO's own code, the evaluator's FROC, and a scene counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.detections import Detections
from benchmarks.metrics import coco
from benchmarks.metrics.inspection import FROC_POINTS, Sweep, froc
from benchmarks.metrics.resampling import draw
from benchmarks.metrics.scene import Scene, match_all
from benchmarks.metrics.size_curves import SIZES, size_curves

BOX = tuple[float, float, float, float]


def scene(
    boxes: dict[int, list[tuple[BOX, int]]], found: dict[int, list[tuple[BOX, float, int]]], images: int
) -> Scene:
    """Args: boxes, found: by image; boxes as x y w h, classes from 1."""
    annotations = [
        dict(id=i, image_id=image + 1, category_id=k, bbox=list(box), area=box[2] * box[3], iscrowd=0)
        for i, (image, box, k) in enumerate(((n, b, k) for n, of in boxes.items() for b, k in of), start=1)
    ]
    entries = [dict(id=n + 1, file_name=f"{n}.png", width=400, height=400) for n in range(images)]
    each = []
    for n in range(images):
        mine = found.get(n, [])
        corners = np.array([(x, y, x + w, y + h) for (x, y, w, h), _, _ in mine], dtype=float).reshape(-1, 4)
        each.append((corners, [s for _, s, _ in mine], [k for _, _, k in mine]))
    detections = Detections.from_images([entry["file_name"] for entry in entries], each)
    truth = {"images": entries, "annotations": annotations, "categories": []}
    return Scene.of(truth, detections, ("pit", "scratch"), per_image=100)


@pytest.fixture(scope="module")
def crowded() -> Scene:
    """60 images, a third without a box; sides of 8 to 150 pixels, some of exactly 32 and 96; scores that tie."""
    rng = np.random.default_rng(3)
    boxes, found = {}, {}
    for n in range(60):
        boxes[n], found[n] = [], []
        for _ in range(0 if n % 3 == 0 else int(rng.integers(1, 5))):
            side = float(rng.choice([8, 20, 32, 50, 96, 150]))
            x, y = (float(v) for v in rng.integers(0, 200, 2))
            k = int(rng.integers(1, 3))
            boxes[n].append(((x, y, side, side), k))
            for _ in range(int(rng.integers(0, 3))):
                dx, dy = (float(v) for v in rng.integers(-4, 5, 2))
                near = (x + dx, y + dy, side + float(rng.integers(-3, 4)), side)
                found[n].append((near, float(rng.integers(1, 20)) / 20, int(rng.choice([k, k, 3 - k]))))
        for _ in range(int(rng.integers(0, 4))):
            x, y, w, h = (float(v) for v in rng.integers(5, 120, 4))
            found[n].append(((x, y, w, h), float(rng.integers(1, 12)) / 20, int(rng.integers(1, 3))))
    return scene(boxes, found, 60)


def test_precision_by_size_is_cocos(crowded: Scene) -> None:
    precision = coco.accumulate(crowded).precision[coco.AT_50, ..., -1]  # (recalls, classes, bins)
    curves = size_curves(crowded)
    assert list(curves) == list(SIZES)
    for a, name in enumerate(SIZES, start=1):
        assert curves[name].precision == pytest.approx(np.nanmean(precision[..., a], axis=1), abs=1e-9)


def test_a_box_on_the_border_is_in_both_bins(crowded: Scene) -> None:
    area = crowded.gt_area
    curves = size_curves(crowded)
    assert [curves[name].boxes for name in SIZES] == [
        np.count_nonzero(area <= 1024),
        np.count_nonzero((area >= 1024) & (area <= 9216)),
        np.count_nonzero(area >= 9216),
    ]
    assert sum(c.boxes for c in curves.values()) > len(area)


def test_recall_at_false_alarms_of_every_size_adds_up_to_the_evaluators(crowded: Scene) -> None:
    """Where no box lies on a border, hits by size are the hits of all."""
    apart = np.isin(crowded.gt_area, (32.0**2, 96.0**2))
    boxes, found = {}, {}
    for n in range(60):
        mine = np.flatnonzero((crowded.gt_image == n) & ~apart)
        boxes[n] = [(tuple(crowded.gt_boxes[g]), int(crowded.gt_class[g]) + 1) for g in mine]
        seen = np.flatnonzero(crowded.dt_image == n)
        found[n] = [
            (tuple(crowded.dt_boxes[d]), float(crowded.dt_scores[d]), int(crowded.dt_class[d]) + 1) for d in seen
        ]
    inside = scene(boxes, found, 60)
    weights = draw(60, 0)
    whole = froc(inside, weights, Sweep.of(inside, weights, match_all(inside, 0.5)))
    curves = size_curves(inside)
    for name, recalls in (("FROC", whole[0]), ("FROC_defect_free", whole[1])):
        hits = sum(getattr(c, name) * c.boxes for c in curves.values())
        assert hits / len(inside.gt_area) == pytest.approx(list(recalls.values()), abs=1e-9)
        assert len(set(recalls.values())) > 3


def test_by_hand() -> None:
    """Two small boxes and a large one; a large false alarm between them costs the small ones recall, not precision."""
    small, other, large = (10, 10, 20, 20), (60, 60, 20, 20), (100, 100, 120, 120)
    made = scene(
        {0: [(small, 1), (other, 1), (large, 1)]},
        {0: [(small, 0.9, 1), ((250, 250, 100, 100), 0.8, 1), (other, 0.7, 1), (large, 0.6, 1)]},
        images=2,
    )
    curves = size_curves(made)
    assert list(curves) == ["small", "large"], "no box of middle size: nothing is said of it"
    assert curves["small"].precision.tolist() == [1.0] * 101
    assert curves["large"].precision.tolist() == [0.5] * 101
    at = dict(zip(FROC_POINTS, curves["small"].FROC, strict=True))
    assert (at[0.25], at[0.5]) == (0.5, 1.0), "one false alarm in two images"
    assert curves["small"].FROC_defect_free.tolist() == [1.0] * 7, "the alarm is not on the good part"
    assert size_curves(scene({0: [(small, 1)]}, {}, images=1))["small"].FROC_defect_free is None

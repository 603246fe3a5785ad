from __future__ import annotations

import numpy as np
import pytest

from benchmarks import metrics
from benchmarks.errors import DataError
from benchmarks.store import Detections

CLASSES = ("crack", "pit", "scratch")


def scene(rng: np.random.Generator, images: int, classes: int = 3, noise: float = 3.0, size: float = 200.0):
    """Ground truth, and detections that are jittered truth, false positives and misses."""
    truth = {
        "images": [
            {"id": i + 1, "file_name": f"{i}.png", "width": int(size), "height": int(size)} for i in range(images)
        ],
        "annotations": [],
        "categories": [{"id": k + 1, "name": CLASSES[k]} for k in range(classes)],
    }
    found = []
    for i in range(images):
        n = int(rng.integers(0, 5))
        xy, wh = rng.uniform(0, size * 0.6, (n, 2)), rng.uniform(4, size * 0.4, (n, 2))
        labels = rng.integers(1, classes + 1, n)
        for j in range(n):
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": i + 1,
                    "category_id": int(labels[j]),
                    "bbox": [*xy[j].tolist(), *wh[j].tolist()],
                    "area": float(wh[j].prod()),
                    "iscrowd": 0,
                }
            )
        hits = rng.random(n) < 0.8
        m = int(rng.integers(0, 6))
        fxy, fwh = rng.uniform(0, size * 0.6, (m, 2)), rng.uniform(4, 60, (m, 2))
        boxes = np.concatenate([np.concatenate([xy, xy + wh], 1)[hits], np.concatenate([fxy, fxy + fwh], 1)])
        boxes = np.clip(boxes + rng.normal(0, noise, boxes.shape), 0, size)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        scores = np.round(rng.uniform(0.001, 1, len(boxes)), 1 + int(rng.integers(0, 3)))  # with ties
        found.append((boxes, scores, np.concatenate([labels[hits], rng.integers(1, classes + 1, m)])))
    return truth, Detections.from_images([im["file_name"] for im in truth["images"]], found)


def oracle(truth: dict, found: Detections) -> np.ndarray:
    """pycocotools as its own documentation drives it, through `loadRes`."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    results = [
        {
            "image_id": int(i) + 1,
            "category_id": int(c),
            "bbox": [float(b[0]), float(b[1]), float(b[2] - b[0]), float(b[3] - b[1])],
            "score": float(s),
        }
        for i, b, s, c in zip(found.image_index(), found.boxes.astype(float), found.scores, found.labels, strict=True)
    ]
    gt = COCO()
    gt.dataset = {**truth, "info": {}}
    gt.createIndex()
    run = COCOeval(gt, gt.loadRes(results), "bbox")
    run.evaluate()
    run.accumulate()
    run.summarize()
    return run.stats


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, found = scene(rng, 30, noise=float(rng.uniform(0.5, 4)))
    got = metrics.evaluate(truth, found, CLASSES)
    ours = (got.AP, got.AP50, got.AP75, got.AP_small, got.AP_medium, got.AP_large, got.AR_100)
    stats = oracle(truth, found)
    theirs = [None if v < 0 else v for v in (*stats[:6], stats[8])]
    assert ours == pytest.approx(theirs, abs=1e-9)
    assert 0.05 < got.AP50 < 0.99, "a scene that is all hits or all misses tests nothing"


def test_the_order_of_images_does_not_matter(rng) -> None:
    truth, found = scene(rng, 12)
    turned = {**truth, "images": truth["images"][::-1]}
    assert metrics.evaluate(turned, found, CLASSES) == metrics.evaluate(truth, found, CLASSES)


def test_weighted_ap_with_unit_weights_is_ap50(rng) -> None:
    """The bootstrap's own AP, at weight one for every image, is COCO's."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, found = scene(rng, 40, classes=1)
    want = metrics.evaluate(truth, found, CLASSES[:1]).AP50
    gt, dt = COCO(), COCO()
    gt.dataset = {**truth, "info": {}}
    by_name = {im["file_name"]: im["id"] for im in truth["images"]}
    dt.dataset = {**truth, "annotations": metrics._annotations(found, by_name)}
    gt.createIndex(), dt.createIndex()
    run = COCOeval(gt, dt, "bbox")
    run.evaluate()
    every = [e for e in run.evalImgs if e is not None and e["aRng"] == run.params.areaRng[0]]
    scores = np.concatenate([e["dtScores"] for e in every])
    true = np.concatenate([e["dtMatches"][0] > 0 for e in every])
    order = np.argsort(-scores, kind="mergesort")
    n = len(truth["annotations"])
    got = metrics._weighted_ap(
        np.ones((1, 1), np.float32), true[order], np.zeros(len(true), int), np.array([n], np.float32)
    )
    assert got[0] == pytest.approx(want, abs=1e-6)


def test_the_interval_holds_the_point_and_shrinks_with_more_images() -> None:
    widths = []
    for images in (20, 200):
        truth, found = scene(np.random.default_rng(5), images)
        got = metrics.evaluate(truth, found, CLASSES)
        low, high = got.AP50_interval
        assert low < got.AP50 < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_missing_is_none_and_never_zero() -> None:
    truth, found = scene(np.random.default_rng(1), 10)
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] != 2 and a["area"] < 32**2]
    got = metrics.evaluate(truth, found, CLASSES)
    assert got.AP_medium is None
    assert got.AP_large is None
    assert got.per_class["pit"].AP is None
    assert got.boxes == got.boxes_small


def test_no_box_and_no_detection() -> None:
    truth, found = scene(np.random.default_rng(1), 6)
    nothing = Detections.from_images(found.file_names, [((), (), ())] * 6)
    got = metrics.evaluate(truth, nothing, CLASSES)
    assert got.AP50 == 0
    assert got.AP50_interval == (0, 0)
    clean = metrics.evaluate({**truth, "annotations": []}, found, CLASSES)
    assert clean.AP50 is None
    assert clean.AP50_interval is None


def test_other_images_than_the_truth_has_are_refused(rng) -> None:
    truth, found = scene(rng, 4)
    fewer = {**truth, "images": truth["images"][1:]}
    with pytest.raises(DataError, match=r"0\.png"):
        metrics.evaluate(fewer, found, CLASSES)

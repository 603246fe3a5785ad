"""`synthetic_small`: the same bytes everywhere, and the set that its description promises."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from benchmarks.datasets import catalogue, synthetic

GOLDEN = "944da989c114d984e43948e74cf4c71022c1a99384382456e34ae1072612c320"
GOLDEN_IMAGES = {
    0: "ce64946e632ac04295662673a31fef1f03f1460b10557e4782c051c0dcd07b3e",
    5: "292934f66a317184c14da0266cb44660725944feb926e0d4967974916e83e966",
    799: "3743c2bcdb50b7f580bb97b14c3ed0fefd96a82705aa461367445c330505a4ac",
    1399: "e9d9f29a2b353c4e6e7fde63f5b2fcfcd0634b69576ebce5f9cec14a609d4baf",
}


def test_the_set_is_the_golden_one(synthetic_data):
    assert synthetic_data.manifest_digest == GOLDEN


@pytest.mark.parametrize("index", GOLDEN_IMAGES)
def test_an_image_does_not_depend_on_the_others(index):
    grey, _ = synthetic.render(index)
    assert hashlib.sha256(synthetic.encode_png(grey)).hexdigest() == GOLDEN_IMAGES[index]


def test_png_is_read_back_exactly():
    grey = np.arange(300 * 400, dtype=np.uint32).reshape(300, 400).astype(np.uint8)  # more than one stored block
    with Image.open(io.BytesIO(synthetic.encode_png(grey))) as image:
        assert image.mode == "L"
        assert (np.asarray(image) == grey).all()


def test_composition(synthetic_data):
    boxes = np.array([a["bbox"] for a in synthetic_data.annotations])
    area = boxes[:, 2] * boxes[:, 3]
    assert 0.85 < (area < 32 * 32).mean() < 0.95
    per_class = np.bincount([a["category_id"] for a in synthetic_data.annotations])[1:]
    assert len(per_class) == len(synthetic_data.classes) == 6
    assert per_class.min() > 100
    per_image = [len(synthetic_data.boxes(image["file_name"])) for image in synthetic_data.images]
    assert per_image.count(0) == 80 + synthetic.GOOD == 680
    assert max(per_image) <= 5
    assert set(synthetic.CLASSES) == set(catalogue.get("synthetic_small").classes)


def test_boxes_lie_inside_and_apart(synthetic_data):
    for image in synthetic_data.images:
        boxes = [a["bbox"] for a in synthetic_data.boxes(image["file_name"])]
        for i, (x, y, w, h) in enumerate(boxes):
            assert x >= 2
            assert y >= 2
            assert x + w <= synthetic.SIZE - 2
            assert y + h <= synthetic.SIZE - 2
            for u, v, p, q in boxes[:i]:
                assert x >= u + p or u >= x + w or y >= v + q or v >= y + h


def test_a_defect_is_where_its_box_says(monkeypatch):
    """Rendered with and without its defects, an image differs inside the boxes and hardly outside."""
    for index in (0, 1, 2, 3, 4):
        with_defects, boxes = synthetic.render(index)
        inside = np.zeros(with_defects.shape, bool)
        for _, (x, y, w, h) in boxes:
            inside[y : y + h, x : x + w] = True
        with monkeypatch.context() as m:
            m.setattr(synthetic, "paste", lambda *a: None)
            without, same = synthetic.render(index)
        assert same == boxes
        change = np.abs(with_defects.astype(int) - without)
        for _, (x, y, w, h) in boxes:
            assert change[y : y + h, x : x + w].max() >= 10
        if boxes:
            assert change[~inside].mean() < 0.02 * change[inside].mean()


def test_no_defect_is_too_faint_to_be_seen(monkeypatch):
    """What a defect changes in the finished image stands out of the pixels around it, whatever its class."""
    missing = synthetic._missing_dot
    seen: dict[str, list[float]] = {label: [] for label in synthetic.CLASSES}
    for index in range(40):
        with_defects, boxes = synthetic.render(index)
        with monkeypatch.context() as m:
            m.setattr(synthetic, "paste", lambda *a: None)
            gone: set[int] = set()
            m.setattr(synthetic, "_missing_dot", lambda *a, gone=gone: missing(*a[:2], gone, *a[3:]))
            without, same = synthetic.render(index)
        assert same == boxes
        rough = without - synthetic._blur(without.astype(float), 4)
        change = with_defects.astype(float) - without
        for label, (x, y, w, h) in boxes:
            around = rough[max(y - 6, 0) : y + h + 6, max(x - 6, 0) : x + w + 6]
            inside = change[y : y + h, x : x + w]
            seen[label].append(float(np.sqrt((inside * inside).sum()) / around.std()))
    assert all(len(values) > 5 for values in seen.values())
    assert min(min(values) for values in seen.values()) > 0.8 * synthetic.FAINT[0]

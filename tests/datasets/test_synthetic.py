"""`synthetic_small`: the same bytes everywhere, and the set that its description promises."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from benchmarks.datasets import catalogue, synthetic

GOLDEN = "c0223319da8e1de9e033c0459d1a62fa1ff99bd329b447bde0df258d6ccd8f2b"
GOLDEN_FIRST = {
    0: "8431a4256e13bff6a0198df1c1715345edc57c876cef01c7b56692d5e759aa76",
    5: "0919a27c2ca884dc27fa8979b2958cd5e11314681ac54ae7fb0cf75b9dbdf6ec",
    299: "b30ccd31bce83614ab7601a8df6229860085d68ebf00e08303c7085243227e9a",
}


def test_the_set_is_the_golden_one(synthetic_data):
    assert synthetic_data.manifest_digest == GOLDEN


@pytest.mark.parametrize("index", GOLDEN_FIRST)
def test_an_image_does_not_depend_on_the_others(index):
    grey, _ = synthetic.render(index)
    assert hashlib.sha256(synthetic.encode_png(grey)).hexdigest() == GOLDEN_FIRST[index]


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
    assert per_image.count(0) == 30
    assert max(per_image) <= 5
    assert set(synthetic.CLASSES) == set(catalogue.get("synthetic_small").classes)


def test_boxes_lie_inside_and_apart(synthetic_data):
    for image in synthetic_data.images:
        boxes = [a["bbox"] for a in synthetic_data.boxes(image["file_name"])]
        for i, (x, y, w, h) in enumerate(boxes):
            assert x >= 2
            assert y >= 2
            assert x + w <= 158
            assert y + h <= 158
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
            m.setattr(synthetic, "_paste", lambda *a: None)
            without, same = synthetic.render(index)
        assert same == boxes
        change = np.abs(with_defects.astype(int) - without)
        for _, (x, y, w, h) in boxes:
            assert change[y : y + h, x : x + w].max() >= 10
        if boxes:
            assert change[~inside].mean() < 0.02 * change[inside].mean()

"""Boxes that are neither asked for nor false: from the source's flag to training targets, exports and metrics."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks.datasets import own
from benchmarks.datasets.exporting import export
from benchmarks.datasets.loading import DetectionDataset, batches, train_transform
from benchmarks.detections import Detections
from benchmarks.errors import RequestError
from benchmarks.metrics.evaluator import evaluate
from tests.datasets.conftest import voc, write_folder
from tests.datasets.test_own import edit_coco, png

CROWD = [20.0, 5.0, 18.0, 20.0]


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


def crowd_files() -> dict[str, bytes]:
    """Image 1 has an ordinary box and a crowd region."""

    def change(content):
        region = {"id": 99, "image_id": 11, "category_id": 7, "bbox": CROWD, "iscrowd": 1, "area": 300}
        content["annotations"].append({**region, "segmentation": {"counts": [0], "size": [30, 40]}})

    return edit_coco(change)


def difficult_files() -> dict[str, bytes]:
    """VOC; every image has an ordinary object at 2, 3 to 12, 20 and a difficult one at 20, 5 to 38, 25."""
    text = voc(("dent", 2, 3, 12, 20), ("dent", 20, 5, 38, 25), width=40, height=30)
    first, _, last = text.rpartition("<bndbox>")
    text = f"{first}<difficult>1</difficult><bndbox>{last}"
    files = {f"d/img/{i}.png": png(i) for i in range(6)}
    return files | {f"d/xml/{i}.xml": text.encode() for i in range(6)}


def test_a_crowd_region_is_kept_as_such(tmp_path, root):
    lines: list[str] = []
    data = own.prepare("mine", root, write_folder(tmp_path / "s", crowd_files()), report=lines.append)
    assert [a["bbox"] for a in data.ignored("1.png")] == [CROWD]
    assert data.ignored("1.png")[0]["iscrowd"] == 1
    assert data.ignored("1.png")[0]["area"] == 300  # the mask's
    assert len(data.boxes("1.png")) == 1
    assert (data.manifest["boxes"], data.manifest["ignored"]) == (5, 1)
    assert any("crowd" in line for line in lines)
    assert len(data.coco(["1.png"])["annotations"]) == 2


def test_a_set_without_flags_says_nothing_of_them(synthetic):
    assert "ignored" not in synthetic.manifest
    text = (synthetic.root / "annotations.json").read_text()
    assert '"ignore"' not in text
    assert "source" not in text
    _, target = DetectionDataset(synthetic, [synthetic.images[0]["file_name"]])[0]
    assert set(target) == {"boxes", "labels", "image_id"}


@pytest.mark.parametrize("workers", [0, 1])
def test_targets_carry_what_is_ignored(tmp_path, root, workers):
    data = own.prepare("mine", root, write_folder(tmp_path / "s", crowd_files()))
    names = ["0.png", "1.png"]
    dataset = DetectionDataset(data, names, transform=train_transform(["hflip"]), seed=3)
    wanted = {"batch_size": 2, "seed": 0, "shuffle": False, "drop_last": False}
    for epoch in range(3):
        ((_, targets),) = batches(dataset, **wanted, epoch=epoch, workers=workers)
        assert "ignore" not in targets[0]
        assert targets[1]["labels"].tolist() == [2 if data.classes[1] == "burr" else 1]
        x1, y1, x2, y2 = targets[1]["ignore"][0].tolist()
        assert (y1, y2) == (5, 25)
        assert (x1, x2) in ((20, 38), (2, 20))  # as it stands, or mirrored
        assert targets[1]["ignore"].dtype == torch.float32


def test_a_window_keeps_any_part_of_what_is_ignored(tmp_path, root):
    from benchmarks.datasets.augment import IGNORED, Sample, Window, crop

    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    sample = Sample(torch.zeros(3, 30, 40, dtype=torch.uint8), boxes, torch.tensor([1, IGNORED]))
    part = crop(sample, Window(8, 8, 20, 20))
    assert part.labels.tolist() == [IGNORED]
    assert part.boxes.tolist() == [[0, 0, 2, 2]]


def detections(data, boxes: list[list[float]]) -> Detections:
    """The same detections on every image."""
    names = [i["file_name"] for i in data.images]
    corners = np.array(boxes, dtype=float)
    one = (corners, np.linspace(0.9, 0.8, len(boxes)), np.ones(len(boxes), dtype=np.int64))
    return Detections.from_images(names, [one] * len(names))


def test_difficult_objects_are_neither_asked_for_nor_false(tmp_path, root):
    data = own.prepare("mine", root, write_folder(tmp_path / "s", difficult_files()))
    names = [i["file_name"] for i in data.images]
    truth = data.coco(names)
    for boxes in ([[2, 3, 12, 20]], [[20, 5, 38, 25], [2, 3, 12, 20]]):
        m = evaluate(truth, detections(data, boxes), data.classes, resamples=20)
        assert (m.boxes, m.AP, m.AP50, m.VOC07_AP50, m.VOC12_AP50) == (6, 1, 1, 1, 1)
        assert m.inspection.best_F1.precision == 1
    # A part of a difficult object is no detection of it, other than in a crowd.
    m = evaluate(truth, detections(data, [[20, 5, 25, 10], [2, 3, 12, 20]]), data.classes, resamples=20)
    assert m.AP50 < 0.8
    data = own.prepare("kept", root, tmp_path / "s", policy={"difficult": "keep"})
    assert data.manifest["boxes"] == 12


def test_what_lies_in_a_crowd_region_is_not_false(tmp_path, root):
    data = own.prepare("mine", root, write_folder(tmp_path / "s", crowd_files()))
    truth = data.coco(["1.png"])
    inside = [[21, 6, 26, 11], [28, 12, 36, 20]]
    label = data.boxes("1.png")[0]["category_id"]
    x, y, w, h = data.boxes("1.png")[0]["bbox"]
    crowd = data.ignored("1.png")[0]["category_id"]
    one = (
        np.array([*inside, [x, y, x + w, y + h]], dtype=float),
        np.array([0.9, 0.8, 0.7]),
        np.array([crowd, crowd, label], dtype=np.int64),
    )
    m = evaluate(truth, Detections.from_images(["1.png"], [one]), data.classes, resamples=20)
    assert m.AP50 == 1
    assert m.per_class[data.classes[crowd - 1]].AP50 is None
    assert m.inspection.best_F1.false_positives_per_image == 0


def test_exports_carry_the_flags(tmp_path, root):
    data = own.prepare("mine", root, write_folder(tmp_path / "s", crowd_files()))
    export(data, "coco", tmp_path / "coco")
    content = json.loads((tmp_path / "coco/annotations/instances_all.json").read_text())
    assert [a["bbox"] for a in content["annotations"] if a["iscrowd"]] == [CROWD]
    again = own.prepare("again", root, tmp_path / "coco")
    assert again.ignored("1.png")[0]["bbox"] == CROWD
    lines: list[str] = []
    export(data, "yolo", tmp_path / "yolo", report=lines.append)
    assert len((tmp_path / "yolo/labels/all/1.txt").read_text().splitlines()) == 1
    assert "1 ignored" in lines[0]  # YOLO has no word for it


def test_exports_have_the_ids_of_the_source(tmp_path, root):
    data = own.prepare("mine", root, write_folder(tmp_path / "s", crowd_files()))
    assert [i["source_id"] for i in data.images] == list(range(10, 16))
    export(data, "coco", tmp_path / "coco")
    content = json.loads((tmp_path / "coco/annotations/instances_all.json").read_text())
    assert [i["id"] for i in content["images"]] == list(range(10, 16))
    assert content["categories"] == [{"id": 7, "name": "dent"}, {"id": 3, "name": "burr"}]
    assert {a["category_id"] for a in content["annotations"]} == {3, 7}


def test_images_with_nothing_but_ignored_objects_are_said(tmp_path, root):
    """Whether they are good parts, nobody says: `test_metrics_by_hand` has how they count."""
    files = crowd_files()
    (name,) = [n for n in files if n.endswith(".json")]
    content = json.loads(files[name])
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1 if annotation["image_id"] < 12 else annotation.get("iscrowd", 0)
    lines: list[str] = []
    source = write_folder(tmp_path / "s", files | {name: json.dumps(content).encode()})
    data = own.prepare("mine", root, source, report=lines.append)
    blank = sum(not data.boxes(i["file_name"]) and bool(data.ignored(i["file_name"])) for i in data.images)
    assert blank > 0
    assert any(f"{blank} images hold nothing but objects that are ignored" in line for line in lines)


def test_a_set_is_not_put_into_its_own_source(tmp_path):
    source = write_folder(tmp_path / "s", crowd_files())
    with pytest.raises(RequestError, match=r"within the source .* another --data-root"):
        own.prepare("mine", source / "data", source)
    assert not (source / "data").exists()

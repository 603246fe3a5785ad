"""Detections from other people's files, by the command and by the reader."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.datasets.splits import load_split
from benchmarks.detection_files import read
from benchmarks.errors import DataError, RequestError
from tests.benchmarks.test_metrics import oracle
from tests.benchmarks.test_run import call

SPLIT = "synthetic_small-5fold-v1"


@pytest.fixture(scope="module")
def test_images(synthetic) -> tuple[str, ...]:
    return load_split("synthetic_small", SPLIT, 0).test


def results(synthetic, names: tuple[str, ...], seed: int = 0) -> list[dict]:
    """Jittered truth and false alarms, as a tool would write them: unrounded."""
    rng = np.random.default_rng(seed)
    out = []
    for name in names:
        image_id = synthetic.image(name)["id"]
        for box in synthetic.boxes(name):
            x, y, w, h = (np.array(box["bbox"]) * rng.uniform(0.95, 1, 4)).tolist()
            entry = {"image_id": image_id, "category_id": box["category_id"], "bbox": [x, y, w, h]}
            out.append({**entry, "score": rng.random()})
        out.append({"image_id": image_id, "category_id": 1, "bbox": [5.5, 6.5, 9.25, 8.125], "score": rng.random()})
    return out


def test_a_coco_file_gives_pycocotools_numbers(synthetic, test_images, data_root: Path, tmp_path: Path) -> None:
    found = results(synthetic, test_images)
    file, out = tmp_path / "found.json", tmp_path / "metrics.json"
    file.write_text(json.dumps(found))
    val = tmp_path / "val.json"
    val.write_text(json.dumps(results(synthetic, load_split("synthetic_small", SPLIT, 0).val)))
    arguments = ("--detections", file, "--dataset", "synthetic_small", "--validation", val, "--out", out)
    done = call("evaluate", *arguments, "--data-root", data_root)
    assert done.returncode == 0, done.stderr
    assert "AP50" in done.stdout
    assert "best F1 on validation" in " ".join(done.stdout.split())
    made = json.loads(out.read_text())
    stats = oracle(synthetic.coco(test_images), read(file, synthetic, test_images).detections).stats
    names = ("AP", "AP50", "AP75", "AP_small", "AP_medium")
    assert [made["metrics"][n] for n in names] == pytest.approx(stats[:5].tolist(), abs=1e-9)
    assert (made["split"], made["fold"], made["fingerprint"]["data"]) == (SPLIT, 0, synthetic.manifest_digest)
    assert made["metrics"]["inspection"]["operating_point"]["chosen_on"] == "validation"


def test_yolo_files_and_image_names_say_the_same(synthetic, test_images, tmp_path: Path) -> None:
    found = results(synthetic, test_images)
    by_id, by_name, folder = tmp_path / "id.json", tmp_path / "name.json", tmp_path / "labels"
    folder.mkdir()
    by_id.write_text(json.dumps(found))
    name_of = {image["id"]: image["file_name"] for image in synthetic.images}
    by_name.write_text(json.dumps([{**e, "image_id": Path(name_of[e["image_id"]]).stem} for e in found]))
    for e in found:
        x, y, w, h = (v / 160 for v in e["bbox"])
        line = f"{e['category_id'] - 1} {x + w / 2!r} {y + h / 2!r} {w!r} {h!r} {e['score']!r}\n"
        with (folder / f"{Path(name_of[e['image_id']]).stem}.txt").open("a") as f:
            f.write(line)
    one, two, three = (read(path, synthetic, test_images).detections for path in (by_id, by_name, folder))
    for other in (two, three):
        np.testing.assert_allclose(other.boxes, one.boxes, atol=1e-9)
        np.testing.assert_array_equal(other.scores, one.scores)
        np.testing.assert_array_equal(other.labels, one.labels)
        np.testing.assert_array_equal(other.offsets, one.offsets)


def test_what_is_left_out_is_said(synthetic, test_images, tmp_path: Path) -> None:
    split = load_split("synthetic_small", SPLIT, 0)
    file = tmp_path / "found.json"
    crowded = [{**results(synthetic, test_images[:1])[0], "score": i / 200} for i in range(103)]
    file.write_text(json.dumps(crowded + results(synthetic, split.train[:3])))
    got = read(file, synthetic, test_images)
    elsewhere = sum(len(synthetic.boxes(n)) + 1 for n in split.train[:3])
    assert got.elsewhere == elsewhere
    assert got.notes(100) == [
        f"left out: {elsewhere} detections of images that are not in this part of the split",
        "left out: 3 detections beyond the best 100 of their image",
    ]
    file.write_text(json.dumps(results(synthetic, split.train[:3])))
    with pytest.raises(DataError, match=r"no detection of the 60 images .* --fold"):
        read(file, synthetic, test_images)


GOOD = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", "not readable as JSON"),
        ('{"images": []}', "not a list of detections"),
        ("[]", "no detection of the 60 images"),
        ("[3]", "entry 0: not an object with image_id"),
        ('[{"image_id": 1}]', "entry 0: not an object with image_id"),
        ([GOOD, {**GOOD, "image_id": 4711}], r"entry 1: synthetic_small has no image 4711.*annotations\.json"),
        ([{**GOOD, "image_id": "no_such"}], "has no image 'no_such'"),
        ([{**GOOD, "image_id": True}], "has no image True"),
        ([{**GOOD, "category_id": 0}], r"category_id 0 is not of 1 to 6 \(crack"),
        ([{**GOOD, "category_id": 7}], "category_id 7 is not of 1 to 6"),
        ([{**GOOD, "bbox": [1, 2, 3]}], "bbox is not four finite numbers"),
        ([{**GOOD, "bbox": [1, 2, 3, float("nan")]}], "bbox is not four finite numbers"),
        ([{**GOOD, "bbox": [150, 2, 20, 4]}], r"lies outside of synthetic_000\.png, 160 x 160"),
        ([{**GOOD, "bbox": [5, 2, -1, 4]}], "negative width or height"),
        ([{**GOOD, "score": 1.5}], r"score 1\.5 is not in \[0, 1\]"),
        ([{**GOOD, "score": None}], "score None"),
    ],
    ids=lambda v: None if isinstance(v, list) else v,
)
def test_a_wrong_coco_file_is_refused_by_its_entry(synthetic, test_images, tmp_path: Path, text, message: str) -> None:
    file = tmp_path / "found.json"
    file.write_text(text if isinstance(text, str) else json.dumps(text))
    with pytest.raises(DataError, match=message) as error:
        read(file, synthetic, test_images)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("synthetic_000", "0 0.5 0.5 0.1 0.1", r"line 1: 5 fields.*save_conf=True"),
        ("synthetic_000", "0 0.5 0.5 x 0.1 0.9", "line 1: not a class and five numbers"),
        ("synthetic_000", "6 0.5 0.5 0.1 0.1 0.9", "class 6 is not of 0 to 5"),
        ("synthetic_000", "0 0.5 0.5 inf 0.1 0.9", "not finite"),
        ("synthetic_000", "0 50 50 10 10 0.9", r"outside of .*YOLO: fractions"),
        ("other", "0 0.5 0.5 0.1 0.1 0.9", "has no image 'other'"),
    ],
)
def test_a_wrong_yolo_file_is_refused_by_its_line(
    synthetic, test_images, tmp_path: Path, name: str, line: str, message: str
) -> None:
    (tmp_path / f"{name}.txt").write_text(line + "\n")
    with pytest.raises(DataError, match=message):
        read(tmp_path, synthetic, test_images)


def test_a_box_may_touch_the_border_and_be_rounded_over_it(synthetic, test_images, tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    entry = {**GOOD, "image_id": test_images[0]}
    file.write_text(json.dumps([{**entry, "bbox": [-0.5, 0, 161, 160]}]))
    assert len(read(file, synthetic, test_images).detections.scores) == 1


def test_neither_file_nor_folder(synthetic, test_images, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="there is no"):
        read(tmp_path / "absent.json2", synthetic, test_images)
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(RequestError, match=r"neither a \.json file"):
        read(tmp_path / "a.csv", synthetic, test_images)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no \.txt"):
        read(tmp_path / "empty", synthetic, test_images)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ((), "give run records, or --detections"),
        (("--detections", "x.json"), "needs --dataset"),
        (("--detections", "x.json", "--dataset", "neu_dett"), "did you mean 'neu_det'"),
        (("--detections", "x.json", "--dataset", "synthetic_small"), "there is no x.json"),
        (("--detections", "x.json", "--dataset", "synthetic_small", "--fold", "9"), "folds 0 to 4"),
        (("r.json", "--out", "m.json"), "--out goes with --detections"),
        (("r.json", "--detections", "x.json"), "give run records, or"),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_a_wrong_request_is_exit_2(data_root: Path, synthetic, arguments: tuple[str, ...], hint: str) -> None:
    done = call("evaluate", *arguments, "--data-root", data_root)
    assert done.returncode == 2, done.stderr
    assert hint in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr

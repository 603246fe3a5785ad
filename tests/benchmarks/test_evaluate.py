"""Detections from other people's files, by the command and by the reader."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from benchmarks.datasets import own
from benchmarks.datasets.exporting import export
from benchmarks.datasets.prepared import PreparedDataset
from benchmarks.datasets.splits import load_split
from benchmarks.detections import Detections, read
from benchmarks.errors import DataError, RequestError
from benchmarks.metrics import EVALUATOR_VERSION
from benchmarks.metrics.records import agree, measure, recompute, update
from benchmarks.store import CellPaths, RunRecord, write_atomic, write_record
from tests.benchmarks.conftest import make_record
from tests.benchmarks.test_metrics import oracle
from tests.benchmarks.test_run import call
from tests.datasets.conftest import write_folder
from tests.datasets.test_own import png

SPLIT = "synthetic_small-4fold-v2"


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
        x, y, w, h = (v / 128 for v in e["bbox"])
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
        f"without any row: 349 of 350 images, for example {test_images[1]}; nothing was found there?",
        "left out: 3 detections beyond the best 100 of their image",
    ]
    file.write_text(json.dumps(results(synthetic, split.train[:3])))
    with pytest.raises(DataError, match=r"no detection of the 350 images .* --fold"):
        read(file, synthetic, test_images)


GOOD = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", "not readable as JSON"),
        ('{"images": []}', "not a list of detections"),
        ("[]", "no detection of the 350 images"),
        ("[3]", "entry 0: not an object with image_id"),
        ('[{"image_id": 1}]', "entry 0: not an object with image_id"),
        ([GOOD, {**GOOD, "image_id": 4711}], r"entry 1: synthetic_small has no image 4711.*annotations\.json"),
        ([{**GOOD, "image_id": "no_such"}], "has no image 'no_such'"),
        ([{**GOOD, "image_id": True}], "has no image True"),
        ([{**GOOD, "category_id": 0}], r"category_id 0 is not of 1 to 6 \(crack"),
        ([{**GOOD, "category_id": 7}], "category_id 7 is not of 1 to 6"),
        ([{**GOOD, "bbox": [1, 2, 3]}], "bbox is not four finite numbers"),
        ([{**GOOD, "bbox": [1, 2, 3, float("nan")]}], "bbox is not four finite numbers"),
        ([{**GOOD, "bbox": [150, 2, 20, 4]}], r"lies outside of part_000\.png, 128 x 128"),
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
        ("part_000", "0 0.5 0.5 0.1 0.1", r"line 1: 5 fields.*save_conf=True"),
        ("part_000", "0 0.5 0.5 x 0.1 0.9", "line 1: not a class and five numbers"),
        ("part_000", "6 0.5 0.5 0.1 0.1 0.9", "class 6 is not of 0 to 5"),
        ("part_000", "0 0.5 0.5 inf 0.1 0.9", "not finite"),
        ("part_000", "0 50 50 10 10 0.9", r"outside of .*YOLO: fractions"),
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
    file.write_text(json.dumps([{**entry, "bbox": [-0.5, 0, 129, 128]}]))
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
        (("--detections", "x.json", "--dataset", "synthetic_small", "--fold", "9"), "folds 0 to 3"),
        (("r.json", "--out", "m.json"), "--out goes with --detections"),
        (("r.json", "--fold", "0"), "--fold goes with --detections"),
        (("r.profile.json",), "only profiles are given"),
        (("r.profile.json", "--evaluator", "pycocotools"), "only profiles are given"),
        (("r.json", "--detections", "x.json"), "give run records, or"),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_a_wrong_request_is_exit_2(data_root: Path, synthetic, arguments: tuple[str, ...], hint: str) -> None:
    done = call("evaluate", *arguments, "--data-root", data_root)
    assert done.returncode == 2, done.stderr
    assert hint in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def own_set(tmp_path: Path, content: dict, name: str = "mine"):
    """A set of ten images made from one COCO file, and its images."""
    files = {f"s/{i['file_name']}": png(k) for k, i in enumerate(content["images"])}
    source = write_folder(tmp_path / name, files | {"s/all.json": json.dumps(content).encode()})
    data = own.prepare(name, tmp_path / "data", source)
    return data, [i["file_name"] for i in data.images]


def coco_of(names: list[str], ids: list, categories: list[dict]) -> dict:
    return {
        "images": [{"id": i, "file_name": n} for i, n in zip(ids, names, strict=True)],
        "categories": categories,
        "annotations": [
            {"id": k, "image_id": i, "category_id": categories[-1]["id"], "bbox": [2 + k, 3, 10, 8]}
            for k, i in enumerate(ids)
        ],
    }


NAMES = [f"p{k}.png" for k in range(6)]
CATEGORIES = [{"id": 4, "name": "dent"}, {"id": 2, "name": "burr"}]


def perfect(content: dict, **more) -> list[dict]:
    rows = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"]} for a in content["annotations"]
    ]
    return [{**row, "score": 0.9, **more} for row in rows]


@pytest.mark.parametrize(
    "ids", [[9, 8, 7, 6, 5, 4], [2, 3, 4, 5, 6, 1], [0, 1, 2, 3, 4, 5], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], list("abcdef")]
)
def test_results_are_read_in_the_ids_of_the_source(tmp_path: Path, ids: list) -> None:
    content = coco_of(NAMES, ids, CATEGORIES)
    data, names = own_set(tmp_path, content)
    file = tmp_path / "found.json"
    file.write_text(json.dumps(perfect(content)))
    got = read(file, data, names).detections
    assert got.labels.tolist() == [2] * 6
    assert got.boxes[:, 0].tolist() == [2, 3, 4, 5, 6, 7]  # each on its own image


def test_results_in_the_ids_of_our_export(tmp_path: Path) -> None:
    for k, ids in enumerate(([9, 8, 7, 6, 5, 4], list("abcdef"))):
        data, names = own_set(tmp_path, coco_of(NAMES, ids, CATEGORIES), f"mine{k}")
        export(data, "coco", tmp_path / f"out{k}")
        content = json.loads((tmp_path / f"out{k}/annotations/instances_all.json").read_text())
        file = tmp_path / "found.json"
        file.write_text(json.dumps(perfect(content)))
        got = read(file, data, names).detections
        assert got.boxes[:, 0].tolist() == [2, 3, 4, 5, 6, 7]


def test_names_go_before_ids(tmp_path: Path) -> None:
    content = coco_of([f"{k}.png" for k in range(6)], [3, 4, 5, 0, 1, 2], CATEGORIES)
    data, names = own_set(tmp_path, content)
    file = tmp_path / "found.json"

    def labels_of(rows: list[dict]) -> list[tuple[str, float]]:
        file.write_text(json.dumps(rows))
        got = read(file, data, names).detections
        return [(got.file_names[i], float(x)) for i, x in zip(got.image_index(), got.boxes[:, 0], strict=True)]

    right = [(f"{k}.png", 2.0 + k) for k in range(6)]
    rows = perfect(content)
    assert labels_of(rows) == right
    # As ultralytics writes: the number that the file is called by, and its name.
    theirs = [{**row, "image_id": k, "file_name": f"{k}.png"} for k, row in enumerate(rows)]
    assert labels_of(theirs) == right
    named = [{**row, "file_name": f"/data/mine/{k}.png", "image_id": 100 + k} for k, row in enumerate(rows)]
    assert labels_of(named) == right
    bare = [
        {"file_name": f"{k}.png", "category_name": "burr", "bbox": r["bbox"], "score": 1} for k, r in enumerate(rows)
    ]
    assert labels_of(bare) == right


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file_name": "p3.png"}, r"image_id 9 is p0\.png, file_name says p3\.png; leave out"),
        ({"file_name": "q.png"}, r"has no image called 'q\.png'"),
        ({"category_name": "dent"}, "category_id 2 is 'burr', category_name says 'dent'; leave out"),
        ({"category_name": "rust"}, "category_name 'rust' is not of dent, burr"),
        ({"category_id": 1}, "category_id 1 is not of 4 dent, 2 burr"),
        ({"image_id": 1}, "has no image 1; image_id is an id of the COCO file"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    content = coco_of(NAMES, [9, 8, 7, 6, 5, 4], CATEGORIES)
    data, names = own_set(tmp_path, content)
    rows = perfect(content)
    file = tmp_path / "found.json"
    file.write_text(json.dumps([{**rows[0], **change}, *rows[1:]]))
    with pytest.raises(DataError, match=message) as caught:
        read(file, data, names)
    assert "entry 0" in str(caught.value)
    file.write_text(json.dumps([rows[0], {**rows[1], "image_id": 9, "file_name": "p1.png"}]))
    with pytest.raises(DataError, match=r"image_id 9 is p0\.png, file_name says p1\.png"):
        read(file, data, names)


def test_ids_of_several_files_need_a_word(tmp_path: Path) -> None:
    """train.json and val.json both count from 0: the ids say nothing, unless the part is all of one file."""
    parts = {"train": NAMES[:4], "val": NAMES[4:]}
    files = {f"s/{part}/{n}": png(crc32(n.encode()) % 1000) for part, names in parts.items() for n in names}
    contents = {part: coco_of(names, list(range(len(names))), CATEGORIES) for part, names in parts.items()}
    files |= {f"s/{part}/_annotations.coco.json": json.dumps(c).encode() for part, c in contents.items()}
    data = own.prepare("mine", tmp_path / "data", write_folder(tmp_path / "src", files))
    file = tmp_path / "found.json"
    file.write_text(json.dumps(perfect(contents["val"])))
    val = load_split("mine", "mine-own-v1", 0, tmp_path / "data").test
    assert sorted(val) == ["val/p4.png", "val/p5.png"]
    assert read(file, data, val).detections.boxes[:, 0].tolist() == [2, 3]
    some = ["train/p0.png", "val/p4.png"]
    with pytest.raises(DataError, match=r"image_id 0 is .* of several COCO files; write file_name"):
        read(file, data, some)
    got = read(file, data, ["train/p0.png", "val/p4.png"], ids=tmp_path / "src/s/val/_annotations.coco.json")
    assert got.detections.offsets.tolist() == [0, 0, 1]
    with pytest.raises(DataError, match="no COCO file with images"):
        read(file, data, some, ids=file)


def test_ids_of_an_export_are_not_taken_for_the_sources(tmp_path: Path) -> None:
    """One image is in no COCO file, so that exports have ids of their own, shifted against the source's."""
    content = coco_of(NAMES[1:], [0, 1, 2, 3, 4], CATEGORIES)
    files = {f"s/{n}": png(crc32(n.encode()) % 1000) for n in NAMES} | {"s/all.json": json.dumps(content).encode()}
    source = write_folder(tmp_path / "src", files)
    data = own.prepare("mine", tmp_path / "data", source, policy={"missing_annotation": "fix"})
    export(data, "coco", tmp_path / "out", None)
    exported = json.loads((tmp_path / "out/annotations/instances_all.json").read_text())
    truth = {name: [a["bbox"] for a in data.boxes(name)] for name in NAMES}
    file = tmp_path / "found.json"

    def found(rows: list[dict]) -> dict[str, list[list[float]]]:
        file.write_text(json.dumps(rows))
        got = read(file, data, NAMES).detections
        return {n: got.boxes[got.offsets[i] : got.offsets[i + 1]].tolist() for i, n in enumerate(NAMES)}

    corners = {n: [[x, y, x + w, y + h] for x, y, w, h in boxes] for n, boxes in truth.items()}
    assert found(perfect(exported)) == found(perfect(content)) == corners
    both = [row for row in perfect(content) if row["image_id"] > 0]
    with pytest.raises(DataError, match=r"that of the COCO file .* or that of an export"):
        found(both)
    named = [{**row, "file_name": NAMES[1:][row["image_id"]]} for row in both]
    assert sum(map(len, found(named).values())) == len(both)


def test_classes_whose_ids_files_do_not_agree_on(tmp_path: Path) -> None:
    """`dent` is 2 in both files, the others are not alike: 2 is dent there and scratch in an export."""
    alike, other = dict(id=2, name="dent"), [dict(id=1, name="scratch"), dict(id=3, name="scratch")]
    files = {f"s/{part}/{n}": png(crc32(n.encode()) % 1000) for part, n in zip("aaabbb", NAMES, strict=True)}
    for part, names, second in (("a", NAMES[:3], other[0]), ("b", NAMES[3:], other[1])):
        content = coco_of(names, [10 + NAMES.index(n) for n in names], [alike, second])
        for annotation in content["annotations"]:
            annotation["category_id"] = 2 if annotation["image_id"] % 2 else second["id"]
        files[f"s/{part}/labels.json"] = json.dumps(content).encode()
    data = own.prepare("mine", tmp_path / "data", write_folder(tmp_path / "src", files))
    number = data.classes.index("dent") + 1
    file = tmp_path / "found.json"
    row = {"image_id": 10, "bbox": [1, 1, 5, 5], "score": 0.5}
    file.write_text(json.dumps([{**row, "category_id": 2}]))
    names = tuple(image["file_name"] for image in data.images)
    if number == 2:
        assert read(file, data, names).detections.labels.tolist() == [2]
    else:
        with pytest.raises(DataError, match=r"'dent' in the source, .* and 'scratch' in an export"):
            read(file, data, names)
    file.write_text(json.dumps([{**row, "category_name": "dent"}]))
    assert read(file, data, names).detections.labels.tolist() == [number]


def test_rows_that_are_repeated_are_said(tmp_path: Path) -> None:
    content = coco_of(NAMES, [9, 8, 7, 6, 5, 4], CATEGORIES)
    data, names = own_set(tmp_path, content)
    rows = perfect(content)
    file = tmp_path / "found.json"
    file.write_text(json.dumps(rows + rows[:2]))
    notes = read(file, data, names).notes(100)
    assert [n for n in notes if "repeated to the last digit: 2 rows" in n]


def test_yolo_labels_of_an_export_whose_images_were_renamed(tmp_path: Path) -> None:
    """a.png and a.jpg cannot share a.txt: what the export calls them is understood when its results come back."""
    names = ["sub/a.png", "sub/a.bmp", "b.png", "c.png", "d.png", "e.png"]
    data, order = own_set(tmp_path, coco_of(names, list(range(6)), CATEGORIES))
    export(data, "yolo", tmp_path / "out")
    labels = tmp_path / "labels"
    labels.mkdir()
    for file in (tmp_path / "out/labels/all").rglob("*.txt"):
        (labels / file.name).write_text("".join(f"{line} 0.9\n" for line in file.read_text().splitlines()))
    got = read(labels, data, order).detections
    np.testing.assert_allclose(got.boxes[:, 0], [2, 3, 4, 5, 6, 7], atol=1e-6)


@pytest.mark.parametrize("make", ["plain", "crowds", "many_detections", "no_detections"])
def test_the_reference_implementation_has_the_numbers_that_are_recorded(make: str) -> None:
    """Through `evaluate`, also where an image has more than 100 detections, of which the best 100 count."""
    from benchmarks.metrics.evaluator import evaluate
    from benchmarks.metrics.reference import NAMES, coco_numbers
    from tests.benchmarks import test_metrics

    truth, found = getattr(test_metrics, make)(np.random.default_rng(3))
    truth["annotations"][1]["ignore"] = 1
    got = evaluate(truth, found, test_metrics.CLASSES, resamples=2)
    theirs = coco_numbers(truth, found, test_metrics.CLASSES)
    assert [getattr(got, name) for name in NAMES] == pytest.approx(theirs, abs=1e-9)


@pytest.fixture
def published(synthetic, test_images, tmp_path: Path) -> tuple[RunRecord, CellPaths]:
    """A record that its detections bear out."""
    split = load_split("synthetic_small", SPLIT, 0)
    file = tmp_path / "found.json"
    file.write_text(json.dumps(results(synthetic, test_images)))
    content = read(file, synthetic, test_images).detections.dumps()
    versions = {"data": synthetic.manifest_digest, "split": split.digest, "evaluator": EVALUATOR_VERSION}
    record = make_record(
        fingerprint=make_record().fingerprint.model_copy(update=versions),
        detections_sha256=hashlib.sha256(content).hexdigest(),
        metrics=measure(synthetic, split, Detections.loads(content, "here"), None),
    )
    paths = CellPaths.of(tmp_path / "runs", record.cell)
    write_atomic(paths.detections, content)
    write_record(paths.record, record)
    return record, paths


def test_a_training_that_diverged_stops_no_others(published, data_root: Path, tmp_path: Path) -> None:
    gone = make_record(status="diverged", metrics=None, error="loss")
    path = CellPaths.of(tmp_path, gone.cell).record
    write_record(path, gone)
    for more in ((), ("--evaluator", "pycocotools"), ("--rewrite",)):
        done = call("evaluate", path, *more, "--data-root", data_root)
        assert done.returncode == 0, done.stderr
        assert "diverged, there is nothing to evaluate" in " ".join(done.stdout.split())
        assert "pycocotools has" not in done.stdout, "of nothing"


def test_options_of_records_are_refused_beside_detections(tmp_path: Path) -> None:
    for option in (("--rewrite",), ("--evaluator", "pycocotools")):
        done = call("evaluate", "--detections", tmp_path / "found.json", "--dataset", "synthetic_small", *option)
        assert done.returncode == 2
        assert f"{option[0]} " in done.stderr


def test_an_interval_without_width_is_called_degenerate() -> None:
    from rich.console import Console

    from benchmarks.evaluate import summary
    from tests.benchmarks.test_metrics_by_hand import BOX, A, measure

    console = Console(width=120)
    with console.capture() as capture:
        console.print(summary("perfect", measure([([(A, *BOX)], [(A, 0.9, *BOX)])] * 20)))
    rows = [[cell.strip() for cell in line.split("│")] for line in capture.get().splitlines()]
    assert next(row[3] for row in rows if row[1:3] == ["AP50", "100.0"]) == "degenerate"


def test_a_record_of_another_split_list_is_refused(published, data_root: Path) -> None:
    record, paths = published
    elsewhere = record.fingerprint.model_copy(update={"split": "0" * 64})
    write_record(paths.record, record.model_copy(update={"fingerprint": elsewhere}))
    for options in ((), ("--rewrite",), ("--evaluator", "pycocotools")):
        done = call("evaluate", paths.record, *options, "--data-root", data_root)
        assert done.returncode == 1, options
        assert f"split list '{SPLIT}' is not the one" in " ".join(done.stderr.split())


def moved(numbers: dict, by: float) -> dict:
    return {name: [v + by for v in values] for name, values in numbers.items()}


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda m: {}, True),
        (lambda m: {"draws": moved(m.draws, 1e-4)}, True),  # of which rounding may decide the last decimal
        (lambda m: {"draws": moved(m.draws, 2e-4)}, False),
        (lambda m: {"draws": {**m.draws, "AP50": [m.AP50] * len(m.draws["AP50"])}}, False),
        (lambda m: {"draws": {**m.draws, "AP50": m.draws["AP50"][1:]}}, False),
        (lambda m: {"intervals": {**m.intervals, "AP50": (m.AP50 - 1e-4, m.AP50 + 1e-4)}}, False),
        (lambda m: {"standard_errors": {name: v / 2 for name, v in m.standard_errors.items()}}, False),
        (lambda m: {"effective_groups": 2 * m.effective_groups}, False),
    ],
    ids=["as it is", "rounded", "moved", "shrunk", "fewer", "interval", "errors", "groups"],
)
def test_what_rests_on_resamples_comes_out_again_too(published, data_root: Path, change, same: bool) -> None:
    record, paths = published
    assert record.metrics.draws
    altered = type(record.metrics).model_validate({**record.metrics.model_dump(), **change(record.metrics)})
    again = recompute(record, paths, data_root)
    assert agree(record.model_copy(update={"metrics": altered}), again) is same
    before = record.fingerprint.model_copy(update={"evaluator": EVALUATOR_VERSION - 1})
    assert agree(record.model_copy(update={"metrics": altered, "fingerprint": before}), again), "others drew them"


def test_numbers_that_are_a_sources_texts_and_ours_too_are_refused(tmp_path: Path) -> None:
    """Tools that call int() on ids write 1 for "1", which is another image's number in the prepared set."""
    content = coco_of(
        NAMES, [str(k) for k in range(6, 0, -1)], [{"id": "2", "name": "dent"}, {"id": "1", "name": "burr"}]
    )
    data, names = own_set(tmp_path, content)
    file = tmp_path / "found.json"
    file.write_text(json.dumps(perfect(content)))
    assert read(file, data, names).detections.boxes[:, 0].tolist() == [2, 3, 4, 5, 6, 7]
    whole = [{**row, "image_id": int(row["image_id"])} for row in perfect(content)]
    file.write_text(json.dumps(whole))
    with pytest.raises(DataError, match="image_id 1 may be the id '1' of the source or the number 1 of"):
        read(file, data, names)
    file.write_text(json.dumps([{**row, "category_id": int(row["category_id"])} for row in perfect(content)]))
    with pytest.raises(DataError, match="category_id 1 may be the id '1' of the source, 'burr', or ours, 'dent'"):
        read(file, data, names)


@pytest.mark.parametrize(
    ("names", "label"),
    [(["a.png", "a.bmp", "b.png", "c.png", "d.png"], "a"), (["a.png", "sub/a.png", "b.png", "c.png", "d.png"], "a")],
)
def test_a_label_file_of_several_images_is_given_to_none(tmp_path: Path, names: list[str], label: str) -> None:
    data, order = own_set(tmp_path, coco_of(names, list(range(5)), CATEGORIES))
    labels = tmp_path / "labels"
    labels.mkdir()
    for stem in (label, "b"):
        (labels / f"{stem}.txt").write_text("0 0.5 0.5 0.2 0.2 0.9\n")
    with pytest.raises(DataError, match=r"a.txt may hold the detections of a.png and of (a.bmp|sub/a.png)"):
        read(labels, data, order)
    (labels / f"{label}.txt").unlink()
    (labels / "B.TXT").unlink(missing_ok=True)
    (labels / "b.txt").rename(labels / "b.TXT")
    (labels / "c.txt").write_bytes(b"\xef\xbb\xbf0 0.5 0.5 0.2 0.2 0.9\n")
    assert len(read(labels, data, order).detections.boxes) == 2, "of any capitals, with a mark of the encoding or none"
    file = tmp_path / "found.json"
    file.write_text(json.dumps([{"image_id": label, "category_id": 2, "bbox": [1, 1, 4, 4], "score": 0.5}]))
    with pytest.raises(DataError, match="has no image 'a'"):
        read(file, data, order)


def test_names_of_the_source_are_understood_where_an_image_was_encoded_anew(tmp_path: Path) -> None:
    content = coco_of(["a.png", "b.png", "c.png", "d.png", "e.png", "f.png"], list(range(6)), CATEGORIES)
    data, names = own_set(tmp_path, content)
    file = tmp_path / "found.json"
    file.write_text(
        json.dumps([{**row, "file_name": f"{n[0]}.jpg"} for n, row in zip(names, perfect(content), strict=True)])
    )
    assert read(file, data, names).detections.boxes[:, 0].tolist() == [2, 3, 4, 5, 6, 7]


def test_boxes_of_very_long_images_are_kept(tmp_path: Path) -> None:
    boxes = np.array([[70000.0, 10, 70020, 30], [3, 4, 5, 6]])
    one = Detections.from_images(["a.png"], [(boxes, np.array([0.9, 0.8]), np.array([1, 1]))])
    np.testing.assert_array_equal(Detections.loads(one.dumps(), "here").boxes, boxes)


def test_a_number_of_hundreds_of_digits_is_no_number(tmp_path: Path) -> None:
    data, names = own_set(tmp_path, coco_of(NAMES, list(range(6)), CATEGORIES))
    file = tmp_path / "found.json"
    huge = "1" + "0" * 400
    file.write_text(f'[{{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, {huge}], "score": 0.5}}]')
    with pytest.raises(DataError, match="not four finite numbers"):
        read(file, data, names)


def test_evaluating_again_keeps_what_a_training_left_out(published, data_root: Path) -> None:
    """Images that a model cannot be trained on are none of its training images (`starting.trainable`)."""
    record, paths = published
    write_record(paths.record, record.model_copy(update={"train_images": 7}))
    assert update(record.model_copy(update={"train_images": 7}), paths, data_root).train_images == 7
    split = load_split("synthetic_small", SPLIT, 0)
    assert update(record.model_copy(update={"train_images": None}), paths, data_root).train_images == len(split.train)


def numbered(tmp_path: Path, drop: str = "") -> tuple[PreparedDataset, tuple[str, ...], list[dict]]:
    """Ten images whose ids are one above the numbers that their files are called by: set, test part, perfect rows."""
    names = [f"{k:03d}.png" for k in range(10)]
    content = coco_of(names, list(range(1, 11)), CATEGORIES)
    files = {f"s/{name}": png(k) for k, name in enumerate(names)} | {"s/all.json": json.dumps(content).encode()}
    if drop:
        files[f"s/{drop}"] = b"no image"
    source = write_folder(tmp_path / "numbered", files)
    data = own.prepare("numbered", tmp_path / "data", source, policy={"corrupt_image": "drop"})
    test = load_split("numbered", "numbered-5fold-v1", 0, tmp_path / "data").test
    return data, test, perfect(content)


def test_ids_of_the_source_stay_ids_where_one_of_its_images_was_dropped(tmp_path: Path) -> None:
    """Every number is also one that a file is called by; they were all taken for such, and every box was wrong."""
    data, test, rows = numbered(tmp_path, drop="004.png")
    file = tmp_path / "found.json"
    file.write_text(json.dumps([row for row in rows if row["image_id"] <= 9]))
    with pytest.raises(DataError, match="has no image 5"):
        read(file, data, test)
    file.write_text(json.dumps([row for row in rows if row["image_id"] != 5]))
    got = read(file, data, test).detections
    assert len(got.labels) == len(test)
    wanted = [2 + int(name[:3]) for name in got.file_names]
    assert got.boxes[:, 0].tolist() == wanted


def test_numbers_that_files_are_called_by_are_not_taken_for_ids_of_the_source(tmp_path: Path) -> None:
    data, test, rows = numbered(tmp_path)
    called = {int(name[:3]) for name in test}
    file = tmp_path / "found.json"
    file.write_text(
        json.dumps([{**r, "image_id": r["image_id"] - 1} for r in rows if r["image_id"] - 1 in called - {0}])
    )
    with pytest.raises(DataError, match="may be an id or the number that a file"):
        read(file, data, test)


def test_a_name_with_dots_is_no_other_images(tmp_path: Path) -> None:
    """Tools write the stem, which may end in what looks like a suffix."""
    names = [f"part{k}{more}.png" for k in range(2) for more in ("", ".1", ".2")]
    content = coco_of(names, list(range(6)), CATEGORIES)
    data, order = own_set(tmp_path, content)
    stems = {i["id"]: i["file_name"].removesuffix(".png") for i in content["images"]}
    file = tmp_path / "found.json"
    file.write_text(json.dumps([{**row, "image_id": stems[row["image_id"]]} for row in perfect(content)]))
    got = read(file, data, order).detections
    assert got.boxes[:, 0].tolist() == [2, 3, 4, 5, 6, 7]


def test_boxes_as_fractions_are_refused_and_corners_are_told(tmp_path: Path) -> None:
    content = coco_of(NAMES, [9, 8, 7, 6, 5, 4], CATEGORIES)
    data, names = own_set(tmp_path, content)
    rows = perfect(content)
    file = tmp_path / "found.json"
    file.write_text(json.dumps([{**row, "bbox": [v / 100 for v in row["bbox"]]} for row in rows]))
    with pytest.raises(DataError, match="every bbox lies in 0 to 1: fractions"):
        read(file, data, names)
    corners = [{**row, "bbox": [x, y, x + w, y + h]} for row in rows for x, y, w, h in [row["bbox"]]]
    said = "are they x1 y1 x2 y2?"
    for found, doubtful in ((corners, False), ([*corners, *corners], True)):
        file.write_text(json.dumps([{**row, "score": 0.9 - k / 100} for k, row in enumerate(found)]))
        assert (said in " ".join(read(file, data, names).notes(100))) is doubtful, "six boxes tell too little"
    away = {**rows[0], "bbox": [20, 18, 4, 4], "score": 0.1}
    file.write_text(json.dumps([*({**r, "score": 0.9 - k / 100} for k, r in enumerate([*corners, *corners])), away]))
    assert said not in " ".join(read(file, data, names).notes(100))


def test_a_bare_name_that_images_of_two_folders_have_is_refused(tmp_path: Path) -> None:
    names = ["a.png", "sub/a.png", "b.png", "c.png", "d.png", "e.png"]
    content = coco_of(names, list(range(6)), CATEGORIES)
    data, order = own_set(tmp_path, content)
    named = {i["id"]: i["file_name"] for i in content["images"]}
    file = tmp_path / "found.json"
    rows = [{**row, "image_id": named[row["image_id"]].rpartition("/")[2]} for row in perfect(content)]
    file.write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"may mean a\.png or sub/a\.png by 'a\.png'"):
        read(file, data, order)
    for root in ("", "./"):
        states = {k: name if "/" in name else root + name for k, name in named.items()}
        file.write_text(json.dumps([{**row, "image_id": states[row["image_id"]]} for row in perfect(content)]))
        assert read(file, data, order).detections.boxes[:, 0].tolist() == [2, 3, 4, 5, 6, 7]
    file.write_text(json.dumps([{**perfect(content)[0], "image_id": "./a.png"}]))
    assert read(file, data, order).detections.boxes[:, 0].tolist() == [2], "where no other row states a folder"


def test_of_yolo_files_the_classes_numbers_are_told_and_ids_refused(tmp_path: Path) -> None:
    data, order = own_set(tmp_path, coco_of(NAMES, list(range(6)), CATEGORIES))
    labels = write_folder(tmp_path / "labels", {f"p{k}.txt": b"0 0.5 0.5 0.2 0.2 0.9\n" for k in range(6)})
    assert read(labels, data, order).notes(100) == ["classes by their numbers: 0 dent, 1 burr"]
    with pytest.raises(RequestError, match="--ids is for COCO results"):
        read(labels, data, order, tmp_path / "nothing.json")


def test_what_validation_lacks_is_said_too(synthetic, test_images, data_root: Path, tmp_path: Path) -> None:
    file, val = tmp_path / "found.json", tmp_path / "val.json"
    file.write_text(json.dumps(results(synthetic, test_images)))
    val.write_text(json.dumps(results(synthetic, load_split("synthetic_small", SPLIT, 0).val[:1])))
    arguments = ("--detections", file, "--dataset", "synthetic_small", "--validation", val)
    done = call("evaluate", *arguments, "--data-root", data_root)
    assert done.returncode == 0, done.stderr
    assert "validation: without any row: " in " ".join(done.stdout.split())

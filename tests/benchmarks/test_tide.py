"""Kinds of errors against the two implementations that others use: tidecv, the paper's own, and hotcoco."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.datasets.prepared import PreparedDataset, ensure, prepare
from benchmarks.datasets.splits import load_split
from benchmarks.detections import Detections
from benchmarks.errors import RequestError
from benchmarks.metrics import MAX_DETECTIONS, tide
from benchmarks.metrics.scene import Scene
from benchmarks.store import Stored, scan
from tests.benchmarks.test_metrics import CLASSES, empty_images, many_detections, plain

RESULTS = Path(__file__).parents[2] / "results"
NAMES = {
    "classification": "Cls",
    "localisation": "Loc",
    "both": "Both",
    "duplicate": "Dupe",
    "background": "Bkg",
    "missed": "Miss",
}


def rows(truth: dict, found: Detections):
    """Image id, class, score and box (x y w h) of each detection."""
    ids = {image["file_name"]: image["id"] for image in truth["images"]}
    columns = (found.image_index(), found.boxes.astype(float), found.scores.astype(float), found.labels)
    for i, (x1, y1, x2, y2), score, label in zip(*columns, strict=True):
        yield ids[found.file_names[i]], int(label), float(score), [x1, y1, x2 - x1, y2 - y1]


def tidecv(truth: dict, found: Detections) -> dict[str, tuple[int, float]]:
    """Counts and gains in [0, 1] by tidecv 1.0.1."""
    from tidecv import TIDE, Data

    boxes, detections = Data("boxes", MAX_DETECTIONS), Data("detections", MAX_DETECTIONS)
    for image in sorted(truth["images"], key=lambda image: image["id"]):
        boxes.add_image(image["id"], image["file_name"])
    for a in truth["annotations"]:
        boxes.add_ground_truth(a["image_id"], a["category_id"], box=a["bbox"])
    for image, label, score, box in rows(truth, found):
        detections.add_detection(image, label, score, box=box)
    with contextlib.redirect_stdout(io.StringIO()):
        run = TIDE().evaluate(boxes, detections, mode=TIDE.BOX)
    counts = {kind.short_name: n for kind, n in run.count_errors().items()}
    gains = {kind.short_name: gain / 100 for kind, gain in run.fix_main_errors().items()}
    return {kind: (counts[name], gains[name]) for kind, name in NAMES.items()}


def evaluated_by_hotcoco(truth: dict, found: Detections):
    """hotcoco 1.3.0's COCOeval, with detections matched."""
    from hotcoco import COCO, COCOeval

    boxes = COCO(truth)
    results = [
        {"image_id": image, "category_id": label, "bbox": box, "score": score}
        for image, label, score, box in rows(truth, found)
    ]
    run = COCOeval(boxes, boxes.load_res(results), "bbox")
    run.evaluate()
    return run


def hotcoco(truth: dict, found: Detections) -> dict[str, tuple[int, float]]:
    """The same by hotcoco 1.3.0."""
    got = evaluated_by_hotcoco(truth, found).tide_errors()
    return {kind: (got["counts"][name], got["delta_ap"][name]) for kind, name in NAMES.items()}


def ours(truth: dict, found: Detections, classes) -> dict[str, tuple[int, float]]:
    split = tide.split(Scene.of(truth, found, classes, per_image=MAX_DETECTIONS))
    return {kind: (error.count, error.dAP50) for kind, error in split.items()}


def same(a: dict[str, tuple[int, float]], b: dict[str, tuple[int, float]], gains: float = 1e-6) -> None:
    assert {kind: n for kind, (n, _) in a.items()} == {kind: n for kind, (n, _) in b.items()}
    assert [gain for _, gain in a.values()] == pytest.approx([gain for _, gain in b.values()], abs=gains)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", [plain, empty_images, many_detections])
def test_counts_and_gains_are_those_of_both(make, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, found = make(rng)
    same(ours(truth, found, CLASSES), tidecv(truth, found))
    found = dataclasses.replace(found, scores=rng.permutation(len(found.scores)) / len(found.scores))
    same(ours(truth, found, CLASSES), tidecv(truth, found))
    if make is not many_detections:  # it keeps 100 of each class of an image
        # Where no two scores are equal, which it ranks in another order; a recall on the border of a step may fall into
        # the next one, a hundredth of a class's precision.
        same(ours(truth, found, CLASSES), hotcoco(truth, found), gains=1 / 101)


def committed() -> list[Stored]:
    return [s for folder in sorted({RESULTS, *RESULTS.glob("_*")}) for s in scan(folder) if s.run.metrics is not None]


def of_record(stored: Stored, data: PreparedDataset) -> tuple[dict, Detections]:
    split = load_split(data.name, stored.run.cell.split, stored.run.cell.fold)
    found = Detections.loads(stored.paths.detections.read_bytes(), str(stored.paths.detections))
    return data.coco(split.test), found


@pytest.fixture(scope="module")
def with_data(tmp_path_factory) -> list[tuple[Stored, PreparedDataset]]:
    """Every committed record whose data set is here, and the set."""
    folder = Path(os.environ.get("CANET_BENCH_ARCHIVES", ""))
    archives = {p.stem.lower().replace("-", "_"): p for p in folder.glob("*.zip")}
    root, sets = tmp_path_factory.mktemp("data"), {}
    for name in {stored.run.cell.dataset for stored in committed()}:
        with contextlib.suppress(RequestError):
            sets[name] = prepare(name, root, archives.get(name))
    found = [(s, sets[s.run.cell.dataset]) for s in committed() if s.run.cell.dataset in sets]
    found = [(stored, data) for stored, data in found if data.manifest_digest == stored.run.fingerprint.data]
    assert found
    return found


@pytest.mark.slow
@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.nightly)])
def test_committed_records_have_the_errors_of_tidecv(with_data, every: int) -> None:
    """Records whose data set is here, to 1e-6: one in eight, and nightly all of them."""
    for stored, data in with_data[::every]:
        truth, found = of_record(stored, data)
        reference = tidecv(truth, found)
        same(ours(truth, found, data.classes), reference)
        recorded = stored.run.metrics.inspection.errors
        same({kind: (error.count, error.dAP50) for kind, error in recorded.items()}, reference)


COCO_NUMBERS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_1", "AR_10", "AR_100")


def coco_by_hotcoco(truth: dict, found: Detections) -> list[float | None]:
    run = evaluated_by_hotcoco(truth, found)
    run.accumulate()
    run.summarize()
    return [None if value < 0 else value for value in list(run.stats)[: len(COCO_NUMBERS)]]


def has_the_coco_numbers_of_hotcoco(stored: Stored, data: PreparedDataset) -> None:
    reference = coco_by_hotcoco(*of_record(stored, data))
    recorded = [getattr(stored.run.metrics, name) for name in COCO_NUMBERS]
    assert recorded == pytest.approx(reference, abs=1e-6), stored.paths.record


def test_the_gates_records_have_the_coco_numbers_of_hotcoco(data_root: Path) -> None:
    data = ensure("synthetic_smoke", data_root)
    gate = [s for s in scan(RESULTS / "_gate") if s.run.fingerprint.data == data.manifest_digest]
    assert gate, "no record of the gate is of today's synthetic_smoke"
    for stored in gate:
        has_the_coco_numbers_of_hotcoco(stored, data)


@pytest.mark.slow
def test_committed_records_have_the_coco_numbers_of_hotcoco(with_data) -> None:
    """Every record whose data set is here, to 1e-6; there is no deviation to name."""
    for stored, data in with_data:
        has_the_coco_numbers_of_hotcoco(stored, data)

"""What the HTML page holds: the numbers of the tables and of the evaluator, escaped. How it behaves: `test_browser`."""

from __future__ import annotations

import base64
import gzip
import json
import re
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import t

from benchmarks.datasets.splits import load_split
from benchmarks.detections import Detections
from benchmarks.metrics import coco
from benchmarks.metrics.scene import Scene
from benchmarks.report import budget, cards, gallery, page, serving, sizes, tables
from benchmarks.report.__main__ import app
from benchmarks.report.comparisons import difference, unpaired
from benchmarks.report.rows import Spreads, Value, rows
from benchmarks.report.sizes import by_size
from benchmarks.results import ClassMetrics
from benchmarks.store import scan, write_record
from tests.benchmarks import fabricated
from tests.benchmarks.conftest import RECIPE, make_cell, make_metrics


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    """Records of three models on a set with hostile class names: the records, the data set, the page's content."""
    root = tmp_path_factory.mktemp("fabricated")
    data = fabricated.data_set(root, test_images=24)
    list(fabricated.results(root / "results", data, fabricated.CELLS[:3]))
    records = list(scan(root / "results"))
    return records, data, page.page_content(records, data_root=root / "data")


def test_a_gallery_at_the_operating_points_is_what_the_evaluator_counts(made) -> None:
    """Precision and recall from the very marks that are drawn; all test images are in it."""
    records, data, content = made
    shown = content["sections"][0]["gallery"]
    assert len(shown["images"]) == shown["of_images"] == 24
    assert shown["classes"] == [n.replace("\u202e", "\\u202e").replace("\u2066", "\\u2066") for n in data.classes]
    by_name = {row["name"]: i for i, row in enumerate(content["sections"][0]["rows"])}
    for record in records:
        m = next(m for m, model in enumerate(shown["models"]) if model["row"] == by_name[record.run.cell.name])
        threshold = shown["models"][m]["threshold"]
        kept = [d for image in shown["images"] for d in image["found"][m] if d[4] >= threshold]
        right, boxes = sum(d[6] == 1 for d in kept), sum(not b[6] for i in shown["images"] for b in i["boxes"])
        point = record.run.metrics.inspection.operating_point
        assert (right / len(kept), right / boxes) == (pytest.approx(point.precision), pytest.approx(point.recall))


def test_curves_and_sums_agree_with_the_record(made) -> None:
    records, _, content = made
    for row in content["sections"][0]["rows"]:
        metrics = next(r.run.metrics for r in records if r.run.cell.name == row["name"])
        assert row["accuracy"]["AP50"][0] == pytest.approx(metrics.AP50, rel=1e-4)
        for (value, boxes, curve), of_class in zip(row["classes"].values(), metrics.per_class.values(), strict=True):
            assert boxes == of_class.boxes
            assert np.mean(curve) / 1000 == pytest.approx(of_class.AP50, abs=1e-3)
            assert value[:3] == pytest.approx([of_class.AP50, *of_class.AP50_interval], rel=1e-4)
        assert np.sum(row["confusion"]["matrix"]) == np.sum(metrics.inspection.confusion.matrix)
        assert sum(n for n, _, _ in row["calibration"]) == sum(metrics.inspection.calibration.counts)
        assert [(p, v) for p, v, _, _ in row["froc"]] == [
            (float(p), pytest.approx(v, rel=1e-4)) for p, v in metrics.inspection.FROC.items()
        ]


def test_the_verdict_is_that_of_the_summary(made) -> None:
    records, _, content = made
    sentences = content["sections"][0]["verdict"]
    for sentence in sentences:
        assert f"- {sentence}" in tables.markdown(rows(records), records)
    for _, _, reason, *effects in content["sections"][0]["pairs"]:
        assert reason.startswith("Fewer than 3 trainings")
        told = [effect for effect in effects if effect is not None]
        assert len(told) >= 10, "of every metric that both have"
        assert all(effect[3] is None for effect in told), "no p where nothing is ranked"
        assert all(effect[6] == ("images only" if effect[1] is not None else "nothing") for effect in told)
        assert effects[0][6] == "images only"


def test_a_pair_is_the_difference_of_the_tables(stored, tmp_path: Path) -> None:
    """Of ranked rows the very effect that the summary prints, with its p."""
    for seed in range(3):
        for model, ap50 in (("canet", 0.6), ("fasterrcnn_fpn", 0.5)):
            drawn = tuple(ap50 + 0.001 * i for i in range(100))
            metrics = make_metrics(ap50 + 0.002 * seed * (model == "canet"), AP50_draws=drawn)
            stored("results", make_cell(model=model, seed=seed), metrics=metrics)
    found = rows(scan(tmp_path / "results"))
    groups = [[s for s in scan(tmp_path / "results") if s.run.cell_id in row.cell_ids] for row in found]
    ranked = [replace(row, learning="converged") for row in found]
    (pair,) = page._pairs(ranked, groups)
    effect = difference(ranked[1], ranked[0], ranked[1].samples, ranked[0].samples)
    assert effect is not None
    assert pair[:3] == [1, 0, None]
    assert pair[3] == [effect.mean, *effect.interval, effect.p, 3, effect.better, effect.covers]
    (pair,) = page._pairs(found, groups)
    assert pair[2].startswith("Not told whether trained to the end")
    assert pair[3][3] is None


def _at(model: str, *, errors: dict[str, float], recall: float = 0.6, runs: int = 3, **recipe: object) -> list[Any]:
    """Cells and metrics of so many trainings whose records keep no draws of AP75, AR and the like."""
    out = []
    for seed in range(runs):
        metrics = make_metrics(
            0.5, AP75=recall + 0.01 * seed * (model == "canet"), standard_errors=errors, intervals={}, groups=50
        )
        cell = make_cell(model=model, seed=seed, recipe=RECIPE.model_copy(update=recipe))
        out.append((cell, metrics))
    return out


def _differences(stored, folder: Path, *sides: list[Any]) -> tuple[list[Any], dict[str, Any]]:
    """The pair of two rows that are trained to the end, and its effects by the metric."""
    for cell, metrics in (one for side in sides for one in side):
        stored(folder.name, cell, metrics=metrics)
    records = list(scan(folder))
    found = [replace(row, learning="converged") for row in rows(records)]
    (pair,) = page._pairs(found, [[s for s in records if s.run.cell_id in row.cell_ids] for row in found])
    return pair, dict(zip(page.PAIRED, pair[3:], strict=True))


def test_without_draws_a_difference_has_the_error_of_independent_images(stored, tmp_path: Path) -> None:
    """Not that of one side alone, which a difference of two does not have."""
    sides = _at("canet", errors={"AP75": 0.03}), _at("fasterrcnn_fpn", errors={"AP75": 0.04}, recall=0.5)
    pair, of = _differences(stored, tmp_path / "both", *sides)
    mean, low, high, p, runs, better, covers = of["AP75"]
    images, trainings = 0.05**2, 0.01**2 / 3
    variance = images + trainings
    freedom = variance**2 / (images**2 / 49 + trainings**2 / 2)
    assert (mean, runs, better, covers) == (pytest.approx(-0.11), 3, 0, "trainings and images")
    assert high - low == pytest.approx(2 * t.ppf(0.975, freedom) * variance**0.5, rel=0.02)
    assert p == pytest.approx(2 * t.sf(0.11 / variance**0.5, freedom))
    assert pair[2] is None


@pytest.mark.parametrize("theirs", [{}, {"AP75": 0.0}])
def test_where_an_error_over_images_is_not_known_there_is_no_interval_and_no_p(stored, tmp_path, theirs) -> None:
    sides = _at("canet", errors={"AP75": 0.03}), _at("fasterrcnn_fpn", errors=theirs, recall=0.5)
    _, of = _differences(stored, tmp_path / "one", *sides)
    assert of["AP75"] == [pytest.approx(-0.11), None, None, None, 3, 0, "nothing"]


@pytest.mark.parametrize(("runs", "interval"), [(1, True), (2, False)])
def test_no_metric_has_a_p_from_fewer_than_three_trainings(stored, tmp_path: Path, runs: int, interval: bool) -> None:
    sides = (_at(model, errors={"AP75": 0.03}, runs=runs) for model in ("canet", "fasterrcnn_fpn"))
    pair, of = _differences(stored, tmp_path / "few", *sides)
    assert pair[2].startswith("Fewer than 3 trainings")
    assert of["AP75"][3:5] == [None, runs]
    assert (of["AP75"][1] is not None) == interval, "two values are two values"


def test_different_recipes_are_not_paired(stored, tmp_path: Path) -> None:
    """Another length of training is another question; a learning rate is each model's own."""
    sides = _at("canet", errors={"AP75": 0.03}), _at("fasterrcnn_fpn", errors={"AP75": 0.03}, epochs=4)
    pair, of = _differences(stored, tmp_path / "longer", *sides)
    assert pair[2] == "Trained by different recipes (epochs 4 and 2). They are not paired."
    assert set(of.values()) == {None}
    sides = _at("canet", errors={"AP75": 0.03}), _at("fasterrcnn_fpn", errors={"AP75": 0.03}, lr=0.01)
    pair, of = _differences(stored, tmp_path / "rate", *sides)
    assert pair[2] is None
    assert of["AP75"] is not None
    a, b = rows(scan(tmp_path / "rate"))
    assert unpaired(a, replace(b, device_class="another")).startswith("Not of one table")


def test_an_interval_without_width_is_none(stored, tmp_path: Path) -> None:
    """A model that finds all of the few boxes there are is not certain to find the next."""
    perfect = ClassMetrics(AP=1.0, AP50=1.0, boxes=12, AP50_interval=(1.0, 1.0))
    metrics = make_metrics(1.0, AP50_interval=(1.0, 1.0), AP50_draws=(1.0,) * 50, groups=30, per_class={"pit": perfect})
    content = page.page_content([stored("results", metrics=metrics)], data_root=tmp_path)
    (row,) = content["sections"][0]["rows"]
    assert row["accuracy"]["AP50"] == [1.0, None, None, "nothing"]
    assert row["classes"]["pit"][0][:3] == [1.0, None, None]
    assert content["records"][0]["accuracy"]["AP50"] == [1.0, None, None]


def test_curves_by_size_add_up_to_the_records_recall(made) -> None:
    """Hits by size over the boxes are the record's FROC; and the mean height of a curve is COCO's AP50 of the size."""
    records, data, content = made
    section = content["sections"][0]
    split = load_split(fabricated.NAME, fabricated.SPLIT, 0, data.root.parent)
    for row, own in zip(section["rows"], section["by_size"]["rows"], strict=True):
        (record,) = [r for r in records if r.run.cell.name == row["name"]]
        metrics = record.run.metrics
        assert own["trainings"] == 1
        assert list(own["sizes"]) == ["small", "medium"], "no large box is in the set: nothing is said of it"
        assert [size[0] for size in own["sizes"].values()] == [metrics.boxes_small, metrics.boxes_medium]
        for i, (point, recall) in enumerate(metrics.inspection.FROC.items()):
            hits = sum(boxes * froc[i][1] for boxes, _, froc, _ in own["sizes"].values())
            assert (float(point), hits / metrics.boxes) == (froc_point(own, i), pytest.approx(recall, abs=1e-3))
        detections = Detections.loads(record.paths.detections.read_bytes(), "here")
        scene = Scene.of(data.coco(split.test), detections, data.classes, per_image=100)
        precision = coco.accumulate(scene).precision[coco.AT_50, ..., -1]
        for a, size in enumerate(own["sizes"].values(), start=1):
            assert np.mean(size[1]) / 1000 == pytest.approx(np.nanmean(precision[..., a]), abs=1e-3)


def test_trainings_are_read_in_turns_over_the_folds(made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three of one fold and one of another both, as the curves beside them; and that is said."""
    records, data, _ = made
    (first, *_) = records
    cells = [(0, 0), (0, 1), (0, 2), (1, 0)]
    group = []
    for fold, seed in cells:
        cell = first.run.cell.model_copy(update={"fold": fold, "seed": seed})
        group.append(replace(first, run=first.run.model_copy(update={"cell": cell})))
    assert [(s.run.cell.fold, s.run.cell.seed) for s in sizes._in_turns(group)] == [(0, 0), (1, 0), (0, 1), (0, 2)]
    monkeypatch.setattr(sizes, "MOST_TRAININGS", 2)
    own_list = sizes.load_split
    monkeypatch.setattr(sizes, "load_split", lambda a, b, fold, root: own_list(a, b, 0, root))
    (told,) = by_size([group], data.root.parent)["rows"]
    assert (told["trainings"], told["folds"]) == (2, [0, 1])


def froc_point(own: dict[str, Any], i: int) -> float:
    return own["sizes"]["small"][2][i][0]


def test_rows_without_detections_have_no_curves_by_size_and_others_keep_theirs(made, tmp_path: Path) -> None:
    records, data, _ = made
    lost = [replace(s, paths=replace(s.paths, root=tmp_path)) for s in records[:1]]
    told = by_size([lost, records[1:2]], data.root.parent)["rows"]
    assert told[0] is None
    assert told[1]["trainings"] == 1
    assert by_size([lost], data.root.parent) == {"absent": "No detections lie beside these records."}
    assert by_size([records], tmp_path / "empty")["absent"].startswith("Ground truth is needed")


def test_suspects_are_what_no_box_explains_and_what_all_miss(made) -> None:
    _, _, content = made
    shown = content["sections"][0]["gallery"]
    assert shown["suspects"]["unboxed"]
    assert shown["suspects"]["missed_by_all"]
    for entry in shown["suspects"]["missed_by_all"]:
        image = shown["images"][entry["image"]]
        (at,) = [j for j, box in enumerate(image["boxes"]) if box[:4] == entry["box"]]
        for model, found in zip(shown["models"], image["found"], strict=True):
            assert not any(d[6] == 1 and d[7] == at and d[4] >= model["threshold"] for d in found)
    for entry in shown["suspects"]["unboxed"]:
        image = shown["images"][entry["image"]]
        for m in entry["models"]:
            assert any(d[6] == 0 and d[4] >= shown["models"][m]["threshold"] for d in image["found"][m])


def test_without_detections_or_ground_truth_the_gallery_says_why(stored, tmp_path: Path) -> None:
    stored("results", make_cell(dataset="neu_det", split="neu_det-5fold-v2"))
    (section,) = page.page_content(list(scan(tmp_path / "results")), data_root=tmp_path)["sections"]
    assert section["gallery"] == {"absent": "No detections lie beside these records."}


def test_another_prepared_set_is_no_ground_truth(made, tmp_path: Path) -> None:
    records, _, _ = made
    gone = page.page_content(records, data_root=tmp_path)["sections"][0]["gallery"]
    assert gone["absent"].startswith("Ground truth is needed")


def test_why_there_is_no_ground_truth_is_said(made, tmp_path: Path) -> None:
    """The list is another matter than the set; and a list of another digest tells of other images."""
    records, data, _ = made
    run = records[0].run
    root = data.root.parent
    assert not isinstance(gallery.tested_on(run, root), str)
    gone = run.model_copy(update={"cell": run.cell.model_copy(update={"split": "fabricated-gone-v1"})})
    assert gallery.tested_on(gone, root) == (
        "Which images were tested is not known here: the split list fabricated-gone-v1 is missing, or its fold."
    )
    other = run.model_copy(update={"fingerprint": run.fingerprint.model_copy(update={"split": "another"})})
    said = f"The split list {fabricated.SPLIT} that lies here is not the one that these records were made from."
    assert gallery.tested_on(other, root) == said
    path = data.root / "splits" / "fabricated-damaged-v1.json"
    path.write_text("{")
    try:
        damaged = run.model_copy(update={"cell": run.cell.model_copy(update={"split": path.stem})})
        assert gallery.tested_on(damaged, root) == "The split list fabricated-damaged-v1 that lies here is damaged."
    finally:
        path.unlink()


def test_an_area_in_the_gallery_stays_on_its_side_of_a_border(made, monkeypatch: pytest.MonkeyPatch) -> None:
    """A box of 255.6 is below 16 x 16 pixels, and one of 1024.4 is not small."""
    records, data, _ = made
    truth = data.coco(load_split(fabricated.NAME, fabricated.SPLIT, 0, data.root.parent).test)
    for box, area in zip(truth["annotations"], (255.6, 1024.4, 400.0), strict=False):
        box["area"] = area
    shown = gallery._see(0, records[0], truth, data)
    images = sorted(truth["images"], key=lambda image: int(image["id"]))
    areas = [b[5] for i, entry in enumerate(images) for b in gallery._image([shown], i, entry, data, False)["boxes"]]
    assert {255.6, 1024.4, 400} <= set(areas)


def test_a_box_in_the_gallery_has_its_own_area_beside_a_masks(made) -> None:
    records, data, _ = made
    truth = data.coco(load_split(fabricated.NAME, fabricated.SPLIT, 0, data.root.parent).test)
    masked, whole = truth["annotations"][:2]
    masked |= {"bbox": [5.0, 5.0, 20.0, 16.0], "area": 200.0}
    whole |= {"bbox": [5.0, 5.0, 20.0, 16.0], "area": 320.0}
    shown = gallery._see(0, records[0], truth, data)
    images = sorted(truth["images"], key=lambda image: int(image["id"]))
    boxes = [b for i, entry in enumerate(images) for b in gallery._image([shown], i, entry, data, False)["boxes"]]
    assert [b[5:] for b in boxes if b[:4] == [5, 5, 20, 16]] == [[200, 0, 320], [320, 0]]


def test_the_gallery_counts_every_row_and_says_what_thresholds_were_chosen_on(made, tmp_path: Path) -> None:
    records, data, content = made
    assert {m["chosen_on"] for m in content["sections"][0]["gallery"]["models"]} == {"validation"}
    changed = []
    for record, lacks in zip(records, (("operating_point",), ("operating_point", "best_F1"), ()), strict=True):
        seen = record.run.metrics.inspection.model_copy(update=dict.fromkeys(lacks))
        metrics = record.run.metrics.model_copy(update={"inspection": seen})
        changed.append(replace(record, run=record.run.model_copy(update={"metrics": metrics})))
    lost = make_cell(dataset=fabricated.NAME, split=fabricated.SPLIT, model="fcos", image_size=fabricated.SIDE)
    without = records[0].run.model_copy(
        update={"cell": lost, "cell_id": lost.id, "detections_sha256": None, "val_detections_sha256": None}
    )
    changed.append(replace(records[0], run=without))
    (section,) = page.page_content(changed, data_root=data.root.parent)["sections"]
    shown = section["gallery"]
    assert {m["chosen_on"] for m in shown["models"]} == {"nothing", "test", "validation"}
    (none,) = [m["threshold"] / shown["steps"] for m in shown["models"] if m["chosen_on"] == "nothing"]
    assert none == pytest.approx(0.5, abs=1e-4)
    assert (len(shown["models"]), shown["of_models"], len(section["rows"])) == (3, 4, 4)


def test_a_course_has_its_schedule_and_what_diverged_at_each_length() -> None:
    course = budget.Course(
        dataset="d",
        split="s",
        image_size=96,
        device_class=None,
        name="canet",
        label="CANet",
        recipe="r",
        builder=1,
        fold=2,
        values={9: [0.4], 18: [0.5, 0.6], 36: [0.7]},
        seconds=None,
        once=18,
        doubling=None,
        diverged={18: 1, 72: 2},
        made={},
    )
    assert page._course(course) == {
        "label": "CANet",
        "on": None,
        "fold": 2,
        "once": 18,
        "points": [[9, 0.4, 1, 0], [18, pytest.approx(0.55), 2, 1], [36, 0.7, 1, 0], [72, None, 0, 2]],
        "verdict": "not told",
    }


def test_a_confusion_is_there_where_any_training_has_one(made) -> None:
    """The first of a row may lack it, being older or without a threshold."""
    records, _, _ = made
    (first, *_) = records
    seen = first.run.metrics.inspection.model_copy(update={"confusion": None})
    lacks = first.run.model_copy(update={"metrics": first.run.metrics.model_copy(update={"inspection": seen})})
    got = page._confusion([replace(first, run=lacks), first, first])
    confusion = first.run.metrics.inspection.confusion
    assert got["matrix"] == (2 * np.array(confusion.matrix)).tolist()
    assert len(got["thresholds"]) == 2
    assert page._confusion([replace(first, run=lacks)]) is None


def test_a_record_without_facts_does_not_say_what_it_started_from(stored, tmp_path: Path) -> None:
    stored("results", model=None)
    content = page.page_content(list(scan(tmp_path / "results")), data_root=tmp_path)
    assert content["records"][0]["start"] is None
    assert content["sections"][0]["rows"][0]["pretrained"] is None


def _html(text: str) -> str:
    """The page without what is packed."""
    return re.sub(r"(<script type=\"application/octet-stream\"[^>]*>)[^<]*", r"\1", text)


def test_the_page_holds_no_name_unescaped_and_asks_for_nothing(made, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, content = made
    monkeypatch.setattr(page, "_vega", lambda: "window.vegaEmbed = null;")
    hostile = {**content, "sections": [{**s, "title": fabricated.HOSTILE[0]} for s in content["sections"]]}
    hostile["sections"][0]["verdict"] = ['Best: </li><img src=x onerror="alert(1)">{{script}} \u202e']
    text = page.render(page._all_plain(hostile))
    seen = _html(text)
    assert "<script>alert" not in seen
    assert "&lt;script&gt;alert" in seen
    assert "<img" not in seen
    assert seen.count("use strict") == 1, "what is put in is not looked into"
    assert "\u202e" not in seen
    # Namespaces aside, no address at all.
    assert set(re.findall(r"https?://[^\"' )]+", seen)) <= {"http://www.w3.org/2000/svg"}
    packed = re.search(r'id="content">([^<]*)<', text)
    assert packed is not None
    assert json.loads(gzip.decompress(base64.b64decode(packed[1]))) == json.loads(json.dumps(page._all_plain(hostile)))
    assert page.render(page._all_plain(hostile)) == text, "equal for equal content"


def test_images_are_in_it_only_when_asked_for(made) -> None:
    records, data, content = made
    assert "picture" not in json.dumps(content)
    section = page.page_content(records, data_root=data.root.parent, with_images=True)["sections"][0]
    assert all(image["picture"].startswith("data:image/webp;base64,") for image in section["gallery"]["images"])


def test_the_command_needs_its_extra_and_its_options_need_the_page(tmp_path: Path, monkeypatch) -> None:
    from typer.testing import CliRunner

    from benchmarks.errors import RequestError

    (tmp_path / "results").mkdir()
    base = ["--results", str(tmp_path / "results")]
    for options in (["--open"], ["--with-images"], ["--out", str(tmp_path / "page.html")], ["--cards", "x", "--open"]):
        got = CliRunner().invoke(app, [*base, *options])
        assert isinstance(got.exception, RequestError)
        assert "add --html" in str(got.exception)
    monkeypatch.setattr("benchmarks.extras.missing", lambda extra: f"vl_convert: install {extra}")
    got = CliRunner().invoke(app, [*base, "--html", "--out", str(tmp_path / "page.html")])
    assert "--html needs vl_convert" in str(got.exception)


def test_serving_is_for_this_machine_and_this_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("no")
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "a page.html").write_text("hello")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    made, address = serving.server(folder / "a page.html")
    threading.Thread(target=made.serve_forever, daemon=True).start()
    try:
        assert made.server_address[0] == "127.0.0.1"
        assert urllib.request.urlopen(address, timeout=10).read() == b"hello"
        base = address.rpartition("/")[0]
        for path in ("/", "/../secret.txt", "/%2e%2e/secret.txt", "/link.txt"):
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(base + path, timeout=10)
        with pytest.raises(urllib.error.HTTPError):  # DNS rebinding
            urllib.request.urlopen(urllib.request.Request(address, headers={"Host": "evil.example"}), timeout=10)
    finally:
        made.shutdown()
        made.server_close()


def test_a_card_says_what_the_records_say(made, tmp_path: Path) -> None:
    records, _, _ = made
    paths = cards.write_cards(records[0].paths.root, tmp_path)
    assert len(paths) == 3
    found = rows(records)
    for path, row in zip(paths, found, strict=True):
        text = path.read_text()
        head = yaml.safe_load(text.split("---\n")[1])
        assert head["model-index"][0]["results"][0]["metrics"][0]["value"] == round(100 * row.AP50, 1)
        assert head["license"] == "other", "a set of the user's own"
        assert f"| AP50 | {tables.percent(row.accuracy['AP50'])} | images only |" in text
        assert "It is ranked against nothing." in text
        assert "| class | AP50 | boxes, all trainings |" in text
        assert "| defect size | AP50 | boxes, all trainings |" in text
        assert "<script>" not in text
        assert "\u202e" not in text
        assert all(record.run.cell_id in text for record in records if record.run.cell.name == row.name)


def test_a_card_says_whose_set_it_is_how_images_are_cut_and_that_nothing_could_be_found(made, tmp_path: Path) -> None:
    records, data, _ = made
    (known, *_), (unknown, *_) = (
        cards.write_cards(records[0].paths.root, tmp_path / name, root)
        for name, root in (("known", data.root.parent), ("unknown", tmp_path))
    )
    assert "licence: yours to know" in known.read_text()
    assert "licence: not known here" in unknown.read_text()
    row = rows(records)[0]
    group = [s for s in records if s.run.cell_id in row.cell_ids]
    whole = cards.card(row, group, Spreads([]))
    assert "- input: longer side 96 px" in whole
    assert "no average precision" not in whole
    nothing = dict.fromkeys(row.accuracy, Value(None, None, "nothing"))
    cut = replace(row, request={**row.request, "tile": "64, overlap 16"}, accuracy=nothing)
    text = cards.card(cut, group, Spreads([]))
    assert "- input: tiles of 64, overlap 16 px of an image, each brought to longer side 96 px" in text
    assert "No test image holds a defect that counts" in text


@pytest.mark.parametrize("changed", ["reference", "machine"])
def test_a_ratio_that_is_not_the_tables_is_nowhere(tmp_path: Path, changed: str) -> None:
    """A model that was timed by itself is 1, and to the others' reference unknown; so is one of another machine."""
    data = fabricated.data_set(tmp_path, test_images=24)
    cells = (("canet", "default"), ("fasterrcnn_fpn", "default"), ("retinanet", "default"))
    list(fabricated.results(tmp_path / "results", data, cells=cells))
    for s in list(scan(tmp_path / "results")):
        if s.run.cell.model == "retinanet":
            reference = {"reference": "retinanet"} if changed == "reference" else {}
            alone = s.profile.latency.model_copy(update={"ratio": 1.0, **reference})
            cpu = {"cpu": "another"} if changed == "machine" else {}
            made = s.profile.provenance.model_copy(update=cpu)
            write_record(s.paths.profile, s.profile.model_copy(update={"latency": alone, "provenance": made}))
    content = page.page_content(list(scan(tmp_path / "results")), data_root=tmp_path / "data")
    (section,) = content["sections"]
    shown = {row["name"]: (row["ratio"] is None, row["latency"] is None) for row in section["rows"]}
    assert shown == {"canet": (False,) * 2, "fasterrcnn_fpn": (False,) * 2, "retinanet": (True,) * 2}
    assert {r["name"] for r in content["records"] if r["ratio"] is None} == {"retinanet"}

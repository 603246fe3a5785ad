"""What the HTML page holds: the numbers of the tables and of the evaluator, escaped. How it behaves: `test_browser`."""

from __future__ import annotations

import base64
import gzip
import json
import re
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks.report import cards, page, serving, tables
from benchmarks.report.__main__ import app
from benchmarks.report.rows import rows
from benchmarks.store import scan
from tests.benchmarks import fabricated
from tests.benchmarks.conftest import make_cell, make_metrics


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
        assert f"- {sentence}" in tables.markdown(records)
    for _, _, reason, effect, _ in content["sections"][0]["pairs"]:
        assert reason.startswith("Fewer than 3 trainings")
        assert effect[3] is None, "no p where nothing is ranked"
        assert effect[6] == "images only"


def test_a_pair_is_the_difference_of_the_tables(stored, tmp_path: Path) -> None:
    """Of ranked rows the very effect that the summary prints, with its p."""
    for seed in range(3):
        for model, ap50 in (("canet", 0.6), ("fasterrcnn_fpn", 0.5)):
            drawn = tuple(ap50 + 0.001 * i for i in range(100))
            metrics = make_metrics(ap50 + 0.002 * seed * (model == "canet"), AP50_draws=drawn)
            stored("results", make_cell(model=model, seed=seed), metrics=metrics)
    found = rows(scan(tmp_path / "results"))
    from dataclasses import replace

    from benchmarks.report.comparisons import difference

    ranked = [replace(row, learning="converged") for row in found]
    (pair,) = page._pairs(ranked)
    effect = difference(ranked[1], ranked[0], ranked[1].samples, ranked[0].samples)
    assert effect is not None
    assert pair[:3] == [1, 0, None]
    assert pair[3] == [effect.mean, *effect.interval, effect.p, 3, effect.better, effect.covers]
    (pair,) = page._pairs(found)
    assert pair[2].startswith("Not told whether trained to the end")
    assert pair[3][3] is None


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
    got = CliRunner().invoke(app, [*base, "--open"])
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
        assert "<script>" not in text
        assert "\u202e" not in text
        assert all(record.run.cell_id in text for record in records if record.run.cell.name == row.name)

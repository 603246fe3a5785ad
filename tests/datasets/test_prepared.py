"""Preparing: complete, atomic, repeatable, and one clear line when the input is wrong."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.datasets import prepared
from benchmarks.datasets.prepared import ensure, is_prepared, open_prepared, prepare, verify
from benchmarks.errors import DataError, RequestError
from tests.datasets.conftest import voc, write_folder, write_zip

pytestmark = pytest.mark.usefixtures("small_neu")
XML = "NEU-DET/ANNOTATIONS/crazing_1.xml"
JPG = "NEU-DET/IMAGES/crazing_1.jpg"


def left_behind(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir()) if root.exists() else []


def test_a_small_neu_det(tmp_path, neu_files):
    data = prepare("neu_det", tmp_path / "data", write_zip(tmp_path / "n.zip", neu_files))
    assert [i["file_name"] for i in data.images] == ["crazing_1.jpg", "patches_7.jpg", "scratches_2.jpg"]
    assert data.path("crazing_1.jpg").read_bytes() == neu_files[JPG]
    part = data.coco(["scratches_2.jpg", "crazing_1.jpg"])
    assert [i["id"] for i in part["images"]] == [3, 1]
    assert [(a["image_id"], a["category_id"], a["bbox"]) for a in part["annotations"]] == [
        (3, 6, [100, 3, 10, 187]),
        (1, 1, [10, 12, 50, 58]),
    ]
    assert [c["name"] for c in part["categories"]] == list(data.classes)
    assert left_behind(tmp_path / "data") == ["neu_det"]
    with pytest.raises(DataError, match=r"no image 'x\.jpg'"):
        data.path("x.jpg")


def test_archive_and_folder_make_the_same_set(tmp_path, neu_files):
    a = prepare("neu_det", tmp_path / "a", write_zip(tmp_path / "n.zip", neu_files))
    b = prepare("neu_det", tmp_path / "b", write_folder(tmp_path / "n", neu_files))
    assert a.manifest_digest == b.manifest_digest


def test_the_layout_with_train_and_validation_makes_the_same_set(tmp_path, neu_files):
    parted = {}
    for i, (name, content) in enumerate(sorted(neu_files.items())):
        part, file = ("train", "validation")[i % 2], name.rpartition("/")[2]  # an image and its XML may be parted too
        folder = f"images/{file.rpartition('_')[0]}" if file.endswith(".jpg") else "annotations"
        parted[f"NEU-DET/{part}/{folder}/{file}"] = content
    a = prepare("neu_det", tmp_path / "a", write_zip(tmp_path / "n.zip", neu_files))
    b = prepare("neu_det", tmp_path / "b", write_folder(tmp_path / "n", parted))
    assert a.manifest_digest == b.manifest_digest


def test_a_second_run_is_up_to_date(tmp_path, neu_files):
    source, lines = write_zip(tmp_path / "n.zip", neu_files), []
    prepare("neu_det", tmp_path / "data", source)
    before = os.stat(tmp_path / "data/neu_det/manifest.json").st_ino
    prepare("neu_det", tmp_path / "data", source, report=lines.append)
    assert "up to date" in lines[-1]
    prepare("neu_det", tmp_path / "data", None, report=lines.append)
    assert "up to date" in lines[-1]
    assert os.stat(tmp_path / "data/neu_det/manifest.json").st_ino == before
    prepare("neu_det", tmp_path / "data", source, force=True)
    assert os.stat(tmp_path / "data/neu_det/manifest.json").st_ino != before


WRONG = {
    "inverted box": (XML, voc(("crazing", 60, 12, 10, 70)).encode(), r"crazing_1\.xml: box .* is inverted: xmax"),
    "outside the image": (XML, voc(("crazing", 10, 12, 201, 70)).encode(), r"crazing_1\.xml: box .* leaves the image"),
    "unknown class": (XML, voc(("rust", 1, 2, 3, 4)).encode(), r"crazing_1\.xml: class 'rust' is not one of crazing"),
    "not a number": (
        XML,
        voc(("crazing", "a", 2, 3, 4)).encode(),
        r"crazing_1\.xml: object 1 \(crazing\): <xmin> is 'a', not a number",
    ),
    "NaN": (XML, voc(("crazing", 1, "nan", 3, 4)).encode(), r"box .* is not finite"),
    "no XML": (XML, b"<annotation><object>", r"crazing_1\.xml: not well-formed XML"),
    "other XML": (XML, b"<html/>", r"root element is <html>"),
    "entities": (XML, b'<!DOCTYPE x [<!ENTITY a "b">]><annotation/>', r"declares a document type"),
    "no box": (XML, b"<annotation><object><name>crazing</name></object></annotation>", r"no <bndbox>/<xmin>"),
    "no image": (JPG, b"no image", r"crazing_1\.jpg: not a JPEG"),
    "a GIF": (JPG, b"GIF89a\x01\x00\x01\x00\x00\x00\x00;", r"crazing_1\.jpg: not a JPEG"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_input_is_named_and_leaves_nothing(tmp_path, neu_files, what):
    name, content, message = WRONG[what]
    source = write_zip(tmp_path / "n.zip", neu_files | {name: content})
    with pytest.raises(DataError, match=message) as caught:
        prepare("neu_det", tmp_path / "data", source)
    assert "\n" not in str(caught.value)
    assert left_behind(tmp_path / "data") == []


def test_a_truncated_jpeg(tmp_path, neu_files):
    source = write_folder(tmp_path / "n", neu_files | {JPG: neu_files[JPG][:-600]})
    with pytest.raises(DataError, match=r"crazing_1\.jpg: damaged image"):
        prepare("neu_det", tmp_path / "data", source)


@pytest.mark.parametrize(
    ("gone", "message"), [(XML, r"no annotation crazing_1\.xml"), (JPG, r"no image crazing_1\.jpg")]
)
def test_what_is_missing_is_named(tmp_path, neu_files, gone, message):
    del neu_files[gone]
    with pytest.raises(DataError, match=message):
        prepare("neu_det", tmp_path / "data", write_folder(tmp_path / "n", neu_files))


def test_an_incomplete_source(tmp_path, neu_files):
    del neu_files[XML], neu_files[JPG]
    with pytest.raises(DataError, match="2 images and 3 boxes, the data set has 3 and 4"):
        prepare("neu_det", tmp_path / "data", write_folder(tmp_path / "n", neu_files))


def test_another_archive_is_called_so(tmp_path, neu_files):
    files = {name: data for name, data in neu_files.items() if name.endswith(".jpg")}
    with pytest.raises(DataError, match="another archive than that of neu_det"):
        prepare("neu_det", tmp_path / "data", write_folder(tmp_path / "n", files))


def test_a_failed_run_leaves_the_old_state(tmp_path, neu_files):
    old = prepare("neu_det", tmp_path / "data", write_zip(tmp_path / "n.zip", neu_files))
    bad = write_zip(tmp_path / "bad.zip", neu_files | {JPG: b"no image"})
    with pytest.raises(DataError):
        prepare("neu_det", tmp_path / "data", bad)
    assert verify("neu_det", tmp_path / "data").manifest_digest == old.manifest_digest
    assert left_behind(tmp_path / "data") == ["neu_det"]


def test_killed_at_any_step_the_old_or_the_new_state_is_there(tmp_path, neu_files, monkeypatch):
    root = tmp_path / "data"
    old = prepare("neu_det", root, write_zip(tmp_path / "n.zip", neu_files))
    changed = write_zip(tmp_path / "m.zip", neu_files | {XML: voc(("crazing", 1, 2, 30, 40)).encode()})

    class Killed(BaseException):
        pass

    steps = ("mkdir", "write_bytes", "rename")
    real = {name: getattr(Path, name) for name in steps}
    seen = Counter()
    states = set()
    monkeypatch.setattr(prepared.shutil, "rmtree", lambda *a, **k: None)  # a killed process cleans nothing up
    for stop in range(1, 40):
        count = 0

        def step(name, stop=stop):
            def wrapped(self, *args, **kwargs):
                nonlocal count
                count += 1
                if count == stop:
                    raise Killed
                return real[name](self, *args, **kwargs)

            return wrapped

        with monkeypatch.context() as m:
            for name in steps:
                m.setattr(Path, name, step(name))
            m.setattr(prepared.socket, "gethostname", lambda stop=stop: f"run{stop}")
            try:
                prepare("neu_det", root, changed)
            except Killed:
                seen["killed"] += 1
        data = verify("neu_det", root)
        states.add(data.manifest_digest)
        if count < stop:
            break
    assert seen["killed"] > 5
    assert old.manifest_digest in states
    assert len(states) == 2
    assert data.manifest_digest != old.manifest_digest


def test_damage_after_preparing_is_found(tmp_path, neu_files):
    source = write_zip(tmp_path / "n.zip", neu_files)
    prepare("neu_det", tmp_path, source)
    image = tmp_path / "neu_det/images/crazing_1.jpg"
    content = image.read_bytes()
    image.write_bytes(content[:-1] + b"x")
    open_prepared("neu_det", tmp_path)
    with pytest.raises(DataError, match=r"crazing_1\.jpg was changed"):
        verify("neu_det", tmp_path)
    image.write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"crazing_1\.jpg has \d+ bytes, not \d+; prepare it again"):
        open_prepared("neu_det", tmp_path)
    image.unlink()
    with pytest.raises(DataError, match=r"crazing_1\.jpg is missing"):
        open_prepared("neu_det", tmp_path)
    prepare("neu_det", tmp_path, source)  # mends it
    verify("neu_det", tmp_path)
    annotations = tmp_path / "neu_det/annotations.json"
    annotations.write_text(annotations.read_text().replace("200", "201", 1))
    with pytest.raises(DataError, match="was changed"):
        open_prepared("neu_det", tmp_path)
    (tmp_path / "neu_det/manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        open_prepared("neu_det", tmp_path)


def test_requests_that_cannot_be_met(tmp_path):
    with pytest.raises(RequestError, match="did you mean 'neu_det'"):
        prepare("neu-det", tmp_path)
    with pytest.raises(RequestError, match="prepare neu_det --from PATH"):
        open_prepared("neu_det", tmp_path)
    with pytest.raises(RequestError, match="needs its archive"):
        prepare("neu_det", tmp_path)
    with pytest.raises(RequestError, match="leave --from out"):
        prepare("synthetic_small", tmp_path, tmp_path)
    assert not is_prepared("neu_det", tmp_path)


@pytest.mark.skipif(
    getattr(os, "geteuid", int)() == 0, reason="root may write anywhere, and Windows knows no such user"
)
def test_a_read_only_root(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="ermission"):
        prepare("synthetic_small", tmp_path / "data")


def test_a_made_set_of_another_version_is_made_again_and_that_is_said(tmp_path: Path, synthetic) -> None:
    shutil.copytree(synthetic.root, tmp_path / synthetic.name)
    manifest = tmp_path / synthetic.name / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 2', '"version": 1'))
    with pytest.raises(DataError, match="another version"):
        open_prepared("synthetic_small", tmp_path)
    said: list[str] = []
    with pytest.MonkeyPatch.context() as m:
        m.setattr(prepared, "prepare", lambda *a: said.append("made") or synthetic)
        assert ensure("synthetic_small", tmp_path, said.append) is synthetic
    assert [line.partition(" in ")[0] for line in said] == ["synthetic_small: version 1", "made"]
    manifest.write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        ensure("synthetic_small", tmp_path)

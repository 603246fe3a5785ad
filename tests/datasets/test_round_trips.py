"""Sets with odd names, folders, sizes, ids and empty images come through every format unchanged, to 0.01 px.

Exports are read back by the code of the tool they are for: pycocotools, and ultralytics' own rule for label files.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks.datasets import own
from benchmarks.datasets.exporting import export
from tests.datasets.conftest import write_folder

CLASSES = ("dent", "Kratzer/tief", "NO", 'ding & <"x"> ü', "010")
FOLDERS = ("", "a b", "ä", "x.y", "Train", "001", "a b/x.y")

# Enough to meet each kind of name; `CANET_BENCH_EXAMPLES=500` looks longer.
few = settings(
    max_examples=int(os.environ.get("CANET_BENCH_EXAMPLES", "8")),
    deadline=None,
    derandomize="CANET_BENCH_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)

Box = tuple[str, float, float, float, float]


@dataclass(frozen=True)
class Picture:
    """An image of a made-up set: its path, size, and boxes as class, x, y, width, height."""

    name: str
    size: tuple[int, int]
    boxes: tuple[Box, ...]


@st.composite
def box(draw: st.DrawFn, size: tuple[int, int], whole: bool) -> Box:
    step = 1 if whole else 1 / 64
    x, y = (draw(st.integers(0, int((side - 2) / step))) * step for side in size)
    w = draw(st.integers(int(1 / step), int((size[0] - x) / step))) * step
    h = draw(st.integers(int(1 / step), int((size[1] - y) / step))) * step
    return draw(st.sampled_from(CLASSES)), x, y, w, h


@st.composite
def sets(draw: st.DrawFn, whole: bool = False, suffixes: tuple[str, ...] = (".png",)) -> list[Picture]:
    """Five to eight images; names differ in more than capitals and accents, stems too where there is one suffix."""
    stems = st.text(st.sampled_from("abZ19 _-.,#%&'()[]{}+=@äß漢é"), min_size=1, max_size=8)
    stems = stems.filter(lambda s: s.strip(" .") == s and s)
    paths = st.tuples(st.sampled_from(FOLDERS), stems, st.sampled_from(suffixes))
    chosen = draw(st.lists(paths, min_size=5, max_size=8, unique_by=lambda p: plain("/".join(p[:2]) + p[2])))
    out = []
    for folder, stem, suffix in chosen:
        size = (draw(st.integers(8, 60)), draw(st.integers(8, 60)))
        boxes = draw(st.lists(box(size, whole), max_size=4, unique_by=lambda b: (b[0], *np.round(b[1:], 1))))
        out.append(Picture(f"{folder}/{stem}{suffix}".lstrip("/"), size, tuple(boxes)))
    return out


def plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def pixels(k: int, picture: Picture) -> bytes:
    rng = np.random.default_rng(k)
    out = io.BytesIO()
    format = {".png": "PNG", ".bmp": "BMP", ".tif": "TIFF"}[picture.name[-4:]]
    Image.fromarray(rng.integers(0, 256, picture.size[::-1], dtype=np.uint8)).save(out, format)
    return out.getvalue()


def as_coco(pictures: list[Picture], ids: list[int | str]) -> dict[str, bytes]:
    boxes = [(i, b) for i, p in zip(ids, pictures, strict=True) for b in p.boxes]
    content = {
        "images": [
            {"id": i, "file_name": p.name, "width": p.size[0], "height": p.size[1]}
            for i, p in zip(ids, pictures, strict=True)
        ],
        "categories": [{"id": 3 * k + 2, "name": name} for k, name in enumerate(CLASSES)],
        "annotations": [
            {"id": k, "image_id": i, "category_id": 3 * CLASSES.index(b[0]) + 2, "bbox": list(b[1:])}
            for k, (i, b) in enumerate(boxes)
        ],
    }
    files = {f"images/{p.name}": pixels(k, p) for k, p in enumerate(pictures)}
    return files | {"all.json": json.dumps(content).encode()}


def as_yolo(pictures: list[Picture]) -> dict[str, bytes]:
    files = {f"images/{p.name}": pixels(k, p) for k, p in enumerate(pictures)}
    for p in pictures:
        lines = [
            f"{CLASSES.index(c)} {(x + w / 2) / p.size[0]!r} {(y + h / 2) / p.size[1]!r} "
            f"{w / p.size[0]!r} {h / p.size[1]!r}"
            for c, x, y, w, h in p.boxes
        ]
        files[f"labels/{p.name[:-4]}.txt"] = "\n".join(lines).encode()
    names = json.dumps(list(CLASSES))  # JSON is YAML
    return files | {"data.yaml": f"train: images\nval: images\nnames: {names}\n".encode()}


def as_voc(pictures: list[Picture]) -> dict[str, bytes]:
    files = {f"JPEGImages/{p.name}": pixels(k, p) for k, p in enumerate(pictures)}
    for p in pictures:
        things = "".join(
            f"<object><name>{escape(c)}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + w}</xmax>"
            f"<ymax>{y + h}</ymax></bndbox></object>"
            for c, x, y, w, h in p.boxes
        )
        size = f"<size><width>{p.size[0]}</width><height>{p.size[1]}</height></size>"
        files[f"Annotations/{p.name[:-4]}.xml"] = f"<annotation>{size}{things}</annotation>".encode()
    return files


@contextlib.contextmanager
def prepared(files: dict[str, bytes], format: str) -> Iterator[tuple[own.PreparedDataset, Path]]:
    """The set that files make, and a folder to write to."""
    with tempfile.TemporaryDirectory() as folder:
        source = write_folder(Path(folder) / "s", files)
        yield own.prepare("mine", Path(folder) / "data", source, format=format), Path(folder)


def by_end(pictures: list[Picture], name: str) -> Picture:
    """The picture that a path is of: images are named below what all folders share."""
    found = [p for p in pictures if p.name == name or p.name.endswith("/" + name)]
    assert len(found) == 1, name
    return found[0]


def near(ours: list[Box], theirs: list[Box]) -> None:
    """The same boxes, in whatever order."""
    assert len(ours) == len(theirs)
    left = list(theirs)
    for one in ours:
        match = next(b for b in left if b[0] == one[0] and np.abs(np.subtract(b[1:], one[1:])).max() <= 0.01)
        left.remove(match)


def boxes(data: own.PreparedDataset, name: str) -> list[Box]:
    return [(data.classes[a["category_id"] - 1], *a["bbox"]) for a in data.boxes(name)]


def equal(data: own.PreparedDataset, pictures: list[Picture]) -> None:
    assert len(data.images) == len(pictures)
    for entry in data.images:
        picture = by_end(pictures, entry["file_name"])
        assert (entry["width"], entry["height"]) == picture.size
        near(boxes(data, entry["file_name"]), list(picture.boxes))


@few
@given(sets(suffixes=(".png", ".bmp", ".tif")), st.permutations(range(8)), st.booleans())
def test_coco(pictures: list[Picture], order: list[int], texts: bool) -> None:
    ids: list[int | str] = [f"i{k}" if texts else k for k in order[: len(pictures)]]
    with prepared(as_coco(pictures, ids), "coco") as (data, folder):
        equal(data, pictures)
        assert [i["source_id"] for i in data.images] == ids
        export(data, "coco", folder / "out")
        from pycocotools.coco import COCO

        with contextlib.redirect_stdout(io.StringIO()):
            theirs = COCO(str(folder / "out/annotations/instances_all.json"))
        assert len(theirs.imgs) == len(pictures)
        for number, entry in theirs.imgs.items():
            assert (folder / "out" / entry["file_name"]).is_file()
            picture = by_end(pictures, entry["file_name"].removeprefix("images/all/"))
            assert texts or number == ids[pictures.index(picture)]
            found = theirs.loadAnns(theirs.getAnnIds(imgIds=[number]))
            near([(theirs.cats[a["category_id"]]["name"], *a["bbox"]) for a in found], list(picture.boxes))


@few
@given(sets())
def test_yolo(pictures: list[Picture]) -> None:
    with prepared(as_yolo(pictures), "yolo") as (data, _):
        assert data.classes == CLASSES
        equal(data, pictures)


@few
@given(sets())
def test_voc(pictures: list[Picture]) -> None:
    if not any(p.boxes for p in pictures):
        return  # no class is stated anywhere
    with prepared(as_voc(pictures), "voc") as (data, _):
        equal(data, pictures)


@few
@given(sets(whole=True))
def test_masks(pictures: list[Picture]) -> None:
    """Rectangles of classes on one canvas: of those that overlap or touch the later are left out."""
    files, apart = {}, []
    for k, p in enumerate(pictures):
        canvas = np.zeros(p.size[::-1], dtype=np.uint8)
        kept = []
        for label, *place in p.boxes:
            x, y, w, h = map(int, place)
            if not canvas[max(y - 1, 0) : y + h + 1, max(x - 1, 0) : x + w + 1].any():
                canvas[y : y + h, x : x + w] = CLASSES.index(label) + 1
                kept.append((label, *place))
        apart.append(Picture(p.name, p.size, tuple(kept)))
        out = io.BytesIO()
        Image.fromarray(canvas).save(out, "PNG")
        files |= {f"images/{p.name}": pixels(k, p), f"masks/{p.name}": out.getvalue()}
    with prepared(files | {"classes.txt": "\n".join(CLASSES).encode()}, "masks") as (data, _):
        equal(data, apart)


@few
@given(sets(suffixes=(".png", ".bmp", ".tif")))
def test_an_export_to_yolo_is_read_by_ultralytics_rule_and_by_us(pictures: list[Picture]) -> None:
    """Also where a.png and a.bmp lie side by side, which then cannot both keep their names."""
    rule = pytest.importorskip("ultralytics.data.utils").img2label_paths
    with prepared(as_coco(pictures, list(range(len(pictures)))), "coco") as (data, folder):
        export(data, "yolo", folder / "out")
        images = sorted(p for p in (folder / "out/images").rglob("*") if p.suffix in (".png", ".bmp", ".tif"))
        assert len(images) == len(pictures)
        wanted = {i["file_name"]: boxes(data, i["file_name"]) for i in data.images}
        digests = {data.path(name).read_bytes(): name for name in wanted}
        for image, label in zip(images, rule([str(p) for p in images]), strict=True):
            name = digests[image.read_bytes()]
            width, height = data.image(name)["width"], data.image(name)["height"]
            found = []
            for line in Path(label).read_text(encoding="utf-8").splitlines():
                c, x, y, w, h = map(float, line.split())
                corner = ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height)
                found.append((CLASSES[int(c)], *corner))
            near(found, wanted[name])
        again = own.prepare("again", folder / "data", folder / "out")
        assert sorted(len(again.boxes(i["file_name"])) for i in again.images) == sorted(map(len, wanted.values()))

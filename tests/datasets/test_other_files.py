"""Inputs that tools choke on: each is read with the right boxes, or refused by a finding that names the file.

The kinds are those of public bug reports; every image is 48 x 32 px and the box, where nothing else is said, is BASE.
"""

from __future__ import annotations

import io
import json
import os
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

from benchmarks.datasets import catalogue, own
from benchmarks.datasets.exporting import export
from benchmarks.datasets.splits import groups_of, load_split, titles
from benchmarks.errors import DataError
from tests.datasets.conftest import write_folder

BASE = [18.0, 12.0, 12.0, 8.0]
LINE = b"0 0.5 0.5 0.25 0.25\n"
YAML = b"train: images\nval: images\nnames: [dent, scratch]\n"
Files = dict[str, bytes]


def image(seed: int, format: str = "PNG", size: tuple[int, int] = (48, 32), **options) -> bytes:
    rng = np.random.default_rng(seed)
    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, size[::-1], dtype=np.uint8)).save(out, format, **options)
    return out.getvalue()


def deep(seed: int, channels: int, top: int = 65536, format: str = "PNG") -> bytes:
    """16 bits a channel: grey by Pillow, colours by torchvision's or our own writing of the chunks."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, top, (32, 48, channels), dtype=np.uint16)
    pixels[0, 0], pixels[0, 1] = 0, top - 1
    out = io.BytesIO()
    if channels == 1:
        Image.fromarray(pixels[..., 0]).save(out, format)
        return out.getvalue()
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", 48, 32, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def mask(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (48, 32), white_first: bool = False) -> bytes:
    """White where a box (x, y, w, h) is; as a palette whose number 0 is white, or as grey."""
    pixels = np.zeros(size[::-1], dtype=np.uint8)
    for x, y, w, h in boxes:
        pixels[y : y + h, x : x + w] = 1
    out = io.BytesIO()
    picture = Image.fromarray(1 - pixels if white_first else pixels * 255)
    if white_first:
        picture.putpalette([255, 255, 255, 0, 0, 0] + [0] * 762)
    picture.save(out, "PNG")
    return out.getvalue()


def yolo(n: int = 6, images: str = "images/p{}.png", labels: str = "labels/p{}.txt", line: bytes = LINE) -> Files:
    files = {images.format(i): image(i) for i in range(n)} | {labels.format(i): line for i in range(n)}
    return files | {"data.yaml": YAML}


def coco(n: int = 6, called: str = "p{}.png", **change) -> Files:
    """`change` replaces fields of every image, category and annotation, by their names with i_, c_ and a_."""
    content = {
        "images": [{"id": i, "file_name": called.format(i), "width": 48, "height": 32} for i in range(n)],
        "categories": [{"id": 1, "name": "dent"}, {"id": 2, "name": "scratch"}],
        "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": BASE, "iscrowd": 0} for i in range(n)],
    }
    for field, value in change.items():
        for k, entry in enumerate(content[{"i": "images", "c": "categories", "a": "annotations"}[field[0]]]):
            entry[field[2:]] = value(k) if callable(value) else value
    return {f"images/p{i}.png": image(i) for i in range(n)} | {"labels.json": json.dumps(content).encode()}


def edited(files: Files, change: Callable[[dict], object], name: str = "labels.json") -> Files:
    content = json.loads(files[name])
    change(content)
    return files | {name: json.dumps(content).encode()}


def voc(*objects: str, size: str = "<size><width>48</width><height>32</height></size>") -> bytes:
    return f"<annotation>{size}{''.join(objects)}</annotation>".encode()


def bounds(x1: float, y1: float, x2: float, y2: float) -> str:
    return f"<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>"


def thing(*places: str, more: str = "") -> str:
    return f"<object><name>dent</name>{more}{''.join(places)}</object>"


ONE = voc(thing(bounds(18, 12, 30, 20)))


def vocs(n: int = 6, images: str = "img/{}.png", xml: str = "xml/{}.xml", text: bytes = ONE) -> Files:
    return {images.format(i): image(i) for i in range(n)} | {xml.format(i): text for i in range(n)}


def mvtec(ending: str = "_mask", suffix: str = ".png") -> Files:
    files = {f"train/good/00{i}{suffix}": image(i) for i in range(4)}
    files |= {f"test/good/00{i}{suffix}": image(10 + i) for i in range(3)}
    files |= {f"test/spot/00{i}{suffix}": image(20 + i) for i in range(3)}
    return files | {f"ground_truth/spot/00{i}{ending}{suffix}": mask((10, 8 + i, 10 + i, 6)) for i in range(3)}


def without(files: Files, *names: str) -> Files:
    return {name: data for name, data in files.items() if name not in names}


def boxes_of(data) -> dict[str, list[list[float]]]:
    return {i["file_name"]: [a["bbox"] for a in data.boxes(i["file_name"])] for i in data.images}


def labels_of(data) -> set[str]:
    return {data.classes[a["category_id"] - 1] for a in data.annotations}


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


E_ACUTE = unicodedata.normalize("NFC", "é")

# What -> (files, images, boxes that are all BASE)
READ: dict[str, tuple[Callable[[], Files], int, int]] = {
    "half of the labels are .TXT": (
        lambda: {k.replace("1.txt", "1.TXT").replace("3.txt", "3.TXT"): v for k, v in yolo().items()},
        6,
        6,
    ),
    "Images and Labels": (lambda: yolo(images="Images/p{}.PNG", labels="Labels/p{}.TXT"), 6, 6),
    "flat labels": (
        lambda: {
            k.replace("images/", "images/train/" if k < "images/p4" else "images/val/"): v for k, v in yolo().items()
        },
        6,
        6,
    ),
    "flat labels as .TXT": (lambda: yolo(images="images/a/p{}.png", labels="labels/P{}.TXT"), 6, 6),
    "accents composed in one way and the other": (
        lambda: yolo(images="images/caf" + E_ACUTE + "{}.png", labels="labels/" + nfd("caf" + E_ACUTE) + "{}.txt"),
        6,
        6,
    ),
    "tif, webp and jfif in YOLO": (
        lambda: (
            without(yolo(), "images/p1.png", "images/p2.png", "images/p3.png")
            | {"images/p1.tif": image(1, "TIFF"), "images/p2.webp": image(2, "WEBP", lossless=True)}
            | {"images/p3.jfif": image(3, "JPEG")}
        ),
        6,
        6,
    ),
    "a tif in COCO": (
        lambda: edited(
            without(coco(), "images/p3.png") | {"images/p3.tif": image(3, "TIFF")},
            lambda c: c["images"][3].update(file_name="p3.tif"),
        ),
        6,
        6,
    ),
    "a webp in VOC": (
        lambda: without(vocs(), "img/3.png") | {"img/3.WEBP": image(3, "WEBP", lossless=True)},
        6,
        6,
    ),
    "pose": (
        lambda: (
            yolo(line=LINE.strip() + b" 0.45 0.45 0.55 0.55\n")
            | {"data.yaml": b"train: images\nval: images\nkpt_shape: [2, 2]\nnames: [dent]\n"}
        ),
        6,
        6,
    ),
    "pose with visibility, and lines without": (
        lambda: (
            yolo(line=LINE.strip() + b" 0.45 0.45 2 0.55 0.55 0 0 0 0\n")
            | {"labels/p0.txt": LINE, "data.yaml": b"kpt_shape: [3, 3]\nnames: {0: dent}\n"}
        ),
        6,
        6,
    ),
    "COCO in fractions": (lambda: coco(a_bbox=[0.375, 0.375, 0.25, 0.25]), 6, 6),
    "COCO in fractions, ids as text": (
        lambda: coco(a_bbox=[0.375, 0.375, 0.25, 0.25], a_image_id=str, i_width="48", i_height="32"),
        6,
        6,
    ),
    "VOC in fractions": (lambda: vocs(text=voc(thing(bounds(0.375, 0.375, 0.625, 0.625)))), 6, 6),
    "COCO ids as 1.0": (lambda: coco(i_id=float, a_category_id=1.0), 6, 6),
    "COCO with a mark at its start and names of another system": (
        lambda: {
            k: b"\xef\xbb\xbf" + v if k.endswith("json") else v for k, v in coco(called="IMAGES\\P{}.PNG").items()
        },
        6,
        6,
    ),
    "COCO with the paths of another machine": (lambda: coco(called="/home/anna/project 7/p{}.png"), 6, 6),
    "two categories of one name": (
        lambda: edited(coco(a_category_id=lambda k: 1 + k % 2), lambda c: c["categories"][1].update(name="dent")),
        6,
        6,
    ),
    "classes as floats": (lambda: yolo(line=b"0.000000e+00 5.0e-01 5.0e-01 2.5e-01 2.5e-01\n"), 6, 6),
    "a polygon of a class as a float": (
        lambda: yolo(line=b"0.0 0.375 0.375 0.625 0.375 0.625 0.625 0.375 0.625\n"),
        6,
        6,
    ),
    "classes.txt alone": (lambda: without(yolo(), "data.yaml") | {"classes.txt": b"dent\nscratch\n"}, 6, 6),
    "classes.txt and notes.json that agree": (
        lambda: (
            without(yolo(), "data.yaml")
            | {"classes.txt": b"dent\nscratch\n", "notes.json": b'{"categories": [{"id": 0, "name": "dent"}]}'}
        ),
        6,
        6,
    ),
    "lists of 8 of 12 images": (
        lambda: (
            {**yolo(12), "data.yaml": b"path: .\ntrain: train.txt\nval: val.txt\nnames: [dent, scratch]\n"}
            | {"train.txt": b"".join(b"./images/p%d.png\n" % i for i in range(6))}
            | {"val.txt": b"./images/p6.png\n./images/p7.png\n"}
        ),
        8,
        8,
    ),
    "lists with the paths of another machine": (
        lambda: (
            (
                {**yolo(8), "sets/data.yaml": b"path: D:/x\ntrain: a.txt\nval: b.txt\nnames: [dent, scratch]\n"}
                | {"sets/a.txt": b"".join(b"D:\\x\\images\\p%d.png\r\n" % i for i in range(6))}
                | {"sets/b.txt": b"/mnt/x/images/p7.png\n"}
            )
            | {"data.yaml": b"names: [dent, scratch]\n"}
        ),
        7,
        7,
    ),
    "orientation 0": (
        lambda: {
            k.replace(".png", ".jpg"): turned(i, 0) if k.endswith(".png") else v
            for i, (k, v) in enumerate(yolo().items())
        },
        6,
        6,
    ),
    "orientation 9, in COCO": (
        lambda: edited(
            without(coco(), "images/p3.png") | {"images/p3.jpg": turned(3, 9)},
            lambda c: c["images"][3].update(file_name="p3.jpg"),
        ),
        6,
        6,
    ),
    "the same numbers under cam1 and cam2": (
        lambda: (
            vocs(3, "cam1/img/{}.png", "cam1/xml/{}.xml")
            | {f"cam2/img/{i}.png": image(40 + i) for i in range(3)}
            | {f"cam2/xml/{i}.xml": ONE for i in range(3)}
        ),
        6,
        6,
    ),
    "the same, with XML beside the images": (
        lambda: (
            vocs(3, "cam1/{}.png", "cam1/{}.xml")
            | {f"cam2/{i}.png": image(40 + i) for i in range(3)}
            | {f"cam2/{i}.xml": ONE for i in range(3)}
        ),
        6,
        6,
    ),
    "folders that are only called so": (lambda: vocs(6, "photographs/{}.png", "descriptions/{}.xml"), 6, 6),
    "the size as text": (lambda: coco(i_width="48", i_height=32.0), 6, 6),
    "a width of hundreds of digits": (lambda: coco(i_width=10**400), 6, 6),
    "two data.yaml, each for its folder, in another order": (
        lambda: (
            yolo(3, "a/images/p{}.png", "a/labels/p{}.txt")
            | {f"b/images/q{i}.png": image(30 + i) for i in range(3)}
            | {f"b/labels/q{i}.txt": LINE.replace(b"0 ", b"1 ", 1) for i in range(3)}
            | {"a/data.yaml": b"names: [dent, scratch]\n", "b/data.yaml": b"names: [scratch, dent]\n"}
        ),
        6,
        6,
    ),
}


def turned(seed: int, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return image(seed, "JPEG", exif=exif)


@pytest.mark.parametrize("what", READ)
def test_it_is_read(tmp_path, what):
    make, images, boxes = READ[what]
    files = make()
    if "a/data.yaml" in files:
        files = without(files, "data.yaml")
    data = own.prepare("mine", tmp_path / "data", write_folder(tmp_path / "s", files))
    found = [box for its in boxes_of(data).values() for box in its]
    assert (len(data.images), len(found)) == (images, boxes)
    for box in found:
        np.testing.assert_allclose(box, BASE, atol=0.01)
    assert labels_of(data) == {"dent"}


# What -> (files, kind of finding, or text of the error; the text that names the file)
REFUSED: dict[str, tuple[Callable[[], Files], str, str]] = {
    "an image of another folder of its name": (
        lambda: (
            without(coco(called="broken/p{}.png"), *(f"images/p{i}.png" for i in range(6)))
            | {f"broken/p{i}.png": image(i) for i in range(5)}
            | {"good/p5.png": image(50)}
        ),
        "missing_image",
        "image 'broken/p5.png'",
    ),
    "the whole folder is missing": (
        lambda: (
            without(coco(called="broken/p{}.png"), *(f"images/p{i}.png" for i in range(6)))
            | {f"good/p{i}.png": image(50 + i) for i in range(6)}
        ),
        "missing_image",
        "image 'broken/p0.png'",
    ),
    "cam1's image is missing, cam2's is there": (
        lambda: (
            without(vocs(6, "cam1/img/{}.png", "cam1/xml/{}.xml"), "cam1/img/5.png") | {"cam2/img/5.png": image(50)}
        ),
        "missing_image",
        "cam1/xml/5.xml",
    ),
    "all of cam1's are missing": (
        lambda: vocs(6, "cam2/img/{}.png", "cam1/xml/{}.xml"),
        "missing_image",
        "cam1/xml/0.xml",
    ),
    "the same, with XML beside the images": (
        lambda: without(vocs(6, "cam1/{}.png", "cam1/{}.xml") | vocs(6, "cam2/{}.png", "cam2/{}.xml"), "cam1/5.png"),
        "missing_image",
        "cam1/5.xml",
    ),
    "a mask whose image is missing": (
        lambda: without(mvtec(), "test/spot/002.png"),
        "missing_image",
        "ground_truth/spot/002_mask.png",
    ),
    "an image of a defect without mask": (
        lambda: without(mvtec(), "ground_truth/spot/002_mask.png"),
        "missing_annotation",
        "test/spot/002.png",
    ),
    "a label that no image is called like": (
        lambda: yolo() | {"labels/q7.txt": LINE},
        "unclaimed_label",
        "labels/q7.txt",
    ),
    "two faults: .TXT and a GIF": (
        lambda: {k.replace(".txt", ".TXT"): v for k, v in yolo().items()} | {"images/g.gif": b"GIF89a"},
        "unread_image",
        "images/g.gif",
    ),
    "16 bits in RGB": (lambda: yolo() | {"images/p1.png": deep(1, 3)}, "deep_image", "p1.png"),
    "16 bits in RGBA": (lambda: yolo() | {"images/p1.png": deep(1, 4)}, "deep_image", "p1.png"),
    "16 bits in grey with alpha, in VOC": (lambda: vocs() | {"img/1.png": deep(1, 2)}, "deep_image", "1.png"),
    "16 bits in a TIFF": (
        lambda: without(yolo(), "images/p1.png") | {"images/p1.tif": deep(1, 1, format="TIFF")},
        "deep_image",
        "p1.tif",
    ),
    "another size, as floats": (lambda: coco(i_width=96.0, i_height=64.0), "size_differs", "96x64"),
    "another size, as text": (lambda: coco(i_width="96", i_height="64"), "size_differs", "96x64"),
    "a box twice in YOLO": (lambda: yolo() | {"labels/p3.txt": LINE + LINE}, "duplicate_box", "labels/p3.txt"),
    "a box twice, rounded otherwise": (
        lambda: yolo() | {"labels/p3.txt": LINE + b"0 0.5 0.50000100 0.2500001 0.25\n"},
        "duplicate_box",
        "labels/p3.txt",
    ),
    "a box twice in VOC": (
        lambda: vocs() | {"xml/3.xml": voc(thing(bounds(18, 12, 30, 20)) * 2)},
        "duplicate_box",
        "xml/3.xml",
    ),
    "a box twice in COCO": (
        lambda: edited(coco(), lambda c: c["annotations"].append({**c["annotations"][3], "id": 99})),
        "duplicate_box",
        "labels.json",
    ),
    "one box in fractions": (
        lambda: edited(coco(), lambda c: c["annotations"][3].update(bbox=[0.375, 0.375, 0.25, 0.25])),
        "box_fraction",
        "labels.json",
    ),
    "a box that single precision has no room for": (
        lambda: edited(coco(), lambda c: c["annotations"][3].update(bbox=[40, 12, 1e-9, 8])),
        "box_empty",
        "labels.json",
    ),
    "two categories of one id": (
        lambda: edited(coco(), lambda c: c["categories"][1].update(id=1)),
        "categories 'dent' and 'scratch' both have the id 1",
        "labels.json",
    ),
    "two categories of one id, as text and number": (
        lambda: edited(coco(), lambda c: c["categories"][1].update(id="1")),
        "categories 'dent' and 'scratch' both have the id '1'",
        "labels.json",
    ),
    "two data.yaml that contradict each other": (
        lambda: yolo() | {"sub/data.yaml": b"names: [scratch, dent]\n"},
        "class 0 is 'scratch', but in s:data.yaml class 0 is 'dent'",
        "s:sub/data.yaml",
    ),
    "classes.txt against data.yaml": (
        lambda: yolo() | {"classes.txt": b"scratch\ndent\n"},
        "class 0 is 'scratch', but in s:data.yaml class 0 is 'dent'",
        "s:classes.txt",
    ),
    "notes.json against classes.txt": (
        lambda: (
            without(yolo(), "data.yaml")
            | {"classes.txt": b"dent\nscratch\n", "notes.json": b'{"categories": [{"id": 0, "name": "scratch"}]}'}
        ),
        "class 0 is 'scratch', but in s:classes.txt class 0 is 'dent'",
        "s:notes.json",
    ),
    "nc against names": (
        lambda: yolo() | {"data.yaml": b"nc: 3\nnames: [dent, scratch]\n"},
        "`nc` is 3, but `names` has 2",
        "s:data.yaml",
    ),
    "a list that names what is not there": (
        lambda: yolo() | {"data.yaml": b"train: t.txt\nval: images\nnames: [dent]\n", "t.txt": b"images/q.png\n"},
        "image 'images/q.png' is not in the source",
        "s:t.txt",
    ),
    "a blank line among the classes": (
        lambda: without(yolo(), "data.yaml") | {"classes.txt": b"dent\n\nscratch\n"},
        "line 2 is blank, and classes are numbered by their lines",
        "s:classes.txt",
    ),
    "no label at all": (
        lambda: {"data.yaml": YAML} | {f"images/p{i}.png": image(i) for i in range(6)},
        "no box in 6 images",
        "mine",
    ),
    "a corner of a polygon that is nowhere": (
        lambda: yolo(line=b"0 0.1 0.1 nan 0.2 0.3 0.3 0.1 0.3\n"),
        "bad_object",
        "labels/p0.txt",
    ),
    "a deep image that was cut": (
        lambda: yolo() | {f"images/p{i}.png": deep(i, 3)[:-20] for i in range(6)},
        "corrupt_image",
        "p0.png: a PNG that is cut or damaged",
    ),
    "pose lines of another length": (
        lambda: yolo(line=LINE.strip() + b" 0.4 0.4\n") | {"data.yaml": b"kpt_shape: [2, 2]\nnames: [dent]\n"},
        "bad_object",
        "labels/p0.txt",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_by_name(tmp_path, what):
    make, message, file = REFUSED[what]
    with pytest.raises(DataError) as caught:
        own.prepare("mine", tmp_path / "data", write_folder(tmp_path / "s", make()))
    text = str(caught.value)
    assert "\n" not in text
    assert (f"--policy {message}=" if "_" in message and " " not in message else message) in text
    assert file in text
    assert not (tmp_path / "data" / "mine").exists()


# What more than boxes of one place has to be right


def test_masks_go_on_the_images_of_their_folder(tmp_path):
    want = {f"test/spot/00{i}": [[10, 8 + i, 10 + i, 6]] for i in range(3)}
    for k, files in enumerate((mvtec(), mvtec(ending="", suffix=".PNG"), mvtec(ending="_MASK"))):
        data = own.prepare(f"mine{k}", tmp_path / "data", write_folder(tmp_path / f"s{k}", files))
        found = {name.rpartition(".")[0]: its for name, its in boxes_of(data).items()}
        assert {name: its for name, its in found.items() if its} == want
        assert len(found) == 10
        assert data.classes == ("spot",)


def test_kinds_of_defect_are_classes(tmp_path):
    files = without(mvtec(), *(f"test/good/00{i}.png" for i in range(3)))
    files |= {f"test/cut/00{i}.png": image(30 + i) for i in range(3)}
    files |= {f"ground_truth/cut/00{i}_mask.png": mask((2, 3, 9, 6)) for i in range(3)}
    data = own.prepare("a", tmp_path / "data", write_folder(tmp_path / "a", files))
    assert data.classes == ("cut", "spot")
    assert boxes_of(data)["test/cut/001.png"] == [[2, 3, 9, 6]]
    # Two masks of one image, in folders of masks; and the many masks of MVTec LOCO.
    flat = {f"images/{i}.png": image(i) for i in range(6)}
    flat |= {f"masks/cut/{i}.png": mask((2, 3, 9, 6)) for i in range(6)}
    flat |= {f"masks/spot/{i}.png": mask((20, 3, 9, 6)) for i in range(3)}
    data = own.prepare("b", tmp_path / "data", write_folder(tmp_path / "b", flat), format="masks")
    assert data.classes == ("cut", "spot")
    assert sorted(boxes_of(data)["0.png"]) == [[2, 3, 9, 6], [20, 3, 9, 6]]
    loco = {f"train/good/00{i}.png": image(i) for i in range(4)}
    loco |= {f"test/logical/00{i}.png": image(10 + i) for i in range(2)}
    loco |= {f"ground_truth/logical/00{i}/00{k}.png": mask((5 + 20 * k, 3, 9, 6)) for i in range(2) for k in range(2)}
    data = own.prepare("c", tmp_path / "data", write_folder(tmp_path / "c", loco))
    assert data.classes == ("logical",)
    assert sorted(boxes_of(data)["test/logical/001.png"]) == [[5, 3, 9, 6], [25, 3, 9, 6]]


def test_masks_by_what_they_show(tmp_path):
    files = {f"images/{i}.png": image(i) for i in range(6)}
    files |= {f"masks/{i}.png": mask((18, 12, 12, 8), white_first=i % 2 == 1) for i in range(6)}
    data = own.prepare("a", tmp_path / "data", write_folder(tmp_path / "a", files), format="masks")
    assert set(map(str, boxes_of(data).values())) == {str([BASE])}
    # Of half the size: believed as they are, stretched to the image.
    files |= {f"masks/{i}.png": mask((9, 6, 6, 4), size=(24, 16)) for i in range(6)}
    source = write_folder(tmp_path / "b", files)
    with pytest.raises(DataError, match="size_differs"):
        own.prepare("b", tmp_path / "data", source, format="masks")
    data = own.prepare("b", tmp_path / "data", source, format="masks", policy={"size_differs": "fix"})
    assert set(map(str, boxes_of(data).values())) == {str([BASE])}


def test_a_stated_size_of_another_scale(tmp_path):
    source = write_folder(tmp_path / "s", coco(i_width=96, i_height=64, a_bbox=[36, 24, 24, 16]))
    data = own.prepare("mine", tmp_path / "data", source, policy={"size_differs": "scale"})
    assert boxes_of(data)["p0.png"] == [BASE]


@pytest.mark.parametrize("channels", [1, 3])
def test_twelve_bits_in_sixteen(tmp_path, channels):
    """Scaled by the range in use over the whole set, which is said."""
    files = {f"images/p{i}.png": deep(i, channels, 4096 if i else 1024) for i in range(6)}
    lines: list[str] = []
    source = write_folder(tmp_path / "s", yolo() | files)
    data = own.prepare("mine", tmp_path / "data", source, policy={"deep_image": "fix"}, report=lines.append)
    assert len(np.unique(np.asarray(Image.open(data.path("p1.png"))))) > 200
    assert np.asarray(Image.open(data.path("p0.png"))).max() in (63, 64)  # of the set's range, not its own
    assert any("6 x deep_image=fix" in line and "values 0 to 4095" in line for line in lines)


def test_the_range_of_deep_images_is_of_those_in_the_set(tmp_path):
    """A bright image that the set does not list, and that is left out, does not darken the others."""
    files = {f"images/p{i}.png": deep(i, 1, 4096) for i in range(6)} | {"images/white.png": deep(7, 1)}
    listed = {
        "data.yaml": b"train: t.txt\nval: t.txt\nnames: [dent, scratch]\n",
        "t.txt": b"".join(b"images/p%d.png\n" % i for i in range(6)),
    }
    source = write_folder(tmp_path / "s", yolo() | files | listed)
    data = own.prepare("mine", tmp_path / "data", source, policy={"deep_image": "fix"})
    assert len(data.images) == 6
    assert np.asarray(Image.open(data.path(data.images[0]["file_name"]))).max() == 255


def test_a_blank_line_among_the_classes_of_masks_is_refused(tmp_path):
    files = {f"images/p{i}.png": image(i) for i in range(6)}
    files |= {f"masks/p{i}.png": mask((18, 12, 12, 8)) for i in range(6)} | {"classes.txt": b"\ndent\n"}
    with pytest.raises(DataError, match=r"classes\.txt: line 1 is blank"):
        own.prepare("mine", tmp_path / "data", write_folder(tmp_path / "s", files), format="masks")


def test_notes_that_name_no_class_by_a_text_are_none(tmp_path):
    for k, wrong in enumerate(('{"id": 0, "name": 5}', '{"id": 0, "name": ["a"]}', '{"id": [], "name": "a"}')):
        files = yolo() | {"notes.json": f'{{"categories": [{wrong}]}}'.encode()}
        data = own.prepare(f"mine{k}", tmp_path / "data", write_folder(tmp_path / f"s{k}", files))
        assert data.classes == ("dent", "scratch")


def test_several_boxes_in_one_object(tmp_path):
    files = vocs(text=voc(thing(bounds(18, 12, 30, 20), bounds(2, 3, 9, 8))))
    data = own.prepare("mine", tmp_path / "data", write_folder(tmp_path / "s", files))
    assert set(map(str, boxes_of(data).values())) == {str([BASE, [2.0, 3.0, 7.0, 5.0]])}


def test_flags_as_text(tmp_path):
    files = coco(a_iscrowd=lambda k: "1" if k == 2 else "0")
    data = own.prepare("mine", tmp_path / "data", write_folder(tmp_path / "s", files))
    assert (len(data.annotations), len(data.ignored("p2.png"))) == (5, 1)


def test_an_area_in_fractions(tmp_path):
    files = coco(a_bbox=[0.375, 0.375, 0.25, 0.25], a_area=0.03, a_segmentation=[[0.4, 0.4, 0.5, 0.4, 0.5, 0.6]])
    data = own.prepare("mine", tmp_path / "data", write_folder(tmp_path / "s", files))
    assert data.annotations[0]["area"] == pytest.approx(0.03 * 48 * 32)


def test_masks_in_colours_are_no_single_class(tmp_path):
    out = io.BytesIO()
    pixels = np.zeros((32, 48, 3), dtype=np.uint8)
    pixels[2:9, 3:9, 0] = pixels[20:29, 3:9, 1] = 255
    Image.fromarray(pixels).save(out, "PNG")
    files = {f"images/{i}.png": image(i) for i in range(6)} | {f"masks/{i}.png": out.getvalue() for i in range(6)}
    with pytest.raises(DataError, match="a mask in colours"):
        own.prepare("mine", tmp_path / "data", write_folder(tmp_path / "s", files), format="masks")


def test_a_tiff_that_lies_on_its_side(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways = image(3, "TIFF", size=(32, 48), exif=exif)
    files = without(yolo(), "images/p3.png") | {"images/p3.tif": sideways}
    source = write_folder(tmp_path / "s", files)
    with pytest.raises(DataError, match="rotated_image"):
        own.prepare("mine", tmp_path / "data", source)
    data = own.prepare("mine", tmp_path / "data", source, policy={"rotated_image": "fix"})
    assert boxes_of(data)["p3.png"] == [BASE]


def test_the_parts_of_voc(tmp_path):
    files = vocs(8) | {"ImageSets/Main/train.txt": b"0\n1\n2\n3\n", "ImageSets/Main/trainval.txt": b"0\n5\n"}
    files |= {"ImageSets/Main/val.txt": b"4\n5\n", "ImageSets/Main/test.txt": b"6\n7\n"}
    own.prepare("mine", tmp_path / "data", write_folder(tmp_path / "s", files))
    split = load_split("mine", "mine-own-v1", 0, tmp_path / "data")
    assert (split.val, split.test) == (("4.png", "5.png"), ("6.png", "7.png"))


def test_what_voc_calls_trainval_is_trained_on_where_it_is_all_there_is(tmp_path):
    lists = {"ImageSets/Main/trainval.txt": b"0\n1\n2\n3\n4\n5\n", "ImageSets/Main/test.txt": b"6\n7\n"}
    own.prepare("mine", tmp_path / "data", write_folder(tmp_path / "s", vocs(8) | lists))
    split = load_split("mine", "mine-own-v1", 0, tmp_path / "data")
    assert (len(split.train), split.val, split.test) == (6, (), ("6.png", "7.png"))


def test_boxes_of_a_missing_image_do_not_go_to_another_part(tmp_path):
    """`train/_annotations.coco.json` calls it p0.png; the only file of that name lies in valid/."""
    parts = {"train": ["p0.png", "p1.png", "p2.png"], "valid": ["p5.png", "p6.png"]}
    files = {f"{part}/{name}": image(int(name[1])) for part, names in parts.items() for name in names}
    for part, names in parts.items():
        files[f"{part}/_annotations.coco.json"] = json.dumps(
            {
                "images": [{"id": i, "file_name": n, "width": 48, "height": 32} for i, n in enumerate(names)],
                "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": BASE} for i in range(len(names))],
                "categories": [{"id": 1, "name": "dent"}],
            }
        ).encode()
    own.prepare("whole", tmp_path / "data", write_folder(tmp_path / "whole", files))
    files["valid/p0.png"] = files.pop("train/p0.png")
    with pytest.raises(DataError, match=r"image 'p0.png' is not in the source.*also found: 1 missing_annotation"):
        own.prepare("mine", tmp_path / "data", write_folder(tmp_path / "s", files))


def test_pages_of_deep_images_are_counted(tmp_path):
    pages = [Image.open(io.BytesIO(deep(i, 1, format="TIFF"))) for i in (3, 4)]
    out = io.BytesIO()
    pages[0].save(out, "TIFF", save_all=True, append_images=pages[1:])
    source = write_folder(tmp_path / "s", without(yolo(), "images/p3.png") | {"images/p3.tif": out.getvalue()})
    data = own.prepare("mine", tmp_path / "data", source, policy={"deep_image": "fix"})
    assert data.manifest["changes"] == {"deep_image=fix": 1, "many_frames=fix": 1}


def test_a_jpeg_among_masks_is_no_image(tmp_path):
    files = {f"images/p{i}.png": image(i) for i in range(6)} | {f"masks/p{i}.png": mask((3, 3, 9, 9)) for i in range(5)}
    files["masks/p5.jpg"] = image(9, "JPEG")
    with pytest.raises(DataError, match=r"masks/p5.jpg: it lies among masks"):
        own.prepare("mine", tmp_path / "data", write_folder(tmp_path / "s", files), format="masks")


def test_names_of_classes_as_they_are_written(tmp_path):
    text = b"train: images\nval: images\nnames:\n  0: NO\n  1: off\n  2: 010\n  3: 1.0\n"
    files = yolo() | {"data.yaml": text, "labels/p1.txt": b"2 0.5 0.5 0.25 0.25"}
    data = own.prepare("mine", tmp_path / "data", write_folder(tmp_path / "s", files))
    assert data.classes == ("NO", "off", "010", "1.0")
    assert labels_of(data) == {"NO", "010"}


@pytest.mark.parametrize("text", ["{}", "the category of all", "0"])
def test_a_category_that_groups_the_others_is_no_class(tmp_path, text):
    def change(content):
        content["categories"].insert(0, {"id": 0, "name": "parts", "supercategory": "none"})
        for category in content["categories"][1:]:
            category["supercategory"] = "parts"

    lines: list[str] = []
    files = edited(coco(a_category_id=lambda k: 1 + k % 2), change)
    data = own.prepare("mine", tmp_path / "data", write_folder(tmp_path / "s", files), report=lines.append)
    assert data.classes == ("dent", "scratch")
    assert any("root_category=drop" in line for line in lines)


def test_a_zip_made_on_windows(tmp_path):
    for k, files in enumerate((yolo(), coco())):
        path = tmp_path / f"s{k}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                info = zipfile.ZipInfo("x")
                info.filename = "set\\" + name.replace("/", "\\")
                archive.writestr(info, data)
        data = own.prepare(f"mine{k}", tmp_path / "data", path)
        assert set(map(str, boxes_of(data).values())) == {str([BASE])}


def test_links_are_followed_and_those_to_nothing_are_named(tmp_path):
    elsewhere = write_folder(tmp_path / "e", {f"p{i}.png": image(i) for i in range(6)})
    source = write_folder(tmp_path / "s", without(yolo(), *(f"images/p{i}.png" for i in range(6))))
    os.symlink(elsewhere, source / "images")
    data = own.prepare("mine", tmp_path / "data", source)
    assert len(data.images) == len(data.annotations) == 6
    os.symlink(tmp_path / "gone.png", elsewhere / "p7.png")
    with pytest.raises(DataError, match=r"images/p7\.png: it is a link to nothing; .*--policy broken_link=drop"):
        own.prepare("mine", tmp_path / "data", source)


def test_a_set_of_images_of_a_few_rows(tmp_path):
    from benchmarks.datasets.preview import write

    files = {f"images/p{i}.png": image(i, size=(4096, 8)) for i in range(6)}
    data = own.prepare("mine", tmp_path / "data", write_folder(tmp_path / "s", yolo() | files))
    write(data, tmp_path / "p.png")
    assert Image.open(tmp_path / "p.png").width > 100


# Parts, and what replaces what


def parted(layout: str) -> Files:
    files: Files = {}
    for part, n in {"train": 6, "valid": 2, "test": 3}.items():
        some = {"yolo": yolo, "coco": coco, "named": coco}[layout](n)
        del some["data.yaml" if layout == "yolo" else "labels.json"]
        called = "images/{}/{}" if layout == "named" else "{}/images/{}" if layout == "yolo" else "{}/{}"
        for name in [k for k in some if k.endswith(".png")]:
            base = f"{part}_{name.rpartition('/')[2]}"
            files[called.format(part, base)] = image(crc32(f"{part}/{name}".encode()) % 9999)
            if layout == "yolo":
                files[f"{part}/labels/{base[:-4]}.txt"] = LINE
        if layout != "yolo":
            prefix = f"{part}_p{{}}.png" if layout == "coco" else f"{part}/{part}_p{{}}.png"
            where = f"{part}/_annotations.coco.json" if layout == "coco" else f"annotations/instances_{part}2017.json"
            files[where] = coco(n, called=prefix)["labels.json"]
    if layout == "yolo":
        text = (
            b"train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\nnames: ['dent', 'scratch']\n"
        )
        files["data.yaml"] = text
    return files


@pytest.mark.parametrize("layout", ["yolo", "coco", "named"])
def test_the_parts_of_the_source_are_kept_and_the_default(tmp_path, layout):
    root, lines = tmp_path / "data", []
    data = own.prepare("mine", root, write_folder(tmp_path / "s", parted(layout)), report=lines.append)
    spec = catalogue.get("mine", root)
    assert (spec.split, spec.folds) == ("mine-own-v1", 1)
    split = load_split("mine", spec.split, 0, root)
    assert [len(p) for p in (split.train, split.val, split.test)] == [6, 2, 3]
    assert all("valid" in name for name in split.val)
    assert any("own parts (6 train, 2 val, 3 test) are kept as split mine-own-v1" in line for line in lines)
    assert len(load_split("mine", "mine-5fold-v1", 0, root).test) > 0
    export(data, "yolo", tmp_path / "out", split)
    assert len(list((tmp_path / "out/images/val").rglob("*.png"))) == 2


def test_parts_that_share_a_photograph_are_said(tmp_path):
    files = parted("yolo")
    with Image.open(io.BytesIO(files["train/images/train_p1.png"])) as picture:
        again = np.asarray(picture) // 2 + 60
    out = io.BytesIO()
    Image.fromarray(again.astype(np.uint8)).save(out, "PNG")
    lines: list[str] = []
    source = write_folder(tmp_path / "s", files | {"test/images/test_p0.png": out.getvalue()})
    own.prepare("mine", tmp_path / "data", source, report=lines.append)
    assert [line for line in lines if "1 groups of images" in line and "test_p0.png (test)" in line]
    group = groups_of("mine", "mine-own-v1", tmp_path / "data")
    assert len(set(group.values())) == len(group) - 1, "its intervals know it too"
    assert group["train/images/train_p1.png"] == group["test/images/test_p0.png"]


def test_a_prepared_set_is_not_replaced_by_another(tmp_path):
    from benchmarks.errors import RequestError

    root = tmp_path / "data"
    source = write_folder(tmp_path / "a", yolo())
    old = own.prepare("mine", root, source)
    other = write_folder(tmp_path / "b", yolo(7))
    with pytest.raises(RequestError, match=r"mine is prepared already, from .*a \(6 images\).*--replace"):
        own.prepare("mine", root, other)
    lines: list[str] = []
    (source / "labels/p0.txt").write_bytes(b"")
    new = own.prepare("mine", root, source, report=lines.append)  # the same place, which has changed
    assert new.manifest_digest != old.manifest_digest
    assert any("made anew" in line for line in lines)
    assert len(own.prepare("mine", root, other, replace=True).images) == 7


def test_ultralytics_finds_the_labels_of_an_export(tmp_path):
    pytest.importorskip("ultralytics")
    from ultralytics.data.utils import img2label_paths

    twins = coco(6, called="p{}.png")
    twins |= {"images/p0.jpg": image(60, "JPEG"), "images/p1.bmp": image(61, "BMP"), "images/p0_jpg.png": image(62)}

    def more(content):
        for k, name in enumerate(("p0.jpg", "p1.bmp", "p0_jpg.png")):
            content["images"].append({"id": 20 + k, "file_name": name})
            box = {"id": 20 + k, "image_id": 20 + k, "category_id": 2, "bbox": [1 + k, 2, 5, 6]}
            content["annotations"].append(box)

    for k, files in enumerate((parted("yolo"), edited(twins, more))):
        data = own.prepare(f"mine{k}", tmp_path / "data", write_folder(tmp_path / f"s{k}", files))
        export(data, "yolo", tmp_path / f"out{k}")
        images = sorted(str(p) for p in (tmp_path / f"out{k}/images").rglob("*.*") if p.suffix != ".txt")
        labels = img2label_paths(images)
        assert len(images) == len(set(labels)) == len(data.images)
        found = []
        for label in labels:
            for line in Path(label).read_text().splitlines():
                c, x, y, w, h = map(float, line.split())
                found.append((c + 1, *np.round([(x - w / 2) * 48, (y - h / 2) * 32, w * 48, h * 32], 2)))
        assert sorted(found) == sorted((a["category_id"], *a["bbox"]) for a in data.annotations)


def test_parts_and_groups_of_images_that_were_encoded_anew(tmp_path):
    parts = {"train": range(5), "val": range(5, 8), "test": range(8, 12)}
    files = {f"{part}/images/{i}.tif": deep(i, 1, format="TIFF") for part, ids in parts.items() for i in ids}
    files |= {name.replace("images", "labels").replace(".tif", ".txt"): LINE for name in files}
    files["data.yaml"] = b"names: [dent]\n" + b"".join(f"{part}: {part}/images\n".encode() for part in parts)
    csv = tmp_path / "groups.csv"
    csv.write_text("image,group\n" + "".join(f"{p}/images/{i}.tif,{i // 2}\n" for p, ids in parts.items() for i in ids))
    source, policy = write_folder(tmp_path / "s", files), {"deep_image": "fix"}
    own.prepare("mine", tmp_path / "data", source, policy=policy, groups=str(csv))
    split = load_split("mine", "mine-own-v1", 0, tmp_path / "data")
    for part, ids in parts.items():
        assert set(getattr(split, part)) == {f"{part}/images/{i}.png" for i in ids}


def saved(pixels: np.ndarray, format: str, mode: str | None = None, **options) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels, mode).save(out, format, **options)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["alpha", "half", "float", "page", "deep_colours", "deep_tiff"])
def test_masks_of_other_depths(tmp_path, kind):
    """The box is found, or the mask is refused by name: never a set without it."""
    seen = np.zeros((32, 48), dtype=np.uint8)
    seen[12:20, 18:30] = 1
    suffix, classes, refused = ".tif", b"", ""
    if kind == "alpha":  # white all over, and opaque where the defect is
        white = np.full((32, 48, 3), 255, dtype=np.uint8)
        suffix, data = ".png", saved(np.dstack([white, seen * 255]), "PNG")
    elif kind == "half":
        data = saved(seen.astype(np.float32) / 2, "TIFF")
    elif kind == "float":
        data, classes, refused = saved(seen.astype(np.float32) / 2, "TIFF"), b"dent\n", "no whole numbers"
    elif kind == "page":
        second = Image.fromarray(seen)
        data, refused = saved(seen * 0, "TIFF", save_all=True, append_images=[second]), "2 pages"
    else:
        cv2 = pytest.importorskip("cv2")

        suffix = ".png" if kind == "deep_colours" else ".tif"
        refused = "" if suffix == ".png" else "8 bits in colours"
        classes = b"dent\n"
        data = cv2.imencode(suffix, np.dstack([seen.astype(np.uint16)] * 3))[1].tobytes()
    files = {f"images/p{i}.png": image(i) for i in range(6)} | {f"masks/p{i}{suffix}": data for i in range(6)}
    files |= {"classes.txt": classes} if classes else {}
    source = write_folder(tmp_path / "s", files)
    if refused:
        with pytest.raises(DataError, match=rf"masks/p0{suffix}: .*{refused}"):
            own.prepare("mine", tmp_path / "data", source, format="masks")
    else:
        data = own.prepare("mine", tmp_path / "data", source, format="masks")
        assert boxes_of(data) == {f"p{i}.png": [BASE] for i in range(6)}


def test_the_parts_of_voc_by_names_with_spaces(tmp_path):
    files = {f"img/part {i}.png": image(i) for i in range(6)} | {f"xml/part {i}.xml": ONE for i in range(6)}
    files |= {"img/part.png": image(9), "xml/part.xml": ONE}
    files |= {
        "ImageSets/Main/train.txt": b"part 0\npart 1\npart 2\npart 3\n",
        "ImageSets/Main/test.txt": b"part\npart 4\n",
    }
    own.prepare("mine", tmp_path / "data", write_folder(tmp_path / "s", files))
    split = load_split("mine", "mine-own-v1", 0, tmp_path / "data")
    assert split.train == tuple(f"part {i}.png" for i in range(4))
    assert set(split.test) == {"part.png", "part 4.png"}


def test_parts_of_voc_that_share_images_are_none(tmp_path):
    lists = {"ImageSets/Main/train.txt": b"0\n1\n2\n3\n", "ImageSets/Main/test.txt": b"3\n4\n5\n"}
    lines: list[str] = []
    own.prepare("mine", tmp_path / "data", write_folder(tmp_path / "s", vocs(8) | lists), report=lines.append)
    assert any("unusable_part" in line and "3.png" in line for line in lines)
    assert "mine-own-v1" not in titles("mine", tmp_path / "data")


def test_a_list_of_voc_with_an_image_that_is_not_there(tmp_path):
    lists = {"ImageSets/Main/train.txt": b"0\n1\n2\n33\n", "ImageSets/Main/test.txt": b"4\n5\n"}
    source = write_folder(tmp_path / "s", vocs(8) | lists)
    with pytest.raises(DataError, match=r"train.txt: image '33' is not in the source"):
        own.prepare("mine", tmp_path / "data", source)
    own.prepare("mine", tmp_path / "data", source, policy={"missing_image": "drop"})


def test_strict_and_findings_are_heard_on_a_set_that_is_there(tmp_path):
    source, findings = write_folder(tmp_path / "s", without(yolo(), "labels/p3.txt")), tmp_path / "findings.json"
    own.prepare("mine", tmp_path / "data", source)
    own.prepare("mine", tmp_path / "data", source, findings=findings)
    assert "missing_label" in findings.read_text()
    with pytest.raises(DataError, match="missing_label"):
        own.prepare("mine", tmp_path / "data", source, strict=True)


def test_a_class_that_is_tested_and_never_trained_is_said(tmp_path):
    files = yolo(8) | {f"labels/p{i}.txt": b"1 0.5 0.5 0.25 0.25\n" for i in range(3)}
    csv = tmp_path / "groups.csv"
    csv.write_text("image,group\n" + "".join(f"p{i}.png,{max(i, 2)}\n" for i in range(8)))
    lines: list[str] = []
    source = write_folder(tmp_path / "s", files)
    own.prepare("mine", tmp_path / "data", source, groups=str(csv), folds=3, report=lines.append)
    said = [line for line in lines if "not in what is trained on" in line]
    assert len(said) == 1
    assert "mine-3fold-v1: class 'scratch'" in said[0]


def two_files(first: list[str], second: list[str], names: tuple[str, str]) -> Files:
    """COCO files, each of some images, by bare names."""
    return {
        file: json.dumps(
            {
                "images": [{"id": i, "file_name": n, "width": 48, "height": 32} for i, n in enumerate(listed)],
                "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": BASE} for i in range(len(listed))],
                "categories": [{"id": 1, "name": "dent", "supercategory": ["odd"]}],
            }
        ).encode()
        for file, listed in zip(names, (first, second), strict=True)
    }


def test_boxes_of_vals_file_do_not_go_to_an_image_of_train(tmp_path):
    """annotations/instances_val.json calls it p3.png; the only file of that name lies in images/train/."""
    train, val = [f"p{i}.png" for i in range(3)], ["p3.png", "p4.png", "p5.png"]
    names = ("annotations/instances_train.json", "annotations/instances_val.json")
    files = {f"images/train/{n}": image(int(n[1])) for n in train} | {f"images/val/{n}": image(int(n[1])) for n in val}
    files |= two_files(train, val, names)
    own.prepare("whole", tmp_path / "data", write_folder(tmp_path / "whole", files))
    files["images/train/p3.png"] = files.pop("images/val/p3.png")
    with pytest.raises(DataError, match=r"image 'p3.png' is not in the source"):
        own.prepare("mine", tmp_path / "data", write_folder(tmp_path / "s", files))


def test_a_coco_file_that_names_no_part_beside_those_that_do_is_said(tmp_path):
    listed = [f"p{i}.png" for i in range(6)]
    files = {f"images/{n}": image(int(n[1])) for n in listed}
    files |= two_files(listed[:3], listed[3:], ("train.json", "holdout.json"))
    lines: list[str] = []
    own.prepare("mine", tmp_path / "data", write_folder(tmp_path / "s", files), report=lines.append)
    assert any("holdout.json" in line and "names no part" in line for line in lines)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_stated_for_an_image_that_lay_on_its_side_are_turned_with_it(tmp_path, orientation):
    pixels = np.zeros((32, 48), dtype=np.uint8)
    pixels[12:20, 18:30] = 255  # BASE, as the pixels lie in the file
    exif = Image.Exif()
    exif[0x0112] = orientation
    files = coco()
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", exif=exif)
    files["images/p3.png"] = out.getvalue()
    source = write_folder(tmp_path / "s", files)
    with pytest.raises(DataError, match="after they were turned; the boxes, of the image as it lay"):
        own.prepare("mine", tmp_path / "data", source, policy={"rotated_image": "fix"})
    for k, action in enumerate(("fix", "scale")):
        policy = {"rotated_image": "fix", "size_differs": action}
        data = own.prepare(f"mine{k}", tmp_path / "data", source, policy=policy)
        seen = np.asarray(Image.open(data.path("p3.png"))) > 0
        assert seen.shape[:2] == (48, 32)
        rows, columns = np.nonzero(seen.reshape(48, 32, -1).any(axis=2))
        x, y, w, h = boxes_of(data)["p3.png"][0]
        assert (x, y, x + w, y + h) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert boxes_of(data)["p1.png"] == [BASE]


def test_a_tiff_of_more_than_8_bits_in_colours_is_refused(tmp_path):
    """Pillow keeps its upper bytes alone: of 12 bits, 16 values."""
    cv2 = pytest.importorskip("cv2")
    pixels = np.random.default_rng(0).integers(0, 4096, (32, 48, 3)).astype(np.uint16)
    files = without(yolo(), "images/p3.png") | {"images/p3.tif": cv2.imencode(".tif", pixels)[1].tobytes()}
    with pytest.raises(DataError, match=r"TIFF of more than 8 bits in colours.*write a PNG"):
        own.prepare("mine", tmp_path / "data", write_folder(tmp_path / "s", files), policy={"deep_image": "fix"})

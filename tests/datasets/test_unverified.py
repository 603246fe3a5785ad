"""Sets that cannot be had here: each reader on a likeness of the layout in which its set circulates."""

from __future__ import annotations

import csv
import io
import json
import math
import random

import numpy as np
import pytest
from PIL import Image

from benchmarks.datasets import catalogue, dagm2007, masks, own, severstal
from benchmarks.datasets.findings import KINDS
from benchmarks.datasets.sources import Box, open_source
from benchmarks.datasets.splits import load_split, titles
from benchmarks.errors import DataError, RequestError
from tests.datasets.conftest import jpeg, voc, write_folder, write_zip
from tests.datasets.test_own import coco_files, damaged, png, yolo_files


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("CANET_BENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def image_of(values: np.ndarray, palette: bool = False) -> bytes:
    out = io.BytesIO()
    picture = Image.fromarray(values.astype(np.uint8))
    if palette:
        picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0] + [0] * 759)
    picture.save(out, "PNG")
    return out.getvalue()


def found(data, name: str) -> list[tuple[str, tuple[float, ...]]]:
    """Class and corners of the boxes of an image."""
    return [
        (data.classes[a["category_id"] - 1], (x, y, x + w, y + h))
        for a in data.boxes(name)
        for x, y, w, h in (a["bbox"],)
    ]


# Masks


def test_components_become_boxes():
    mask = np.zeros((20, 30), dtype=bool)
    mask[2:5, 3:9] = True
    mask[5, 9] = True  # touches by a corner: the same defect
    mask[12, 0] = True  # one pixel
    mask[15:20, 28:30] = True  # the image's corner
    assert masks.boxes(mask, "dent") == (
        Box("dent", 3, 2, 10, 6),
        Box("dent", 0, 12, 1, 13),
        Box("dent", 28, 15, 30, 20),
    )
    assert masks.boxes(np.zeros((4, 4), dtype=bool), "dent") == ()


def runs_of(mask: np.ndarray) -> str:
    """The other way round, pixel by pixel, from the competition's definition."""
    height, width = mask.shape
    numbers, last = [], -1
    for k in range(1, height * width + 1):  # top to bottom, then left to right
        if mask[(k - 1) % height, (k - 1) // height]:
            if last == k - 1:
                numbers[-1] += 1
            else:
                numbers += [k, 1]
            last = k
    return " ".join(map(str, numbers))


def test_runs_are_read_as_they_were_written():
    mask = np.random.default_rng(0).random((7, 11)) < 0.4
    assert (masks.from_runs(runs_of(mask), 11, 7) == mask).all()
    for wrong in ("1", "0 3", "70 9", "5 0", "5 -1", "a b", "1.5 2"):
        with pytest.raises(ValueError, match=r".+"):
            masks.from_runs(wrong, 11, 7)


# Severstal


def severstal_mask(k: int) -> np.ndarray:
    mask = np.zeros((32, 200), dtype=bool)
    mask[4 : 10 + k, 20 : 30 + k] = True
    return mask


def severstal_files(joined: bool = False) -> dict[str, bytes]:
    """Six images: five with a mask of one class, one of them with two classes, and one without."""
    rows = [(f"{k}.jpg", 1 + k % 4, runs_of(severstal_mask(k))) for k in range(5)]
    two = severstal_mask(0)
    two[20:24, 150:160] = True
    rows.append(("4.jpg", 3, runs_of(two)))
    out = io.StringIO()
    writer = csv.writer(out)
    if joined:
        writer.writerow(("ImageId_ClassId", "EncodedPixels"))
        written = {(image, label): runs for image, label, runs in rows}
        for k in range(6):
            for label in range(1, 5):
                writer.writerow((f"{k}.jpg_{label}", written.get((f"{k}.jpg", label), "")))
    else:
        writer.writerow(("ImageId", "ClassId", "EncodedPixels"))
        writer.writerows(rows)
    files = {f"train_images/{k}.jpg": jpeg(k, (200, 32)) for k in range(6)}
    return files | {"train.csv": out.getvalue().encode(), "test_images/9.jpg": jpeg(9, (200, 32))}


@pytest.mark.parametrize("joined", [False, True])
def test_severstal(tmp_path, root, joined):
    lines = []
    source = write_zip(tmp_path / "s.zip", severstal_files(joined))
    data = own.prepare("severstal", None, source, report=lines.append)
    assert data.classes == ("defect_1", "defect_2", "defect_3", "defect_4")
    assert [i["file_name"] for i in data.images] == [f"{k}.jpg" for k in range(6)]
    assert found(data, "2.jpg") == [("defect_3", (20, 4, 32, 12))]
    assert sorted(found(data, "4.jpg")) == [
        ("defect_1", (20, 4, 34, 14)),
        ("defect_3", (20, 4, 30, 10)),
        ("defect_3", (150, 20, 160, 24)),
    ]
    assert found(data, "5.jpg") == []
    assert "stated are 12,568 images, NOT as found" in lines[-1]
    assert len(load_split("severstal", "severstal-5fold-v1", 0).test) in (1, 2)
    assert "Kaggle" in catalogue.get("severstal").citation
    own.prepare("severstal", None, source, report=lines.append)
    assert "up to date" in lines[-1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"0.jpg,1,", b"0.jpg,7,", "has class '7', not 1 to 4"),
        (b"0.jpg,1,", b"0.jpg,1,6399 9 ", r"line 2: run 6399 9 leaves the image of 200x32"),
        (b"0.jpg,1,", b"0.jpg,1,3 ", "line 2: its last run has no length"),
        (b"0.jpg,1,", b"x.jpg,1,", r"image 'x\.jpg' is not in the source"),
        (b"ImageId,ClassId", b"Image,Class", "no columns ImageId"),
        (b"ImageId", b"\xff\xfe", "not a table of UTF-8 text"),
    ],
)
def test_severstal_damaged(tmp_path, root, old, new, message):
    files = severstal_files()
    assert old in files["train.csv"]
    files["train.csv"] = files["train.csv"].replace(old, new, 1)
    with pytest.raises(DataError, match=message):
        own.prepare("severstal", None, write_folder(tmp_path / "s", files))
    with pytest.raises(DataError, match=r"0 files are called train\.csv"):
        severstal.read(open_source(write_folder(tmp_path / "t", {"a.jpg": jpeg()})))


# DAGM 2007


def dagm_files() -> dict[str, bytes]:
    """Two textures, each with two defects (one of them in two parts) in six images."""
    files = {}
    for k in (1, 10):
        lines = {"Train": ["1"], "Test": ["1"]}
        for i in range(6):
            part = "Train" if i < 4 else "Test"
            files[f"DAGM/Class{k}/{part}/{i:04}.PNG"] = png(10 * k + i, (64, 64))
            mask = np.zeros((64, 64))
            mask[10:20, 12 + k : 40] = 255
            if i == 4:
                mask[50:60, 50:55] = 255
            label = f"{i:04}_label.PNG" if i in (0, 4) else "0"
            if i in (0, 4):
                files[f"DAGM/Class{k}/{part}/Label/{label}"] = image_of(mask)
            lines[part].append(f"{i}\t{int(i in (0, 4))}\t{i:04}.PNG\t0\t{label}")
        for part, text in lines.items():
            files[f"DAGM/Class{k}/{part}/Label/Labels.txt"] = "\n".join(text).encode()
    return files


def test_dagm_with_masks(tmp_path, root):
    data = own.prepare("dagm2007", None, write_zip(tmp_path / "d.zip", dagm_files()))
    assert "few" not in " ".join(titles("dagm2007"))  # six images a fold are too few for ten
    assert data.classes == dagm2007.CLASSES == catalogue.UNVERIFIED["dagm2007"].classes
    assert len(data.images) == 12
    assert found(data, "Class1/Train/0000.PNG") == [("Class1", (13, 10, 40, 20))]
    assert found(data, "Class10/Test/0004.PNG") == [("Class10", (22, 10, 40, 20)), ("Class10", (50, 50, 55, 60))]
    assert found(data, "Class1/Train/0001.PNG") == []
    assert len(data.annotations) == 6


def test_dagm_notices_what_is_wrong_with_a_mask(tmp_path, root):
    for content, message in (
        (None, r"0000_label\.PNG is not in the source"),
        (b"no image", "not a JPEG, PNG, BMP"),
        (image_of(np.zeros((64, 64))), "its mask is empty"),
        (png(1, (64, 64), "RGB"), "a mask in colours"),
    ):
        files = dagm_files()
        del files["DAGM/Class1/Train/Label/0000_label.PNG"]
        if content is not None:
            files["DAGM/Class1/Train/Label/0000_label.PNG"] = content
        with pytest.raises(DataError, match=message):
            own.prepare("dagm2007", None, write_zip(tmp_path / "d.zip", files))
    with pytest.raises(DataError, match="no image in a folder Class1 to Class10"):
        dagm2007.read(open_source(write_folder(tmp_path / "t", {"Class11/a.png": png(1)})))


def test_dagm_with_ellipses(tmp_path, root):
    files = {f"Class2/{i}.png": png(i, (64, 64)) for i in range(1, 5)}
    files |= {f"Class2_def/{i}.png": png(10 + i, (64, 64)) for i in range(1, 4)}
    files["Class2_def/labels.txt"] = (
        b"1\t12\t5\t0\t30\t20\t\n2\t12\t5\t1.5707963\t30\t20\t\n3\t12\t5\t-0.7\t31.5\t20.5\n"
    )
    data = own.prepare("dagm2007", None, write_folder(tmp_path / "d", files))
    assert found(data, "Class2/1.png") == []
    (label, box), *_ = found(data, "Class2_def/1.png")
    assert label == "Class2"
    assert box == pytest.approx((18, 15, 42, 25))
    assert found(data, "Class2_def/2.png")[0][1] == pytest.approx((25, 8, 35, 32), abs=1e-5)
    turn = np.linspace(0, 2 * math.pi, 100_000)  # the ellipse, drawn
    x = 31.5 + 12 * np.cos(turn) * math.cos(-0.7) - 5 * np.sin(turn) * math.sin(-0.7)
    y = 20.5 + 12 * np.cos(turn) * math.sin(-0.7) + 5 * np.sin(turn) * math.cos(-0.7)
    assert found(data, "Class2_def/3.png")[0][1] == pytest.approx((x.min(), y.min(), x.max(), y.max()), abs=1e-4)
    for lines, message in (
        (b"1\t12\t5\t0\t30\t20\n", "no line for image 2"),
        (b"1\t12\n2\n3", "image 1 is not a number"),
    ):
        with pytest.raises(DataError, match=message):
            own.prepare("dagm2007", None, write_folder(tmp_path / "d", files | {"Class2_def/labels.txt": lines}))


# Masks of any set, as CSDD may come


def mask_files(n: int = 6) -> dict[str, bytes]:
    files = {"classes.txt": b"hole\nsand\n"}
    for i in range(n):
        values = np.zeros((30, 40))
        values[2:6, 3 : 10 + i] = 1
        values[2:6, 10 + i : 20] = 2  # another class that touches is another defect
        files[f"images/{i}.png"] = png(i)
        files[f"masks/{i}_mask.png"] = image_of(values, palette=bool(i % 2))
    return files


def test_masks_of_several_classes(tmp_path, root):
    lines = []
    data = own.prepare("csdd", None, write_folder(tmp_path / "m", mask_files()), format="masks", report=lines.append)
    assert data.classes == ("hole", "sand")
    for name in ("0.png", "1.png"):
        i = int(name[0])
        assert found(data, name) == [("hole", (3, 2, 10 + i, 6)), ("sand", (10 + i, 2, 20, 6))]
    assert "NOT as found" in lines[-1]
    licence = json.loads((data.root / "annotations.json").read_text())["licenses"][0]["name"]
    assert licence.startswith("CC BY-NC-SA 4.0")


def test_masks_without_classes_and_with_findings(tmp_path, root):
    files = mask_files()
    del files["classes.txt"]
    data = own.prepare("mine", None, write_folder(tmp_path / "a", files), format="masks")
    assert data.classes == ("defect",)
    assert found(data, "0.png") == [("defect", (3, 2, 20, 6))]
    wrong = {
        "value 3, classes.txt ends at 2": {"masks/0_mask.png": image_of(np.full((30, 40), 3))},
        "size is stated as 20x30": {"masks/0_mask.png": image_of(np.ones((30, 20)))},
        "no image 9 for it": {"masks/9_mask.png": image_of(np.ones((30, 40)))},
        "no mask 9.png for it": {"images/9.png": png(9)},
        "is empty or repeats a class": {"classes.txt": b"hole\nhole\n"},
    }
    for k, (message, change) in enumerate(wrong.items()):
        with pytest.raises(DataError, match=message):
            own.prepare(f"mine{k}", None, write_folder(tmp_path / f"w{k}", mask_files() | change), format="masks")


# GC10-DET, PKU-Market-PCB, DsPCBSD+


def gc10_files() -> dict[str, bytes]:
    """Six images in folders by class, annotations in `lable`."""
    labels = ("1_chongkong", "2_hanfeng", "10_yaozhe", "10_yaozhed", "6_siban", "7_yiwu")
    files = {f"{1 + i}/img_{i}.jpg": jpeg(i) for i in range(6)}
    return files | {f"lable/img_{i}.xml": voc((label, 5, 6, 50, 60 + i)).encode() for i, label in enumerate(labels)}


def test_gc10_det(tmp_path, root):
    files = gc10_files()
    files["9/img_0.jpg"] = files["1/img_0.jpg"]  # some images lie in two folders
    files["4/img_6.jpg"] = jpeg(6)  # some have no annotation
    files["lable/img_1.xml"] = voc(("2_hanfeng", 5, 6, 50, 61), ("d", 1, 2, 3, 4)).encode()  # and one object is a typo
    source = write_zip(tmp_path / "gc10.zip", files)
    with pytest.raises(DataError, match="has the very pixels of") as caught:
        own.prepare("gc10_det", None, source)
    assert "1 missing_annotation, 1 unknown_class" in str(caught.value)
    policy = dict(entry.split("=") for entry in catalogue.UNVERIFIED["gc10_det"].policies)
    data = own.prepare("gc10_det", None, source, policy=policy)
    assert data.classes == catalogue.UNVERIFIED["gc10_det"].classes
    assert len(data.images) == 6
    assert found(data, "3/img_2.jpg")[0][0] == found(data, "4/img_3.jpg")[0][0] == "waist_folding"
    assert found(data, "1/img_0.jpg") == [("punching_hole", (5, 6, 50, 60))]
    files["9/img_0.jpg"] = jpeg(99)  # of the same name, but another image: whose annotation is it?
    with pytest.raises(DataError, match="no image img_0 for it in the source, or more than one"):
        own.prepare("gc10_det", None, write_zip(tmp_path / "gc10.zip", files))


def test_pku_pcb_leaves_rotated_copies_out(tmp_path, root):
    labels = catalogue.UNVERIFIED["pku_pcb"].classes
    files = {}
    for i, label in enumerate(labels):
        name = f"01_{label}_{i:02}"
        files[f"PCB_DATASET/images/{label.capitalize()}/{name}.jpg"] = jpeg(i)
        files[f"PCB_DATASET/Annotations/{label.capitalize()}/{name}.xml"] = voc((label, 5, 6, 15, 16)).encode()
        files[f"PCB_DATASET/rotation/{label.capitalize()}_rotation/{name}.jpg"] = jpeg(50 + i)
    files["PCB_DATASET/PCB_USED/01.JPG"] = jpeg(90)
    data = own.prepare("pku_pcb", None, write_zip(tmp_path / "p.zip", files))
    assert data.classes == labels
    assert (len(data.images), len(data.annotations)) == (6, 6)


def test_dspcbsd_plus_is_read_once(tmp_path, root):
    """Its archive holds every image twice, with COCO and with YOLO annotations."""
    content = json.loads(coco_files()["set/annotations/all.json"])
    for category, name in zip(content["categories"], ("SH", "BMFO"), strict=True):
        category["name"] = name
    content["annotations"][0]["bbox"] = [30, 2, 10.0113, 5]  # beyond the edge by a rounding
    files = {f"Data_COCO/train2017/{i}.png": png(i) for i in range(6)}
    files["Data_COCO/annotations/instances_train2017.json"] = json.dumps(content).encode()
    yolo = yolo_files()
    files |= {name.replace("d/", "Data_YOLO/", 1): data for name, data in yolo.items()}
    source = write_zip(tmp_path / "DsPCBSD+.zip", files)
    with pytest.raises(DataError, match="box_outside=fix"):
        own.prepare("dspcbsd_plus", None, source)
    data = own.prepare("dspcbsd_plus", None, source, policy={"box_outside": "fix"})
    assert (len(data.images), len(data.annotations)) == (6, 5)
    assert found(data, "0.png") == [("short", (30, 2, 40, 7))]
    assert found(data, "1.png")[0][0] == "base_material_foreign_object"


@pytest.mark.slow
def test_damaged_files_end_in_a_finding_or_a_clear_error(tmp_path, root):
    rng = random.Random(1)
    good = {"severstal": severstal_files(), "dagm2007": dagm_files(), "csdd": mask_files()}
    messages = []
    for k in range(300):
        name = rng.choice(sorted(good))
        source = write_zip(tmp_path / "s.zip", damaged(good[name], rng))
        policy = {kind: "drop" for kind, (_, do) in KINDS.items() if "drop" in do} if k % 2 else {}
        try:
            own.prepare(name, None, source, format="masks" if name == "csdd" else None, policy=policy, force=True)
        except (DataError, RequestError) as e:
            messages.append(str(e))
        assert {p.name for p in root.iterdir()} <= set(good)
    assert len(messages) > 80
    assert all(m and "\n" not in m for m in messages)


@pytest.mark.parametrize("name", catalogue.UNVERIFIED)
def test_what_the_catalogue_says_of_each(name):
    spec = catalogue.UNVERIFIED[name]
    assert spec.name == name
    assert all((spec.title, spec.sizes, spec.licence, spec.citation, spec.how_to_get, spec.layouts))
    assert spec.homepage.startswith("https://")
    assert set(spec.labels.values()) <= set(spec.classes)
    assert bool(spec.url) == bool(spec.digest)

"""A set of one's own: formats in and out, findings and policies, and then used by its name."""

from __future__ import annotations

import io
import json
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.datasets import catalogue, own, readers
from benchmarks.datasets.exporting import export
from benchmarks.datasets.findings import DEFAULTS, KINDS, parse_policy
from benchmarks.datasets.images import decode
from benchmarks.datasets.prepared import ensure, open_prepared, verify
from benchmarks.datasets.sources import open_source
from benchmarks.datasets.splits import load_split, titles
from benchmarks.errors import DataError, RequestError
from tests.datasets.conftest import jpeg, voc, write_folder, write_zip


def png(seed: int, size: tuple[int, int] = (40, 30), mode: str = "L") -> bytes:
    rng = np.random.default_rng(seed)
    out = io.BytesIO()
    if mode == "16":
        Image.fromarray(rng.integers(0, 65536, size[::-1], dtype=np.uint16)).save(out, "PNG")
    else:
        pixels = rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(out, "PNG")
    return out.getvalue()


def coco_files(n: int = 6) -> dict[str, bytes]:
    content = {
        "images": [{"id": 10 + i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in range(n)],
        "categories": [{"id": 7, "name": "dent"}, {"id": 3, "name": "burr"}],
        "annotations": [
            {
                "id": i,
                "image_id": 10 + i,
                "category_id": 3 if i % 2 else 7,
                "bbox": [1.5, 2, 10 + i, 9.25],
                "iscrowd": 0,
            }
            for i in range(n - 1)
        ],
    }
    files = {f"set/images/{i}.png": png(i) for i in range(n)}
    return files | {"set/annotations/all.json": json.dumps(content).encode()}


def yolo_files(n: int = 6) -> dict[str, bytes]:
    files = {f"d/images/train/{i}.png": png(i) for i in range(n)}
    files |= {f"d/labels/train/{i}.txt": f"{i % 2} 0.5 0.5 0.25 0.2\n".encode() for i in range(n - 1)}
    return files | {"d/data.yaml": b"train: images/train\nnc: 2\nnames: {0: dent, 1: burr}\n"}


def voc_files(n: int = 6) -> dict[str, bytes]:
    files = {f"d/img/{i}.png": png(i) for i in range(n)}
    text = [voc(("dent" if i % 2 else "burr", 2, 3, 12 + i, 20), width=40, height=30) for i in range(n)]
    return files | {f"d/xml/{i}.xml": t.encode() for i, t in enumerate(text)}


FILES = {"coco": coco_files, "yolo": yolo_files, "voc": voc_files}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("CANET_BENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.mark.parametrize("format", FILES)
@pytest.mark.parametrize("packed", [True, False])
def test_prepare_and_use_by_name(tmp_path, root, format, packed):
    write = write_zip if packed else write_folder
    source = write(tmp_path / "source", FILES[format]())
    assert readers.detect(open_source(source)) == format
    lines: list[str] = []
    data = own.prepare("my_parts", root, source, report=lines.append)
    assert len(data.images) == 6
    assert set(data.classes) == {"dent", "burr"}
    own.prepare("my_parts", root, source, report=lines.append)
    assert "up to date" in lines[-1]
    spec = catalogue.get("my_parts")
    assert spec.native_size == 40
    assert spec.split == "my_parts-5fold-v1"
    verify("my_parts")
    split = load_split("my_parts", spec.split, 4)
    assert sorted(split.train + split.val + split.test) == sorted(i["file_name"] for i in data.images)
    assert ensure("my_parts").manifest_digest == data.manifest_digest


def test_what_the_formats_say(tmp_path, root):
    data = own.prepare("c", root, write_folder(tmp_path / "c", coco_files()))
    assert data.classes == ("dent", "burr")
    assert [a["bbox"] for a in data.boxes("1.png")] == [[1.5, 2, 11, 9.25]]
    assert data.boxes("5.png") == []
    data = own.prepare("y", root, write_folder(tmp_path / "y", yolo_files()))
    np.testing.assert_allclose(data.boxes("3.png")[0]["bbox"], [15, 12, 10, 6])
    assert data.boxes("5.png") == []  # no label file: no defect
    polygon = yolo_files() | {"d/labels/train/0.txt": b"1 0.1 0.1 0.5 0.2 0.3 0.6\n"}
    data = own.prepare("p", root, write_folder(tmp_path / "p", polygon))
    np.testing.assert_allclose(data.boxes("0.png")[0]["bbox"], [4, 3, 16, 15])
    data = own.prepare("v", root, write_folder(tmp_path / "v", voc_files()))
    assert data.classes == ("burr", "dent")
    assert data.boxes("2.png")[0]["bbox"] == [2, 3, 12, 17]


def classes_called(*names: str):
    return lambda c: c.update(categories=[{"id": i, "name": n} for i, n in zip((7, 3), names, strict=True)])


def test_a_coco_project_named_after_a_class_leaves_the_ids_of_classes(tmp_path, root):
    def change(content):
        content["categories"].insert(0, {"id": 0, "name": "burr", "supercategory": "none"})

    lines: list[str] = []
    data = own.prepare("my_parts", root, write_folder(tmp_path / "s", edit_coco(change)), report=lines.append)
    assert data.external_category_ids() == {1 + data.classes.index("burr"): 3, 1 + data.classes.index("dent"): 7}
    assert any("root_category=drop" in line and "id 3 is called so too" in line for line in lines)


def test_classes_that_differ_in_capitals_or_blanks_are_said(tmp_path, root):
    source, lines = write_folder(tmp_path / "s", edit_coco(classes_called("dent", "Dent "))), list[str]()
    data = own.prepare("my_parts", root, source, report=lines.append)
    assert data.classes == ("dent", "Dent ")
    assert [line for line in lines if "alike_class=keep" in line and "'Dent '" in line and "'dent'" in line]
    with pytest.raises(DataError, match="another class is called 'dent'"):
        own.prepare("my_parts", root, source, strict=True)


def test_a_background_in_the_classes_of_masks_does_not_shift_the_others(tmp_path, root):
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[4:10, 3:13] = 2
    out = io.BytesIO()
    Image.fromarray(mask).save(out, "PNG")
    files = {f"s/images/{i}.png": png(i) for i in range(5)} | {f"s/masks/{i}.png": out.getvalue() for i in range(5)}
    write_folder(tmp_path, files | {"s/classes.txt": b"_background_\ndent\nburr\n"})
    with pytest.raises(DataError, match="value 0 is already"):
        own.prepare("my_parts", root, tmp_path / "s", format="masks")
    (tmp_path / "s/classes.txt").write_bytes(b"dent\nburr\n")
    data = own.prepare("my_parts", root, tmp_path / "s", format="masks")
    found = {(data.classes[a["category_id"] - 1], *a["bbox"]) for a in data.annotations}
    assert found == {("burr", 3.0, 4.0, 10.0, 6.0)}


def edit_coco(change) -> dict[str, bytes]:
    files = coco_files()
    content = json.loads(files["set/annotations/all.json"])
    change(content)
    return files | {"set/annotations/all.json": json.dumps(content).encode()}


def sideways() -> bytes:
    image = Image.open(io.BytesIO(jpeg(3, (40, 30))))
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    image.save(out, "JPEG", exif=exif)
    return out.getvalue()


def box(k, bbox):
    return lambda c: c["annotations"][k].update(bbox=bbox)


def yolo_all() -> dict[str, bytes]:
    """With a label file for every image."""
    return yolo_files() | {"d/labels/train/5.txt": b""}


def moved(files: dict[str, bytes], old: str, new: str) -> dict[str, bytes]:
    return {new if name == old else name: data for name, data in files.items()}


def renamed(files: dict[str, bytes], old: str, new: str, data: bytes) -> dict[str, bytes]:
    """An image under another name, with other bytes."""
    return {k.replace(old, new): data if k.endswith("/" + old) else v for k, v in files.items()}


def frames(seed: int) -> bytes:
    """A TIFF of two pages."""
    out = io.BytesIO()
    first, second = (Image.open(io.BytesIO(png(s))) for s in (seed, seed + 100))
    first.save(out, "TIFF", save_all=True, append_images=[second])
    return out.getvalue()


def mask(side: int, size: tuple[int, int] = (40, 30), value: int = 255) -> bytes:
    """A mask with a square at 3, 2."""
    pixels = np.zeros(size[::-1], dtype=np.uint8)
    pixels[2 : 2 + side, 3 : 3 + side] = value
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


# kind -> (files, images and boxes left under each policy)
CASES = {
    "corrupt_image": (lambda: coco_files() | {"set/images/1.png": b"\x89PNG no"}, {"drop": (5, 4)}),
    "deep_image": (lambda: coco_files() | {"set/images/1.png": png(1, mode="16")}, {"fix": (6, 5), "drop": (5, 4)}),
    "rotated_image": (
        lambda: (
            {
                k: v
                for k, v in edit_coco(lambda c: c["images"][1].update(file_name="1.jpg", width=30, height=40)).items()
                if k != "set/images/1.png"
            }
            | {"set/images/1.jpg": sideways()}
        ),
        {"fix": (6, 5), "drop": (5, 4)},
    ),
    "duplicate_image": (lambda: coco_files() | {"set/images/1.png": png(0)}, {"keep": (6, 5), "drop": (5, 4)}),
    "missing_image": (lambda: {k: v for k, v in coco_files().items() if not k.endswith("/1.png")}, {"drop": (5, 4)}),
    "missing_annotation": (lambda: coco_files() | {"set/images/x.png": png(99)}, {"fix": (7, 5), "drop": (6, 5)}),
    "bad_annotation": (lambda: voc_files() | {"d/xml/1.xml": b"<annotation>"}, {"drop": (5, 5)}),
    "bad_object": (lambda: edit_coco(box(1, [1, 2, "a", 4])), {"drop": (6, 4)}),
    "size_differs": (
        lambda: edit_coco(lambda c: c["images"][1].update(width=41)),
        {"fix": (6, 5), "scale": (6, 5), "drop": (5, 4)},
    ),
    "unknown_class": (lambda: edit_coco(lambda c: c["annotations"][1].update(category_id=99)), {"drop": (6, 4)}),
    "duplicate_id": (lambda: edit_coco(lambda c: c["annotations"][1].update(id=0)), {"drop": (6, 4)}),
    "crowd": (lambda: edit_coco(lambda c: c["annotations"][1].update(iscrowd=1)), {"ignore": (6, 4), "drop": (6, 4)}),
    "difficult": (
        lambda: edit_coco(lambda c: c["annotations"][1].update(ignore=1)),
        {"ignore": (6, 4), "keep": (6, 5), "drop": (6, 4)},
    ),
    "many_frames": (lambda: renamed(yolo_all(), "1.png", "1.tif", frames(1)), {"fix": (6, 5), "drop": (5, 4)}),
    "missing_label": (yolo_files, {"fix": (6, 5), "drop": (5, 5)}),
    "unclaimed_label": (lambda: yolo_all() | {"d/labels/train/x.txt": b"0 0.5 0.5 0.1 0.1"}, {"drop": (6, 5)}),
    "flat_label": (
        lambda: moved(yolo_all(), "d/labels/train/1.txt", "d/labels/1.txt"),
        {"fix": (6, 5), "drop": (5, 4)},
    ),
    "shared_label": (lambda: yolo_all() | {"d/images/train/1.jpg": png(77)}, {"fix": (7, 6), "drop": (5, 4)}),
    "unlisted_image": (
        lambda: yolo_all() | {"d/images/extra/x.png": png(77), "d/labels/extra/x.txt": b"0 0.5 0.5 0.2 0.2"},
        {"drop": (6, 5), "keep": (7, 6)},
    ),
    "unusable_part": (
        lambda: yolo_all() | {"d/data.yaml": b"train: images/train\nval: images/val\nnames: [dent, burr]\n"},
        {"keep": (6, 5)},
    ),
    "unread_image": (lambda: yolo_all() | {"d/images/train/7.gif": b"GIF89a"}, {"drop": (6, 5)}),
    "root_category": (
        lambda: edit_coco(
            lambda c: (
                c["categories"].insert(0, {"id": 0, "name": "parts", "supercategory": "none"}),
                [k.update(supercategory="parts") for k in c["categories"][1:]],
            )
        ),
        {"drop": (6, 5), "keep": (6, 5)},
    ),
    "class_without_box": (
        lambda: edit_coco(lambda c: c["categories"].append({"id": 9, "name": "x"})),
        {"keep": (6, 5)},
    ),
    "alike_class": (lambda: edit_coco(classes_called("dent", "Dent ")), {"keep": (6, 5)}),
    "shared_name": (lambda: edit_coco(classes_called("dent", "dent")), {"keep": (6, 5)}),
    "polygon": (lambda: yolo_all() | {"d/labels/train/1.txt": b"1 .1 .1 .5 .1 .5 .6"}, {"fix": (6, 5)}),
    "keypoints": (
        lambda: (
            yolo_all()
            | {"d/data.yaml": b"train: images/train\nnames: [dent, burr]\nkpt_shape: [1, 3]\n"}
            | {"d/labels/train/1.txt": b"1 .5 .5 .1 .2 .4 .6 2"}
        ),
        {"fix": (6, 5)},
    ),
    "mask_folders": (
        lambda: (
            {f"d/images/{'ab'[i % 2]}/{i}.png": png(i) for i in range(6)}
            | {f"d/masks/{'ab'[i % 2]}/{i}.png": mask(4 + i) for i in range(6)}
        ),
        {"keep": (6, 6), "fix": (6, 6)},
    ),
    "fractions": (
        lambda: edit_coco(lambda c: [a.update(bbox=[0.25, 0.5, 0.5, 0.1 + a["id"] / 20]) for a in c["annotations"]]),
        {"fix": (6, 5)},
    ),
    "box_fraction": (
        lambda: edit_coco(box(1, [0.25, 0.5, 0.5, 0.25])),
        {"fix": (6, 5), "keep": (6, 5), "drop": (6, 4)},
    ),
    "duplicate_box": (
        lambda: edit_coco(lambda c: c["annotations"].append({**c["annotations"][1], "id": 77})),
        {"drop": (6, 5), "keep": (6, 6)},
    ),
    "box_below_pixel": (lambda: edit_coco(box(1, [9, 2, 0.5, 4])), {"keep": (6, 5), "drop": (6, 4)}),
    "box_not_finite": (lambda: edit_coco(box(1, [1, 2, float("nan"), 4])), {"drop": (6, 4)}),
    "bare_area": (
        lambda: edit_coco(lambda c: c["annotations"][1].update(area=5.0)),
        {"keep": (6, 5), "fix": (6, 5)},
    ),
    "box_empty": (lambda: edit_coco(box(1, [1, 2, 0, 4])), {"drop": (6, 4)}),
    "box_inverted": (lambda: edit_coco(box(1, [9, 9, -4, 3])), {"fix": (6, 5), "drop": (6, 4)}),
    "box_outside": (lambda: edit_coco(box(1, [-3, 2, 10, 4])), {"fix": (6, 5), "drop": (6, 4)}),
}


@pytest.mark.parametrize("kind", CASES)
def test_each_finding_and_its_policies(tmp_path, root, kind):
    files, outcomes = CASES[kind]
    source = write_folder(tmp_path / "s", files())
    format = "masks" if kind == "mask_folders" else "auto"
    with pytest.raises(DataError, match=f"--policy {kind}=") as caught:
        own.prepare("mine", root, source, findings=tmp_path / "f.json", format=format, strict=True)
    assert "\n" not in str(caught.value)
    assert not (root / "mine").exists()
    assert {f["kind"] for f in json.loads((tmp_path / "f.json").read_text())} == {kind}
    if kind in DEFAULTS:
        lines: list[str] = []
        data = own.prepare("mine", root, source, format=format, report=lines.append)
        assert (len(data.images), len(data.annotations)) == outcomes[DEFAULTS[kind]]
        assert [line for line in lines if f" x {kind}={DEFAULTS[kind]} (" in line and "for example" in line]
        assert f"{kind}={DEFAULTS[kind]}" in data.manifest["examples"]
    else:
        with pytest.raises(DataError, match=f"--policy {kind}="):
            own.prepare("mine", root, source, format=format)
    assert set(outcomes) == set(KINDS[kind][1])
    for action, (images, boxes) in outcomes.items():
        data = own.prepare("mine", root, source, policy={kind: action}, format=format)
        assert (len(data.images), len(data.annotations)) == (images, boxes)
        assert set(data.manifest.get("changes", {})) == (set() if action == "keep" else {f"{kind}={action}"})
        verify("mine")
        for image in data.images:
            pixels = decode(data.path(image["file_name"]).read_bytes(), image["file_name"])
            assert pixels.shape == (image["height"], image["width"], 3)


def test_a_box_beside_its_image_is_not_clipped_to_nothing(tmp_path, root):
    source = write_folder(tmp_path / "s", edit_coco(box(1, [50, 2, 10, 4])))
    with pytest.raises(DataError, match=r"lies outside the image of 40x30 pixels; .* --policy box_empty=drop"):
        own.prepare("mine", root, source, policy={"box_outside": "fix"})
    data = own.prepare("mine", root, source, policy={"box_empty": "drop"})
    assert data.manifest["changes"] == {"box_empty=drop": 1}


def test_what_refuses_a_set_is_listed_by_file(tmp_path, root):
    files = coco_files() | {f"set/images/{i}.png": b"no" for i in range(3)}
    lines: list[str] = []
    with pytest.raises(DataError, match="also found: 2 corrupt_image"):
        own.prepare("mine", root, write_folder(tmp_path / "s", files), report=lines.append)
    assert [line.split(":")[0] for line in lines] == ["0.png", "1.png", "2.png"]
    assert all("corrupt_image" in line for line in lines)


def test_every_finding_has_a_case():
    assert set(CASES) | {"duplicate_name", "broken_link"} == set(KINDS)


def test_fixes_do_what_they_say(tmp_path, root):
    data = own.prepare(
        "a", root, write_folder(tmp_path / "a", CASES["box_outside"][0]()), policy={"box_outside": "fix"}
    )
    assert data.boxes("1.png")[0]["bbox"] == [0, 2, 7, 4]
    data = own.prepare(
        "b", root, write_folder(tmp_path / "b", CASES["box_inverted"][0]()), policy={"box_inverted": "fix"}
    )
    assert data.boxes("1.png")[0]["bbox"] == [5, 9, 4, 3]
    source = write_folder(tmp_path / "area", CASES["bare_area"][0]())
    areas = [own.prepare(f"area_{action}", root, source, policy={"bare_area": action}) for action in ("keep", "fix")]
    assert [data.boxes("1.png")[0]["area"] for data in areas] == [11 * 9.25, 5.0]
    source = write_folder(tmp_path / "c", CASES["rotated_image"][0]())
    data = own.prepare("c", root, source, policy={"rotated_image": "fix"})
    assert (data.image("1.png")["width"], data.image("1.png")["height"]) == (30, 40)
    data = own.prepare("d", root, write_folder(tmp_path / "d", CASES["deep_image"][0]()), policy={"deep_image": "fix"})
    deep = np.random.default_rng(1).integers(0, 65536, (30, 40), dtype=np.uint16)
    scaled = (deep - float(deep.min())) * 255 / (float(deep.max()) - float(deep.min()))
    assert np.abs(np.asarray(Image.open(data.path("1.png"))) - scaled).max() <= 0.5


@pytest.mark.parametrize("mode", ["P", "LA", "RGBA", "1", "RGB"])
def test_other_kinds_of_pixels_are_read(tmp_path, root, mode):
    data = own.prepare(
        "mine", root, write_folder(tmp_path / "s", coco_files() | {"set/images/0.png": png(0, mode=mode)})
    )
    assert decode(data.path("0.png").read_bytes(), "0.png").shape == (30, 40, 3)


def test_wrong_requests(tmp_path, root):
    source = write_folder(tmp_path / "s", coco_files())
    with pytest.raises(RequestError, match="small letters"):
        own.prepare("My Parts", root, source)
    with pytest.raises(RequestError, match="in the catalogue"):
        own.prepare("neu_det", root, source)
    with pytest.raises(RequestError, match="did you mean 'coco'"):
        own.prepare("mine", root, source, format="cocos")
    with pytest.raises(RequestError, match="box_outside can be error, fix, drop"):
        parse_policy(["box_outside=mend"])
    with pytest.raises(RequestError, match="did you mean 'box_outside'"):
        parse_policy(["box_outsid=fix"])
    with pytest.raises(DataError, match="could be coco or voc"):
        own.prepare("mine", root, write_folder(tmp_path / "t", coco_files() | voc_files()))
    with pytest.raises(DataError, match="neither COCO"):
        own.prepare("mine", root, write_folder(tmp_path / "u", {"a.png": png(1)}))
    with pytest.raises(DataError, match="cannot be split into 5 folds"):
        own.prepare("mine", root, write_folder(tmp_path / "v", coco_files(3)))
    own.prepare("my_parts", root, source)
    with pytest.raises(RequestError, match="did you mean 'my_parts'"):
        catalogue.get("my_part")


def equal_up_to(a, b, tolerance):
    for image in a.images:
        ours, theirs = a.boxes(image["file_name"]), b.boxes(image["file_name"])
        key = [(a.classes[x["category_id"] - 1], x["bbox"]) for x in ours]
        other = [(b.classes[x["category_id"] - 1], x["bbox"]) for x in theirs]
        assert [k[0] for k in key] == [k[0] for k in other]
        for (_, x), (_, y) in zip(key, other, strict=True):
            assert np.abs(np.subtract(x, y)).max() <= tolerance
    assert len(a.images) == len(b.images)
    assert len(a.annotations) == len(b.annotations)


@pytest.mark.slow
def test_round_trip_of_the_synthetic_set(tmp_path, root, synthetic):
    export(synthetic, "yolo", tmp_path / "yolo")
    via_yolo = own.prepare("via_yolo", root, tmp_path / "yolo")
    export(via_yolo, "coco", tmp_path / "coco")
    via_coco = own.prepare("via_coco", root, tmp_path / "coco")
    assert via_coco.classes == synthetic.classes
    equal_up_to(synthetic, via_coco, 1e-6)


def test_few_shot_lists_of_ones_own_set(tmp_path, root):
    data = own.prepare("mine", root, write_folder(tmp_path / "s", yolo_files(60)))
    assert titles("mine") == ["mine-5fold-v1", "mine-few10-v1", "mine-few30-v1"]
    verify("mine")
    for fold in range(5):
        whole, few = (load_split("mine", f"mine-{kind}-v1", fold) for kind in ("5fold", "few30"))
        assert (few.val, few.test) == (whole.val, whole.test)
        assert len(few.train) == 30
        assert set(few.train) < set(whole.train)
    assert len(data.images) == 60


def test_export_of_a_fold(tmp_path, root, synthetic):
    split = load_split("synthetic_small", "synthetic_small-4fold-v2", 2)
    export(synthetic, "coco", tmp_path / "out", split)
    part = json.loads((tmp_path / "out/annotations/instances_test.json").read_text())
    assert sorted(i["file_name"] for i in part["images"]) == sorted(f"images/test/{f}" for f in split.test)
    assert all((tmp_path / "out" / i["file_name"]).is_file() for i in part["images"])
    export(synthetic, "yolo", tmp_path / "y", split)
    assert len(list((tmp_path / "y/images/train").iterdir())) == len(split.train)
    with pytest.raises(RequestError, match="is there already"):
        export(synthetic, "coco", tmp_path / "out")
    with pytest.raises(RequestError, match="did you mean 'yolo'"):
        export(synthetic, "yol", tmp_path / "z")


@pytest.mark.slow
def test_round_trips_of_neu_det(tmp_path, root, neu):
    from tests.datasets.conftest import archive

    known = dict(catalogue.get("neu_det").known)
    voc_read = own.prepare("neu_voc", root, archive("NEU-DET.zip"), policy=known)
    equal_up_to(neu, voc_read, 0)
    export(neu, "yolo", tmp_path / "yolo")
    via_yolo = own.prepare("neu_yolo", root, tmp_path / "yolo", policy=known)
    equal_up_to(neu, via_yolo, 1e-6)


def damaged(files: dict[str, bytes], rng: random.Random) -> dict[str, bytes]:
    """One file with bytes flipped, cut, swapped, repeated or replaced by another file's."""
    name = rng.choice(sorted(files))
    data = bytearray(files[name])
    for _ in range(rng.randint(1, 4)):
        how = rng.randrange(6)
        i, j = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        if how == 0 and data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif how == 1:
            del data[i:]
        elif how == 2:
            del data[i:j]
        elif how == 3:
            data[i:i] = data[i:j][:200]
        elif how == 4:
            token = rng.choice(
                [b"nan", b"-1", b"1e999", b"null", b"{}", b"[[", b"\xff\xfe", b"<", b'"', b"99999999999"]
            )
            data[i : i + len(token)] = token
        else:
            data = bytearray(files[rng.choice(sorted(files))])
    return files | {name: bytes(data)}


@pytest.mark.parametrize("sets", [40, pytest.param(1200, marks=pytest.mark.slow)])
def test_damaged_files_end_in_a_finding_or_a_clear_error(tmp_path, root, sets):
    """Damaged sets and archives: no traceback, nothing outside the target, nothing half-written."""
    rng = random.Random(0)
    good = {format: make() for format, make in FILES.items()}
    policies = ({}, {kind: "drop" for kind, (_, actions) in KINDS.items() if "drop" in actions})
    source = tmp_path / "s.zip"
    messages = []
    for k in range(sets):
        format = rng.choice(sorted(good))
        files = damaged(good[format], rng)
        write_zip(source, files)
        if k % 4 == 0:  # the archive itself
            raw = bytearray(source.read_bytes())
            for _ in range(rng.randint(1, 8)):
                raw[rng.randrange(len(raw))] = rng.randrange(256)
            source.write_bytes(raw[: rng.randint(len(raw) // 2, len(raw))] if k % 8 == 0 else raw)
        try:
            own.prepare("mine", root, source, policy=policies[k % 2], force=True)
        except (DataError, RequestError) as e:
            messages.append(str(e))
        assert not root.exists() or {p.name for p in root.iterdir()} <= {"mine"}
        assert {p.name for p in tmp_path.iterdir()} <= {"s.zip", "data"}
    assert len(messages) > sets / 4
    assert all(m and "\n" not in m for m in messages)
    open_prepared("mine", root)


def test_hostile_annotations(tmp_path, root):
    bomb = b"a: &a [x,x,x,x,x,x,x,x]\n" + b"".join(
        b"%c: &%c [%s]\n" % (k, k, b",".join([b"*%c" % (k - 1)] * 8)) for k in range(ord("b"), ord("n"))
    )
    entity = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>'.encode("utf-16")
    for files, message in (
        (yolo_files() | {"d/data.yaml": bomb + b"names: [*m, *m]\n"}, "no list of class names"),
        (yolo_files() | {"d/data.yaml": b'names: !!python/object/apply:os.system ["true"]'}, "no list of class names"),
        (voc_files() | {"d/xml/0.xml": entity}, "declares a document type"),
        (coco_named("0.png/1.png"), r"'0\.png/1\.png' cannot be called so"),
        (coco_named("0.PNG"), "a second image of this name"),
        (coco_named("x" * 300 + ".png"), "cannot be called so"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            own.prepare("mine", root, write_zip(tmp_path / "s.zip", files))
        assert "\n" not in str(caught.value)
    assert not root.exists() or not list(root.iterdir())


def coco_named(name: str) -> dict[str, bytes]:
    """The second image is called so."""
    files = edit_coco(lambda c: c["images"][1].update(file_name=name))
    return files | {f"set/images/{name}": files.pop("set/images/1.png")}


def test_hostile_archive(tmp_path, root):
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        for name, data in coco_files().items():
            archive.writestr(name, data)
        archive.writestr("../outside.txt", "x")
    with pytest.raises(DataError, match="outside the archive"):
        own.prepare("mine", root, tmp_path / "s.zip")
    assert {p.name for p in tmp_path.iterdir()} == {"s.zip"}
    files = edit_coco(lambda c: c["images"][0].update(file_name="../../images/0.png"))
    own.prepare("mine", root, write_folder(tmp_path / "t", files))  # found by its base name, stored under that
    assert (root / "mine/images/0.png").is_file()


def test_the_documentation_lists_every_finding_and_policy():
    text = (Path(__file__).parents[2] / "docs/your-data.md").read_text(encoding="utf-8")
    for kind, (meaning, actions) in KINDS.items():
        does = "; ".join(f"`{action}`: {what}" for action, what in actions.items())
        default = f"`{DEFAULTS[kind]}`" if kind in DEFAULTS else "refused"
        assert f"| `{kind}` | {meaning} | {does} | {default} |" in text


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_height_map_with_values_that_are_no_numbers_is_a_finding(value: float) -> None:
    from benchmarks.datasets.images import deep_values, examine

    pixels = np.full((4, 4), 0.5, dtype=np.float32)
    pixels[0, 0] = value
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "TIFF")
    with pytest.raises(DataError, match="1 pixels are NaN or infinite"):
        examine(out.getvalue(), "a.tif")
    assert deep_values(out.getvalue(), "a.tif") is None

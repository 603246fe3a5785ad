"""Which images of a user's set stay in one fold: copies of exporters, turned ones, fixtures, strips, a file's word."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks.datasets import grouping, own
from benchmarks.datasets.duplicates import look_alike, near_duplicates, source_name
from benchmarks.datasets.splits import groups_of, load_split
from benchmarks.errors import DataError, RequestError


def picture(seed, size=(48, 64)):
    """Blotches and noise, unlike those of any other seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8), dtype=np.uint8)).resize(size[::-1], Image.Resampling.BICUBIC)
    return np.clip(np.asarray(coarse, dtype=float) + rng.normal(0, 4, size), 0, 255).astype(np.uint8)


def written(folder, images):
    paths = {}
    for name, image in images.items():
        paths[name] = folder / name
        paths[name].parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(paths[name])
    return paths


def fixture_photos(count=20, size=(60, 80)):
    """One part in one fixture: the same background, other noise, a dark spot at another place each."""
    background = picture(99, size).astype(float)
    rng = np.random.default_rng(5)
    out = {}
    for i in range(count):
        image = background + rng.normal(0, 3, size)
        y, x = divmod(i, 5)
        image[10 * y + 5 : 10 * y + 12, 15 * x + 4 : 15 * x + 11] -= 90
        out[f"part{i:02d}.png"] = np.clip(image, 0, 255).astype(np.uint8)
    return out


def yolo(folder, images):
    """A YOLO set with one box in each image."""
    written(folder / "images", images)
    (folder / "labels").mkdir()
    for name in images:
        (folder / "labels" / name).with_suffix(".txt").write_text("0 0.5 0.5 0.25 0.25\n")
    (folder / "data.yaml").write_text("names: [spot]\n")
    return folder


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("part08_png.rf.0f3c9.jpg", "part08"),
        ("train/images/part08_JPG.rf.ABC012.png", "part08"),
        ("valid/part08.rf.12ab.png", "part08"),
        ("part08.png", "part08.png"),
        ("a/part08.png", "a/part08.png"),
        ("x.rf/part.png", "x.rf/part.png"),
    ],
)
def test_source_names(name, source):
    assert source_name(name) == source


def test_copies_of_an_exporter_turned_and_mirrored_images_are_together(tmp_path):
    images = {}
    for seed in range(8):
        image = picture(seed)
        images[f"a{seed}.png"] = image
        images[f"b{seed}.png"] = np.rot90(image, seed % 4)
        images[f"c{seed}.png"] = image[:, ::-1] if seed % 2 else image[::-1]
        images[f"train/d{seed}_png.rf.{seed:04x}.png"] = image
        images[f"valid/d{seed}_png.rf.{seed + 77:04x}.png"] = picture(500 + seed)  # cut and lit so that only names tell
    found = look_alike(written(tmp_path, images))
    assert len(found) == 8
    assert all(len(group) == 5 for group in found)
    assert all(len({name.split(".")[0].replace("_png", "")[-1] for name in group}) == 1 for group in found)


def test_photos_of_one_fixture_are_told_apart_by_what_they_do_not_share(tmp_path):
    images = fixture_photos()
    rng = np.random.default_rng(6)
    again = np.clip(images["part03.png"] * 1.0 + rng.normal(0, 3, (60, 80)), 0, 255)  # the same part once more
    paths = written(tmp_path, images | {"part03_again.png": again.astype(np.uint8)})
    assert max(len(group) for group in near_duplicates(paths)) > 15
    found = look_alike(paths)
    assert any({"part03.png", "part03_again.png"} <= set(group) for group in found)
    assert max(map(len, found)) <= 4


def test_copies_are_a_group_however_many_they_are(tmp_path):
    copies = {f"c{i}.png": picture(1) for i in range(12)}
    found = look_alike(written(tmp_path, copies | {f"o{i}.png": picture(i + 10) for i in range(8)}))
    assert found == [sorted(copies)]


def test_strips_are_not_copies_of_each_other(tmp_path):
    rng = np.random.default_rng(2)
    lines = {f"p{i}.png": rng.integers(0, 256, (8, 4096), dtype=np.uint8) for i in range(6)}
    lines |= {f"q{i}.png": np.ascontiguousarray(rng.integers(0, 256, (4096, 8), dtype=np.uint8)) for i in range(6)}
    assert look_alike(written(tmp_path, lines)) == []
    again = lines["p0.png"] // 2 + 20
    assert look_alike(written(tmp_path, lines | {"p0_again.png": again})) == [["p0.png", "p0_again.png"]]


def test_prepare_spreads_photos_of_one_fixture_and_keeps_copies_together(tmp_path):
    data = own.prepare("fixed", tmp_path / "root", yolo(tmp_path / "set", fixture_photos()), format="auto")
    folds = [load_split("fixed", "fixed-5fold-v1", i, tmp_path / "root").test for i in range(5)]
    assert all(3 <= len(fold) <= 5 for fold in folds)
    assert len(data.images) == 20
    copies = {f"s{k}_png.rf.{v}{k}.png": picture(10 * k + i) for k in range(6) for i, v in enumerate("abc")}
    own.prepare("copies", tmp_path / "root", yolo(tmp_path / "set2", copies), format="auto")
    place = {n: i for i in range(5) for n in load_split("copies", "copies-5fold-v1", i, tmp_path / "root").test}
    assert all(len({place[f"s{k}_png.rf.{v}{k}.png"] for v in "abc"}) == 1 for k in range(6))


def test_too_few_groups_are_refused_with_what_to_do(tmp_path):
    source = yolo(tmp_path / "set", {f"c{i:02d}.png": picture(1) for i in range(20)})
    wanted = r"same: 20 images are 1 group; 5 folds need 5: .*--groups near:32, --groups name, none or FILE$"
    with pytest.raises(DataError, match=wanted):
        own.prepare("same", tmp_path, source, format="auto", policy={"duplicate_image": "keep"})
    stated = tmp_path / "groups.csv"
    stated.write_text("image,group\n" + "".join(f"c{i:02d}.png,{i // 5}\n" for i in range(20)))
    with pytest.raises(DataError, match=r"20 images are 4 groups; 5 folds need 5: .* or --folds 4"):
        own.prepare("same", tmp_path, source, format="auto", policy={"duplicate_image": "keep"}, groups=str(stated))
    own.prepare(
        "same", tmp_path, source, format="auto", policy={"duplicate_image": "keep"}, groups=str(stated), folds=4
    )
    group = groups_of("same", "same-4fold-v1", tmp_path)
    assert all((group[f"c{i:02d}.png"] == group["c00.png"]) == (i < 5) for i in range(20))
    assert [len(load_split("same", "same-4fold-v1", i, tmp_path).test) for i in range(4)] == [5] * 4
    own.prepare("alone", tmp_path, source, format="auto", policy={"duplicate_image": "keep"}, groups="none")
    assert [len(load_split("alone", "alone-5fold-v1", i, tmp_path).test) for i in range(5)] == [4] * 5


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("image,part\na.png,1\n", "no columns image and group"),
        ("image,group\na.png,1\nc.png,1\n", "line 3: the set has no image 'c.png'"),
        ("image,group\na.png,1\na.png,2\n", "line 3: a.png is in group '1' already"),
        ("image,group\na.png,\n", "line 2: no group"),
        ("image,group\na.png,1\n", "1 images have no line in it, 'b.png' for one"),
    ],
)
def test_a_file_of_groups_that_does_not_fit_is_refused(tmp_path, text, wrong):
    file = tmp_path / "groups.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=wrong):
        grouping.groups({"a.png": tmp_path / "a.png", "b.png": tmp_path / "b.png"}, str(file), 5)


@pytest.mark.parametrize("how", ["nearest", "near:x", "near:101", "no_such.csv"])
def test_a_way_that_is_none_is_refused(how):
    with pytest.raises(RequestError, match="--groups"):
        grouping.check(how)


def test_a_list_with_an_empty_fold_is_refused(tmp_path):
    folder = tmp_path / "mine" / "splits"
    folder.mkdir(parents=True)
    content = {"schema": 1, "dataset": "mine", "folds": [["a"], ["b"], [], ["c"], ["d"]]}
    (folder / "mine-5fold-v1.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="a fold of it has no image"):
        load_split("mine", "mine-5fold-v1", 2, tmp_path)

"""Split lists: shipped files that hold what they promise, and the function that made them."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.datasets import catalogue, own, splits
from benchmarks.datasets.duplicates import Overlap, linked, near_duplicates, overlapping, perceptual_hash
from benchmarks.datasets.splits import (
    FEW,
    SHIPPED,
    SUPERSEDED,
    count_folds,
    dumps,
    groups_of,
    load_split,
    make_all,
    make_folds,
)
from benchmarks.datasets.synthetic import encode_png
from benchmarks.errors import DataError, RequestError
from tests.datasets.search_leaks import search

LISTS = {  # final: records rest on them
    "deep_pcb-5fold-v1": "297e98f7d0a7915209c4b55718d7f9a2d86ef1ef05be6bf29983a97efc6b9599",
    "deep_pcb-boards-v1": "288aedc0bbc06429923e5dc37fb497985c42da413db194fbbbaee9fc639239e1",
    "deep_pcb-few10-v1": "07a050af2be63ece5649d000f75654c1e688c610bb62379687e1b4d4996839c9",
    "deep_pcb-few100-v1": "7af7f64504ef5595a977ea66370e2e50adf0c68b0fd6bf6ef35079848db775ca",
    "deep_pcb-few30-v1": "c60e8f3150e8aa59ce8752bb83d6dadf201059af4f0f8e542c77b409431da5ca",
    "deep_pcb-official-v1": "9d5f3299fa230990b5cbe793af73bb7e3d6c4607e53d48122f8ea72c0ff26c30",
    "deep_pcb-templates-v1": "f2ffd79513c0f8b1b9218aade43e76569a18e7332f1304d1a0e28a9e3c5e5045",
    "neu_det-5fold-v1": "2fc449d2546e7e656c2edd0c87556d638ffe488d091e1e9b9e43db9507482ef8",
    "neu_det-5fold-v2": "5d3d37c37795d8a810f4da6d5db43457dbdbb578afe35d7bde8636dce385cb29",
    "neu_det-few10-v1": "4f9deea97a0d0de2d6b57a429d1289e37397043aba8323746d1adfa07c83fac7",
    "neu_det-few10-v2": "f030271b02d65ca34d2beb6a32bdaf2eb8d7fa7e4ac52b713aa77a0ffe78db79",
    "neu_det-few100-v1": "3ee26cbd3a4723c510b050a9ef37bded5ea0b4891374b2ee31de936a712e204d",
    "neu_det-few100-v2": "e8084bde2cb1f7eb85c8a9c99b340369a31282fcb0e34fafe0f078c1ad22dfa4",
    "neu_det-few30-v1": "a7f49e09b3f52459171cdf9673fe4d613e01b6637121caa34a688286011753ab",
    "neu_det-few30-v2": "76370816ac58af7446f554d0f672653ffe8a481cf37227d8db3acfe92ce27a0b",
    "synthetic_small-4fold-v2": "4f5c41746e7cabec54ade21a044ee516b3b8ad61b53a02d1a210a4ac4d252c2c",
    "synthetic_small-5fold-v1": "98dd9f6427fb8399318d7420d6ff10e27c85c8ad4d500f493b6a0fc3869b37ed",
    "synthetic_small-few10-v1": "2613ab5b2e1a07151630a0c0e15cceb93349f7253949ca862593cebc60dcd6d2",
    "synthetic_small-few10-v2": "6eac2d58b8b69e047d90c6c0400d4eb1fc5a8382c6a420080aff0e922000b66e",
    "synthetic_small-few100-v1": "74c8787985e3cc80b2ae6be76d3b3fed132b3b854688b0246fb16045e0bcbed8",
    "synthetic_small-few100-v2": "1b14876a56e8798ea1f9aea806810fa8a74eda009150e9505e8e932bf16f0ce1",
    "synthetic_small-few30-v1": "468ca373da68d08263c61815a45127aeda124df00aa23f8c244578a3eb4d9a0c",
    "synthetic_small-few30-v2": "3d80d9656a082b35ba75f2c00ae7a076a7a6869b0d36911c2848483a4b770877",
    "synthetic_smoke-4fold-v1": "fd70396ea9af59bc616323fbce20faf713384f1d9b1d77fd12cd5a7230465290",
    "synthetic_smoke-few10-v1": "7da355d5047c47ec44468afe94a41d4ce0d25018ad8ab1d1e8d3680962e08bd6",
    "synthetic_smoke-few30-v1": "09b287597b3aedbb8965705cf2aaa3397acff44b50ff1dd1608de5e84a333c53",
}


def sums(folder):
    return [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}" for p in sorted(folder.glob("*.json"))]


def test_shipped_lists_never_change():
    assert (SHIPPED / "SHA256SUMS").read_text().splitlines() == sums(SHIPPED)
    assert {p.stem: hashlib.sha256(p.read_bytes()).hexdigest() for p in SHIPPED.glob("*.json")} == LISTS


FOLDED = [name for name in LISTS if "folds" in json.loads((SHIPPED / f"{name}.json").read_bytes())]
IMAGES = {"synthetic_small": 1400, "synthetic_smoke": 168, "neu_det": 1800, "deep_pcb": 1500}


def images_of(split):
    return 300 if split == "synthetic_small-5fold-v1" else IMAGES[split.partition("-")[0]]


@pytest.mark.parametrize("split", FOLDED)
def test_folds_part_the_set(split):
    name = split.partition("-")[0]
    folds = count_folds(name, split)
    assert folds == (4 if "4fold" in split else 5)
    parts = [load_split(name, split, i) for i in range(folds)]
    everything = {f for p in parts for f in p.test}
    good = {f for f in everything if f.startswith("good_")}
    assert len(everything) == images_of(split) == sum(len(p.test) for p in parts)
    for i, p in enumerate(parts):
        assert set(p.val) == set(parts[(i + 1) % folds].test)
        assert set(p.train) | set(p.val) | set(p.test) == everything - (good - set(p.val) - set(p.test))
        assert not good & set(p.train)
        assert not set(p.train) & set(p.val)
        assert not (set(p.train) | set(p.val)) & set(p.test)
        assert len(set(p.train)) == len(p.train)
        assert p.digest == LISTS[split]
    listed = json.loads((SHIPPED / f"{split}.json").read_bytes())
    groups = listed.get("near_duplicate_groups") or list(listed.get("groups", {}).values())
    place = {f: i for i, p in enumerate(parts) for f in p.test}
    assert all(len({place[f] for f in group}) == 1 for group in groups)


def test_every_set_that_can_be_had_has_its_default_list():
    assert {name.partition("-")[0] for name in LISTS} == set(IMAGES)
    for name in IMAGES:
        spec = catalogue.get(name)
        assert spec.split in FOLDED
        assert spec.folds == count_folds(name, spec.split)


@pytest.mark.parametrize("name", IMAGES)
def test_few_shot_lists_are_nested_parts_of_the_training_part(name):
    bases = [split for split in FOLDED if re.fullmatch(rf"{name}-\dfold-v\d", split)]
    assert bases
    for base, fold in itertools.product(bases, range(5)):
        if fold == count_folds(name, base):
            continue
        version = base.rpartition("-")[2]
        whole = load_split(name, base, fold)
        shorter: tuple[str, ...] = ()
        for count in (n for n in FEW if n <= len(whole.train)):
            few = load_split(name, f"{name}-few{count}-{version}", fold)
            assert len(set(few.train)) == count
            assert few.train[: len(shorter)] == shorter
            assert set(few.train) <= set(whole.train)
            assert (few.val, few.test) == (whole.val, whole.test)
            shorter = few.train


def test_groups_are_those_of_the_list():
    for split in LISTS:
        name = split.partition("-")[0]
        group = groups_of(name, split)
        first = load_split(name, split, 0)
        assert {*first.val, *first.test} <= set(group)
        assert set(group.values()) == set(range(len(set(group.values()))))
    listed = json.loads((SHIPPED / "neu_det-5fold-v1.json").read_bytes())["near_duplicate_groups"]
    group = groups_of("neu_det", "neu_det-5fold-v1")
    assert all(len({group[name] for name in together}) == 1 for together in listed)
    assert len(set(group.values())) == 1800 - sum(map(len, listed)) + len(listed)
    few = groups_of("neu_det", "neu_det-few10-v1")  # what is tested is that of its base
    pairs = {(few[name], group[name]) for name in few}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    boards = groups_of("deep_pcb", "deep_pcb-boards-v1")
    assert all((boards[a] == boards[b]) == (a[:5] == b[:5]) for a in list(boards)[::50] for b in list(boards)[::50])


def test_ten_images_show_every_class(synthetic):
    for fold in range(4):
        few = load_split("synthetic_small", "synthetic_small-few10-v2", fold).train
        assert {a["category_id"] for f in few for a in synthetic.boxes(f)} == {1, 2, 3, 4, 5, 6}
        assert any(not synthetic.boxes(f) for f in few)


def test_a_list_on_another_base_is_refused(tmp_path, monkeypatch):
    few = json.loads((SHIPPED / "synthetic_small-few10-v1.json").read_bytes())
    base = json.loads((SHIPPED / "synthetic_small-5fold-v1.json").read_bytes())
    (tmp_path / "synthetic_small-few10-v1.json").write_text(json.dumps(few))
    (tmp_path / "synthetic_small-5fold-v1.json").write_text(json.dumps(base))
    monkeypatch.setattr(splits, "SHIPPED", tmp_path)
    (tmp_path / "SHA256SUMS").write_text("\n".join(sums(tmp_path)))
    with pytest.raises(DataError, match="not the list that it builds on"):
        load_split("synthetic_small", "synthetic_small-few10-v1", 0)


def shipped(name):
    return {title: (SHIPPED / f"{title}.json").read_text(encoding="utf-8") for title in LISTS if title.startswith(name)}


def test_synthetic_lists_are_what_the_command_makes(synthetic):
    assert {title: dumps(content) for title, content in make_all(synthetic).items()} == {
        title: text for title, text in shipped("synthetic_small").items() if title not in SUPERSEDED
    }


def shares(data, split_name):
    """Boxes of each class in each fold, relative to an even share."""
    total = Counter(a["category_id"] for a in data.annotations)
    folds = [load_split(data.name, split_name, i).test for i in range(count_folds(data.name, split_name))]
    counts = [Counter(a["category_id"] for f in part for a in data.boxes(f)) for part in folds]
    return np.array([[len(folds) * c[k] / total[k] for k in total] for c in counts])


def test_synthetic_folds_are_balanced(synthetic):
    assert np.abs(shares(synthetic, "synthetic_small-4fold-v2") - 1).max() < 0.05
    for i in range(4):
        fold = load_split("synthetic_small", "synthetic_small-4fold-v2", i)
        assert len(fold.train) == 400
        clean = [sum(not synthetic.boxes(f) for f in part) for part in (fold.train, fold.val, fold.test)]
        assert clean == [40, 170, 170]


def test_lists_of_version_1_name_no_image_of_version_2(synthetic):
    names = {image["file_name"] for image in synthetic.images}
    assert not names & set(load_split("synthetic_small", "synthetic_small-5fold-v1", 0).test)


def test_neu_folds_are_balanced(neu):
    share = shares(neu, "neu_det-5fold-v1")
    assert np.abs(share - 1).max() < 0.10  # one strip alone gives 73 images of pitted_surface
    assert np.sort(np.abs(share - 1).ravel())[-4] < 0.03


def test_neu_folds_have_each_class_from_as_many_groups_as_can_be(neu):
    group = groups_of("neu_det", "neu_det-5fold-v2")
    tests = [load_split("neu_det", "neu_det-5fold-v2", fold).test for fold in range(5)]
    found = splits.shares(neu, tests, group)
    whole = splits.shares(neu, [list(group)], group)[0]
    for label in neu.classes:
        assert min(fold[label].groups for fold in found) >= whole[label].groups // 5
        assert sum(fold[label].groups for fold in found) == whole[label].groups  # no group in two folds
        assert sum(fold[label].boxes for fold in found) == whole[label].boxes


def test_neu_near_duplicates_are_those_in_the_lists(neu):
    names = [i["file_name"] for i in neu.images]
    found = near_duplicates({n: neu.path(n) for n in names})
    for version in ("v1", "v2"):
        listed = json.loads((SHIPPED / f"neu_det-5fold-{version}.json").read_bytes())["near_duplicate_groups"]
        assert all(any(set(group) <= set(g) for g in listed) for group in found)


def labelled():
    """Pairs of NEU-DET registered over each other, and whether they show the same place, judged by eye."""
    with (Path(__file__).parent / "overlap_labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            figures = {k: float(row[k]) for k in ("area", "side", "correlation", "sharpness", "significance")}
            pair = Overlap(row["a"], row["b"], int(row["dy"]), int(row["dx"]), **figures)
            yield pair, row["same_place"] == "yes"


def test_overlaps_are_decided_as_by_eye():
    judged = list(labelled())
    assert len(judged) == 423
    right = sum(pair.same_place and same for pair, same in judged)
    assert (right, sum(pair.same_place for pair, _ in judged), sum(same for _, same in judged)) == (159, 176, 169)


PLACES = [
    ("inclusion_196", "inclusion_213"),  # 88% of their area in common
    ("scratches_131", "scratches_150"),  # 34%
    ("patches_42", "patches_43"),  # 21%
]


def test_what_shows_one_place_by_eye_lies_in_one_fold():
    place = {name: fold for fold in range(5) for name in load_split("neu_det", "neu_det-5fold-v2", fold).test}
    pairs = [(f"{a}.jpg", f"{b}.jpg") for a, b in PLACES]
    pairs += [(pair.a, pair.b) for pair, same in labelled() if same and pair.area >= 0.1]
    assert len(pairs) > 100
    assert [(a, b) for a, b in pairs if place[a] != place[b]] == []
    group = groups_of("neu_det", "neu_det-5fold-v2")
    assert all(group[a] == group[b] for a, b in pairs)
    before = {name: fold for fold in range(5) for name in load_split("neu_det", "neu_det-5fold-v1", fold).test}
    assert all(before[f"{a}.jpg"] != before[f"{b}.jpg"] for a, b in PLACES)


def test_no_class_of_a_fold_rests_on_fewer_groups_than_must_be():
    group = groups_of("neu_det", "neu_det-5fold-v2")
    label = {name: name.rsplit("_", 1)[0] for name in group}
    tests = [load_split("neu_det", "neu_det-5fold-v2", fold).test for fold in range(5)]
    for kind in set(label.values()):
        every = len({group[name] for name in group if label[name] == kind})
        counts = [len({group[name] for name in test if label[name] == kind}) for test in tests]
        assert min(counts) >= every // 5 - 1, kind  # by the names of files; folds are made by the classes of boxes
    assert all(abs(len(test) - 360) <= 4 for test in tests)


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.timeout(1500)  # minutes: every pair of a class is registered
def test_neu_lists_are_what_the_command_makes(neu):
    made = {title: dumps(content) for title, content in make_all(neu).items()}
    assert made == {title: text for title, text in shipped("neu_det").items() if title not in SUPERSEDED}


def test_groups_stay_together_and_folds_even():
    rng = np.random.default_rng(0)
    labels = {f"{i:03d}": ["abc"[k] for k in rng.integers(0, 3, rng.integers(0, 5))] for i in range(200)}
    groups = [[f"{i:03d}" for i in range(start, start + n)] for start, n in ((0, 25), (30, 10), (50, 2))]
    folds = make_folds(labels, groups, seed=1)
    place = {name: i for i, part in enumerate(folds) for name in part}
    assert len(place) == 200
    assert [len(part) for part in folds] == [40] * 5
    assert all(len({place[name] for name in group}) == 1 for group in groups)
    for label in "abc":
        count = [sum(labels[name].count(label) for name in part) for part in folds]
        assert max(count) - min(count) <= 4
    assert make_folds(dict(reversed(list(labels.items()))), groups, seed=1) == folds
    assert make_folds(labels, groups, seed=2) != folds


def test_wrong_requests_and_damaged_lists(tmp_path, monkeypatch):
    with pytest.raises(RequestError, match=r"did you mean 'neu_det-5fold-v[12]'"):
        load_split("neu_det", "neu_det-5fold-v3", 0)
    with pytest.raises(RequestError, match="'deep_pcb-templates-v1' has no training part"):
        count_folds("deep_pcb", "deep_pcb-templates-v1")
    assert count_folds("deep_pcb", "deep_pcb-official-v1") == 1
    with pytest.raises(RequestError, match="folds 0 to 4, not 5"):
        load_split("neu_det", "neu_det-5fold-v1", 5)
    monkeypatch.setattr(splits, "SHIPPED", tmp_path)
    (tmp_path / "neu_det-a.json").write_text("{}")
    with pytest.raises(DataError, match="damaged"):
        load_split("neu_det", "neu_det-a", 0)
    (tmp_path / "neu_det-b.json").write_text('{"dataset": "neu_det", "folds": [["a"], ["a"]]}')
    (tmp_path / "SHA256SUMS").write_text("\n".join(sums(tmp_path)))
    with pytest.raises(DataError, match="stands in it twice"):
        load_split("neu_det", "neu_det-b", 0)
    (tmp_path / "neu_det-c.json").write_text('{"dataset": "neu_det", "folds": [["a"], ["b"]]}')
    with pytest.raises(DataError, match="its digest is not that in SHA256SUMS"):
        load_split("neu_det", "neu_det-c", 0)


def texture(seed, height=260, width=420):
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (height, width)).astype(np.float64)
    smooth = sum(np.roll(np.roll(noise, i, 0), j, 1) for i in range(3) for j in range(3)) / 9
    return smooth


def test_overlapping_crops_are_found_under_other_light(tmp_path):
    strip = texture(0)
    crops = {
        "a": strip[20:120, 30:130],
        "b": 0.5 * strip[33:133, 71:171] + 40,  # shifted by an odd distance, darker, less contrast
        "c": strip[20:120, 200:300],  # the same strip, but no place in common
        "d": texture(1)[:100, :100],
        "e": strip[20:120, 30:130],  # a's place, but of another class
    }
    paths = {}
    for name, crop in crops.items():
        paths[name] = tmp_path / f"{name}.png"
        paths[name].write_bytes(encode_png(np.rint(np.clip(crop, 0, 255)).astype(np.uint8)))
    labels = {name: ["x"] for name in crops} | {"e": ["y"]}
    found = overlapping(paths, labels)
    assert [(p.a, p.b, p.dy, p.dx) for p in found] == [("a", "b", 13, 41)]
    assert found[0].correlation > 0.9
    assert found[0].area == pytest.approx(0.87 * 0.59)
    assert linked(crops, [("a", "b"), ("b", "d")]) == [["a", "b", "d"]]


def test_the_other_search_finds_a_place_that_two_folds_show(tmp_path):
    strip = texture(7, 400, 700)
    crops = {"a": strip[20:220, 30:230], "b": 0.6 * strip[80:280, 90:290] + 30, "c": strip[150:350, 450:650]}
    crops |= {f"d{i}": texture(20 + i)[:200, :200] for i in range(5)}
    yolo = tmp_path / "set"
    for folder in ("images", "labels"):
        (yolo / folder).mkdir(parents=True)
    (yolo / "data.yaml").write_text("names: [spot]\n")
    for name, crop in crops.items():
        pixels = np.rint(np.clip(crop, 0, 255)).astype(np.uint8)
        (yolo / "images" / f"{name}.png").write_bytes(encode_png(pixels))
        (yolo / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    data = own.prepare("strip", tmp_path / "root", yolo, format="auto")
    places = {f"{name}.png": i % 5 for i, name in enumerate(crops)}
    found = list(search(data, places, 8))
    assert [({leak.a, leak.b}, leak.area) for leak in found] == [({"a.png", "b.png"}, pytest.approx(0.49))]
    assert list(search(data, dict.fromkeys(places, 0), 8)) == []  # one fold has both


def test_near_duplicates_survive_brightness_and_noise(tmp_path):
    base = np.kron(texture(2, 10, 10), np.ones((16, 16)))
    rng = np.random.default_rng(3)
    versions = {
        "a": base,
        "b": base * 0.8 + 20 + rng.normal(0, 3, base.shape),
        "c": np.kron(texture(4, 10, 10), np.ones((16, 16))),
    }
    paths = {}
    for name, image in versions.items():
        paths[name] = tmp_path / f"{name}.png"
        paths[name].write_bytes(encode_png(np.rint(np.clip(image, 0, 255)).astype(np.uint8)))
    assert near_duplicates(paths) == [["a", "b"]]
    assert near_duplicates({}) == []
    flat = perceptual_hash(np.full((50, 70, 3), 9, dtype=np.uint8))
    assert flat.shape == (255,)


def test_images_of_other_sizes_are_said_not_to_be_compared(tmp_path):
    paths = {}
    for i, width in enumerate((100, 100, 96)):
        paths[f"{i}"] = tmp_path / f"{i}.png"
        paths[f"{i}"].write_bytes(encode_png(np.rint(np.clip(texture(i)[:100, :width], 0, 255)).astype(np.uint8)))
    lines: list[str] = []
    overlapping(paths, {name: ["x"] for name in paths}, report=lines.append)
    assert any("images of 2 sizes are compared within each size alone; 1 images" in line for line in lines)

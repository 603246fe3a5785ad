"""Split lists: shipped files that hold what they promise, and the function that made them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

import numpy as np
import pytest

from benchmarks.datasets import catalogue, splits
from benchmarks.datasets.duplicates import linked, near_duplicates, overlapping, perceptual_hash
from benchmarks.datasets.splits import SHIPPED, dumps, load_split, make_folds, make_list
from benchmarks.datasets.synthetic import encode_png
from benchmarks.errors import DataError, RequestError

LISTS = {  # final: records rest on them
    "neu_det-5fold-v1": "2fc449d2546e7e656c2edd0c87556d638ffe488d091e1e9b9e43db9507482ef8",
    "synthetic_small-5fold-v1": "98dd9f6427fb8399318d7420d6ff10e27c85c8ad4d500f493b6a0fc3869b37ed",
}


def test_shipped_lists_never_change():
    assert {p.stem: hashlib.sha256(p.read_bytes()).hexdigest() for p in SHIPPED.glob("*.json")} == LISTS


@pytest.mark.parametrize("name", [spec.name for spec in catalogue.CATALOGUE.values()])
def test_folds_part_the_set(name):
    spec = catalogue.get(name)
    parts = [load_split(name, spec.split, i) for i in range(spec.folds)]
    everything = {f for p in parts for f in p.test}
    assert len(everything) == spec.images == sum(len(p.test) for p in parts)
    for i, p in enumerate(parts):
        assert set(p.val) == set(parts[(i + 1) % spec.folds].test)
        assert set(p.train) | set(p.val) | set(p.test) == everything
        assert len(p.train) + len(p.val) + len(p.test) == spec.images
        assert p.digest == LISTS[spec.split]
    groups = json.loads((SHIPPED / f"{spec.split}.json").read_bytes())["near_duplicate_groups"]
    place = {f: i for i, p in enumerate(parts) for f in p.test}
    assert all(len({place[f] for f in group}) == 1 for group in groups)


def test_synthetic_list_is_what_the_command_makes(synthetic):
    assert dumps(make_list(synthetic)) == (SHIPPED / "synthetic_small-5fold-v1.json").read_text(encoding="utf-8")


def shares(data, split_name):
    """Boxes of each class in each fold, relative to an even share."""
    total = Counter(a["category_id"] for a in data.annotations)
    folds = [load_split(data.name, split_name, i).test for i in range(5)]
    counts = [Counter(a["category_id"] for f in part for a in data.boxes(f)) for part in folds]
    return np.array([[5 * c[k] / total[k] for k in total] for c in counts])


def test_synthetic_folds_are_balanced(synthetic):
    assert np.abs(shares(synthetic, "synthetic_small-5fold-v1") - 1).max() < 0.05
    clean = [
        sum(not synthetic.boxes(f) for f in load_split("synthetic_small", "synthetic_small-5fold-v1", i).test)
        for i in range(5)
    ]
    assert clean == [6] * 5


def test_neu_folds_are_balanced(neu):
    share = shares(neu, "neu_det-5fold-v1")
    assert np.abs(share - 1).max() < 0.10  # one strip alone gives 73 images of pitted_surface
    assert np.sort(np.abs(share - 1).ravel())[-4] < 0.03


def test_neu_near_duplicates_are_those_in_the_list(neu):
    names = [i["file_name"] for i in neu.images]
    listed = json.loads((SHIPPED / "neu_det-5fold-v1.json").read_bytes())["near_duplicate_groups"]
    for group in near_duplicates({n: neu.path(n) for n in names}):
        assert any(set(group) <= set(g) for g in listed)


@pytest.mark.slow
def test_neu_list_is_what_the_command_makes(neu):
    assert dumps(make_list(neu)) == (SHIPPED / "neu_det-5fold-v1.json").read_text(encoding="utf-8")


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
    with pytest.raises(RequestError, match="did you mean 'neu_det-5fold-v1'"):
        load_split("neu_det", "neu_det-5fold-v2", 0)
    with pytest.raises(RequestError, match="folds 0 to 4, not 5"):
        load_split("neu_det", "neu_det-5fold-v1", 5)
    monkeypatch.setattr(splits, "SHIPPED", tmp_path)
    (tmp_path / "neu_det-a.json").write_text("{}")
    with pytest.raises(DataError, match="damaged"):
        load_split("neu_det", "neu_det-a", 0)
    (tmp_path / "neu_det-b.json").write_text('{"dataset": "neu_det", "folds": [["a"], ["a"]]}')
    with pytest.raises(DataError, match="two folds"):
        load_split("neu_det", "neu_det-b", 0)


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
    assert [(a, b) for a, b, _ in found] == [("a", "b")]
    assert found[0][2] > 0.9
    assert linked(crops, [("a", "b"), ("b", "d")]) == [["a", "b", "d"]]


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

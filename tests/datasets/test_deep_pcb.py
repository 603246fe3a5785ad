"""DeepPCB: a small one of our own, and the real one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.datasets import catalogue, deep_pcb
from benchmarks.datasets.prepared import prepare
from benchmarks.datasets.splits import dumps, load_split, make_all
from benchmarks.errors import DataError
from tests.datasets.conftest import archive, jpeg, write_folder, write_zip
from tests.datasets.test_splits import shipped


def pcb_files() -> dict[str, bytes]:
    files, lists = {}, {"trainval": b"", "test": b""}
    for i, part in enumerate(["trainval", "trainval", "test"]):
        stem = f"1200{i}000"
        folder = f"PCBData/group1200{i}/1200{i}"
        files[f"{folder}/{stem}_test.jpg"] = jpeg(i, (64, 64))
        files[f"{folder}/{stem}_temp.jpg"] = jpeg(10 + i, (64, 64))
        files[f"{folder}_not/{stem}.txt"] = f"0 5 20 30 {i + 1}\n1 2 3 4 6\n\n".encode()
        lists[part] += f"group1200{i}/1200{i}/{stem}.jpg group1200{i}/1200{i}_not/{stem}.txt\n".encode()
    return files | {f"PCBData/{part}.txt": text for part, text in lists.items()}


@pytest.fixture
def small_pcb(monkeypatch):
    spec = replace(catalogue.CATALOGUE["deep_pcb"], images=4, boxes=6)
    monkeypatch.setitem(catalogue.CATALOGUE, "deep_pcb", spec)


@pytest.mark.usefixtures("small_pcb")
def test_a_small_one(tmp_path):
    data = prepare("deep_pcb", tmp_path / "data", write_zip(tmp_path / "p.zip", pcb_files()))
    names = [i["file_name"] for i in data.images]
    assert names == ["12000000.jpg", "12001000.jpg", "12002000.jpg", "templates/12002000.jpg"]
    assert [(data.classes[a["category_id"] - 1], a["bbox"]) for a in data.boxes("12001000.jpg")] == [
        ("short", [0, 5, 20, 25]),
        ("pin-hole", [1, 2, 2, 2]),
    ]
    assert data.boxes("templates/12002000.jpg") == []
    assert deep_pcb.board("templates/12002000.jpg") == "12002"


@pytest.mark.usefixtures("small_pcb")
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("PCBData/group12000/12000_not/12000000.txt", b"1 2 3 4 7\n", r"12000000\.txt: line 1 has type 7"),
        ("PCBData/group12000/12000_not/12000000.txt", b"1 2 x 4 1\n", r"12000000\.txt: line 1 is not five whole"),
        ("PCBData/group12000/12000_not/12000000.txt", b"9 2 3 4 1\n", r"12000000\.txt: box .* is inverted"),
        ("PCBData/group12000/12000_not/12000000.txt", None, r"12000000\.txt is not in the source"),
        ("PCBData/group12002/12002/12002000_temp.jpg", None, "template is not in the source"),
        ("PCBData/test.txt", b"something else\n", r"test\.txt: line 1 is not an image and a box file"),
        ("PCBData/test.txt", None, r"0 files are called test\.txt"),
    ],
)
def test_wrong_files_are_named(tmp_path, name, content, message):
    files = pcb_files()
    del files[name]
    if content is not None:
        files[name] = content
    with pytest.raises(DataError, match=message):
        prepare("deep_pcb", tmp_path / "data", write_folder(tmp_path / "p", files))
    assert not list((tmp_path / "data").iterdir())


def test_official_list():
    split = load_split("deep_pcb", "deep_pcb-official-v1", 0)
    assert (len(split.train), len(split.val), len(split.test)) == (1000, 0, 500)
    train, test = ({deep_pcb.board(name) for name in part} for part in (split.train, split.test))
    assert len(train) == 7
    assert len(test) == 11
    assert train < test  # every board that is trained on is tested on


def test_boards_are_held_out():
    for fold in range(5):
        split = load_split("deep_pcb", "deep_pcb-boards-v1", fold)
        train, val, test = ({deep_pcb.board(n) for n in part} for part in (split.train, split.val, split.test))
        assert train.isdisjoint(val | test)
        assert val.isdisjoint(test)


def test_templates_are_those_of_the_official_test_part():
    templates = load_split("deep_pcb", "deep_pcb-templates-v1", 0).test
    official = load_split("deep_pcb", "deep_pcb-official-v1", 0).test
    assert [name.removeprefix("templates/") for name in templates] == list(official)


@pytest.mark.slow
def test_the_real_one(tmp_path):
    data = prepare("deep_pcb", tmp_path, archive("DeepPCB.zip"))
    counts = Counter(data.classes[a["category_id"] - 1] for a in data.annotations)
    assert counts == {"open": 1942, "short": 1506, "mousebite": 1965, "spur": 1625, "copper": 1474, "pin-hole": 1501}
    assert {(i["width"], i["height"]) for i in data.images} == {(640, 640)}
    assert {title: dumps(content) for title, content in make_all(data).items()} == shipped("deep_pcb")

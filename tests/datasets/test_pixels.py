"""The cache of decoded pixels on disk: right, shared, within its budget, and never half there."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import pickle
import resource
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.datasets import loading
from benchmarks.datasets.loading import DetectionDataset, batches, train_transform
from benchmarks.datasets.pixels import ENVIRONMENT, cached_on_disk, disk_budget
from benchmarks.datasets.prepared import PreparedDataset
from benchmarks.errors import DataError, RequestError

SIZES = [(40, 30, "L"), (20, 50, "RGB"), (33, 33, "L"), (64, 16, "RGB"), (31, 17, "L")]


@pytest.fixture
def data(tmp_path) -> PreparedDataset:
    """Five pictures, grey and coloured, of different sizes, without boxes."""
    rng = np.random.default_rng(0)
    root = tmp_path / "some"
    (root / "images").mkdir(parents=True)
    entries = []
    for i, (w, h, mode) in enumerate(SIZES, start=1):
        Image.fromarray(rng.integers(0, 256, (h, w) if mode == "L" else (h, w, 3), dtype=np.uint8)).save(
            root / "images" / f"{i}.png"
        )
        entries.append({"id": i, "file_name": f"{i}.png", "width": w, "height": h})
    (root / "annotations.json").write_text(json.dumps({"images": entries, "annotations": [], "categories": []}))
    return PreparedDataset("some", root, ("x",), 64, {"files": files_of(root)}, "digest-1")


def files_of(root: Path) -> dict[str, dict[str, str]]:
    """What a manifest says of the images."""
    paths = sorted((root / "images").iterdir())
    return {f"images/{p.name}": {"sha256": hashlib.sha256(p.read_bytes()).hexdigest()} for p in paths}


@pytest.fixture
def small_memory(monkeypatch) -> None:
    monkeypatch.setattr(loading, "CACHE_BYTES", 1000)


def names(data: PreparedDataset) -> list[str]:
    return [image["file_name"] for image in data.images]


def test_a_set_that_memory_does_not_hold_is_read_from_disk(data, small_memory, monkeypatch) -> None:
    cached = DetectionDataset(data, names(data))
    folder = data.root.parent / ".cache" / "some"
    assert sorted(p.name for p in folder.iterdir()) == ["index.json", "pixels.bin"]
    assert (folder / "pixels.bin").stat().st_size == sum(w * h * len(mode) for w, h, mode in SIZES)
    plain = DetectionDataset(data, names(data), cache=False)
    expected = [plain[i][0] for i in range(5)]
    again = DetectionDataset(data, names(data)[::-1])
    shutil.rmtree(data.root / "images")
    assert all(torch.equal(cached[i][0], expected[i]) for i in range(5))
    assert all(torch.equal(again[4 - i][0], expected[i]) for i in range(5)), "another list of the same set"
    assert not again._cache


def test_a_set_that_memory_holds_leaves_no_file(data) -> None:
    DetectionDataset(data, names(data)).fill()
    assert not (data.root.parent / ".cache").exists()


def test_what_is_written_into_an_image_does_not_reach_the_file(data, small_memory) -> None:
    cached = DetectionDataset(data, names(data))
    before = cached[0][0]
    cached._pixels(0).zero_()
    assert torch.equal(DetectionDataset(data, names(data))[0][0], before)


@pytest.mark.parametrize("damage", ["prepared anew", "cut", "index", "other version"])
def test_a_stale_or_damaged_file_is_made_again(data, small_memory, damage: str) -> None:
    expected = DetectionDataset(data, names(data))[2][0]
    folder = data.root.parent / ".cache" / "some"
    index = json.loads((folder / "index.json").read_bytes())
    if damage == "prepared anew":
        data = replace(data, manifest_digest="digest-2")
    elif damage == "cut":
        os.truncate(folder / "pixels.bin", 100)
    elif damage == "index":
        (folder / "index.json").write_text("{")
    else:
        (folder / "index.json").write_text(json.dumps(index | {"schema": 0}))
    assert torch.equal(DetectionDataset(data, names(data))[2][0], expected)
    assert json.loads((folder / "index.json").read_bytes()) == index | {"manifest": data.manifest_digest}
    assert (folder / "pixels.bin").stat().st_size == index["size"]
    kept = (folder / "pixels.bin").stat().st_ino
    DetectionDataset(data, names(data))
    assert (folder / "pixels.bin").stat().st_ino == kept, "a good one is used as it is"


def test_pixels_that_changed_on_the_disk_are_an_error_and_the_others_are_read(data, small_memory) -> None:
    expected = [DetectionDataset(data, names(data))[i][0] for i in range(5)]
    path = data.root.parent / ".cache" / "some" / "pixels.bin"
    content = bytearray(path.read_bytes())
    content[40 * 30 + 7] ^= 1  # of the second image
    path.write_bytes(content)
    cached = DetectionDataset(data, names(data))
    assert torch.equal(cached[0][0], expected[0])
    with pytest.raises(DataError, match=r"pixels.bin: the pixels of 2.png are damaged; delete the folder"):
        cached[1]
    shutil.rmtree(path.parent)
    assert torch.equal(DetectionDataset(data, names(data))[1][0], expected[1])


def test_the_budget_is_kept_and_the_rest_decoded(data, small_memory, monkeypatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, str(4300 / 2**30))
    cached = DetectionDataset(data, names(data))
    assert (data.root.parent / ".cache" / "some" / "pixels.bin").stat().st_size == 1200 + 3000
    plain = DetectionDataset(data, names(data), cache=False)
    assert all(torch.equal(cached[i][0], plain[i][0]) for i in range(5))
    monkeypatch.setenv(ENVIRONMENT, "0")
    shutil.rmtree(data.root.parent / ".cache")
    DetectionDataset(data, names(data))
    assert not (data.root.parent / ".cache").exists()
    monkeypatch.setenv(ENVIRONMENT, "much")
    with pytest.raises(RequestError, match=f"{ENVIRONMENT}=much is not a number of GiB"):
        disk_budget()


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(data) -> None:
    """The limit on file sizes makes the system refuse to write on, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = torch.zeros(3, 500, 500, dtype=torch.uint8)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(DataError, match=rf"cannot keep decoded images in .*make room, or set {ENVIRONMENT}"):
            cached_on_disk(data, lambda name: large, 2**30)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in (data.root.parent / ".cache").iterdir()] == ["some.lock"]
    assert cached_on_disk(data, lambda name: large, 2**30).get("5.png") is not None


def test_some_room_is_left_on_the_disk(data, monkeypatch) -> None:
    free = shutil.disk_usage(data.root).free
    monkeypatch.setattr("benchmarks.datasets.pixels._FREE", 2 * free)
    with pytest.raises(DataError, match="would be left free"):
        cached_on_disk(data, lambda name: torch.zeros(1, 2, 2, dtype=torch.uint8), 2**30)


def test_a_run_that_is_killed_leaves_nothing_that_is_believed(data, small_memory, monkeypatch) -> None:
    """The process dies after its third image; the next one clears up and makes the file."""

    def dying() -> None:
        read = DetectionDataset._decode
        monkeypatch.setattr(
            DetectionDataset, "_decode", lambda self, name: os._exit(9) if name == "4.png" else read(self, name)
        )
        DetectionDataset(data, names(data))

    process = multiprocessing.get_context("fork").Process(target=dying)
    process.start()
    process.join()
    assert process.exitcode == 9
    cache = data.root.parent / ".cache"
    assert not (cache / "some").exists()
    assert len(list(cache.iterdir())) == 2, "a lock and a half"
    assert DetectionDataset(data, names(data))._file.index.keys() == set(names(data))
    assert sorted(p.name for p in cache.iterdir()) == ["some", "some.lock"]


def test_those_who_come_at_once_decode_it_once(data) -> None:
    reads = []

    def read(name: str) -> torch.Tensor:
        reads.append(name)
        return torch.zeros(1, 4, 4, dtype=torch.uint8)

    threads = [threading.Thread(target=cached_on_disk, args=(data, read, 2**30)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reads) == names(data)


def test_workers_share_the_file(data, small_memory) -> None:
    cached = DetectionDataset(data, names(data), train_transform(["mosaic", "flips"]), seed=1)
    sent = pickle.dumps(cached._file)
    assert len(sent) < 1000, "where workers are spawned, the name travels, not the pixels"
    assert torch.equal(pickle.loads(sent).get("1.png"), cached._file.get("1.png"))
    arguments = {"batch_size": 2, "seed": 0, "epoch": 0, "shuffle": True, "drop_last": False}
    alone = [image for images, _ in batches(cached, **arguments) for image in images]
    shared = [image for images, _ in batches(cached, **arguments, workers=2) for image in images]
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_pixels_of_another_set_of_the_same_names_are_not_kept_as_these(data) -> None:
    """It was prepared again from other pictures after this run had opened it."""
    Image.fromarray(np.zeros((30, 40), dtype=np.uint8)).save(data.path("1.png"))
    with pytest.raises(DataError, match="is not the image that this run began with"):
        cached_on_disk(data, lambda name: torch.zeros(1, 2, 2, dtype=torch.uint8), 10**9)
    assert not (data.root.parent / ".cache" / "some").exists()

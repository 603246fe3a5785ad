"""Loading: the detector contract, and random streams that depend on nothing else."""

from __future__ import annotations

import contextlib
import shutil
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.datasets.images import MAX_PIXELS, decode
from benchmarks.datasets.loading import TRANSFORMS, DetectionDataset, batches, train_transform
from benchmarks.datasets.splits import load_split
from benchmarks.datasets.synthetic import encode_png
from benchmarks.errors import DataError, RequestError
from tests.perf import loading as perf
from tests.perf.ratios import measure


@pytest.fixture(scope="module")
def files(synthetic):
    return load_split("synthetic_small", "synthetic_small-4fold-v2", 0).test


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_items_keep_the_contract(synthetic, files, kind):
    data = DetectionDataset(synthetic, files[:20], train_transform(kind), seed=1)
    empty = 0
    for image, target in (data[i] for i in range(len(data))):
        assert type(image) is torch.Tensor
        assert image.dtype == torch.float32
        assert image.shape == (3, 128, 128)
        assert 0 <= image.min() <= image.max() <= 1
        boxes, labels = target["boxes"], target["labels"]
        assert type(boxes) is torch.Tensor
        assert (boxes.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert boxes.shape == (len(labels), 4)
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert boxes.numel() == 0 or (boxes.min() >= 0 and boxes.max() <= 128)
        assert ((labels >= 1) & (labels <= 6)).all()
        empty += len(labels) == 0
    assert empty > 0 or kind in ("mosaic", "copy_paste"), "these bring defects to images that have none"


def test_plain_items_are_the_annotations(synthetic, files):
    data = DetectionDataset(synthetic, files)
    image, target = data[3]
    pixels = np.asarray(Image.open(synthetic.path(files[3])))
    assert torch.equal(image, torch.from_numpy(np.stack([pixels] * 3)).float() / 255)
    expected = [a["bbox"] for a in synthetic.boxes(files[3])]
    found = target["boxes"].clone()
    found[:, 2:] -= found[:, :2]
    assert found.tolist() == expected
    assert target["image_id"] == synthetic.image(files[3])["id"]


def test_flips_move_boxes_with_the_pixels(synthetic, files):
    index = next(i for i, f in enumerate(files) if synthetic.boxes(f))
    plain, before = DetectionDataset(synthetic, files)[index]
    data = DetectionDataset(synthetic, files, train_transform("flips"), seed=5)
    kinds = set()
    for epoch in range(12):
        data.set_epoch(epoch)
        image, target = data[index]
        for dims in ((), (2,), (1,), (1, 2)):
            if torch.equal(image, plain.flip(dims)):
                kinds.add(dims)
                x1, y1, x2, y2 = before["boxes"].unbind(1)
                if 2 in dims:
                    x1, x2 = 128 - x2, 128 - x1
                if 1 in dims:
                    y1, y2 = 128 - y2, 128 - y1
                assert torch.equal(target["boxes"], torch.stack([x1, y1, x2, y2], 1))
                break
        else:
            pytest.fail("no flip of the image")
    assert len(kinds) == 4


def test_an_item_depends_on_seed_epoch_and_index_only(synthetic, files):
    def data(seed=1, cache=True):
        return DetectionDataset(synthetic, files, train_transform("flips_photo"), seed=seed, cache=cache)

    one, other = data(), data(cache=False)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    forward = [one[i][0] for i in range(6)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    backward = [other[i][0] for i in reversed(range(6))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True))
    one.set_epoch(1)
    assert not all(torch.equal(a, one[i][0]) for i, a in enumerate(forward))
    assert not all(torch.equal(a, data(seed=2)[i][0]) for i, a in enumerate(forward))


def test_what_an_item_gives_away_is_not_the_cache(synthetic, files):
    data = DetectionDataset(synthetic, files)
    image, target = data[0]
    image.zero_()
    target["boxes"].zero_()
    again = data[0]
    assert again[0].max() > 0
    assert again[1]["boxes"].numel() == 0 or again[1]["boxes"].max() > 0


def test_batches(synthetic, files):
    files = files[:60]
    data = DetectionDataset(synthetic, files)

    def ids(**changes):
        arguments = {"batch_size": 8, "seed": 1, "epoch": 0, "shuffle": True, "drop_last": True} | changes
        return [[t["image_id"] for t in targets] for _, targets in batches(data, **arguments)]

    first = ids()
    assert [len(b) for b in first] == [8] * 7
    assert ids() == first
    assert ids(epoch=1) != first
    assert ids(seed=2) != first
    assert [len(b) for b in ids(drop_last=False)] == [8] * 7 + [4]
    plain = [i for b in ids(shuffle=False, drop_last=False) for i in b]
    assert plain == [synthetic.image(f)["id"] for f in files]
    assert sorted(i for b in ids(drop_last=False) for i in b) == sorted(plain)


@pytest.mark.parametrize(
    ("kinds", "tile"),
    [("flips_photo", None), (["mosaic", "copy_paste", "scale_jitter", "flips"], None), (["copy_paste", "flips"], 96)],
)
def test_workers_give_the_same(synthetic, files, kinds, tile):
    data = DetectionDataset(synthetic, files[:16], train_transform(kinds), seed=3, tile=tile)
    arguments = {"batch_size": 4, "seed": 1, "epoch": 2, "shuffle": True, "drop_last": False}
    alone = list(batches(data, **arguments))
    with_workers = list(batches(data, **arguments, workers=2))
    for (images, targets), (others, other_targets) in zip(alone, with_workers, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(images, others, strict=True))
        assert all(image.is_contiguous() for image in others)
        for a, b in zip(targets, other_targets, strict=True):
            assert torch.equal(a["boxes"], b["boxes"])
            assert torch.equal(a["labels"], b["labels"])
            assert a["image_id"] == b["image_id"]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_is_gone_is_one_line(synthetic, files, tmp_path, workers):
    moved = replace(synthetic, root=tmp_path)
    shutil.copy(synthetic.root / "annotations.json", tmp_path)
    data = DetectionDataset(moved, files[:4], cache=False)
    with pytest.raises(DataError, match=r"^cannot read .*: No such file or directory; prepare the data set again$"):
        list(batches(data, batch_size=2, seed=0, epoch=0, shuffle=False, drop_last=False, workers=workers))


def test_the_cache_keeps_to_its_budget(synthetic, files, monkeypatch):
    monkeypatch.setattr("benchmarks.datasets.loading.CACHE_BYTES", 3 * 128 * 128 + 5)
    monkeypatch.setenv("CANET_BENCH_DISK_CACHE", "0")
    data = DetectionDataset(synthetic, files[:6])
    data.fill()
    assert len(data._cache) == 3
    whole = DetectionDataset(synthetic, files[:6], cache=False)
    assert all(torch.equal(data[i][0], whole[i][0]) for i in range(6))
    assert not whole._cache


def test_tiles_for_training(synthetic, files):
    data = DetectionDataset(synthetic, files, seed=1, tile=96)
    whole = DetectionDataset(synthetic, files)
    boxes = 0
    for i in range(len(data)):
        image, target = data[i]
        assert image.shape == (3, 96, 96)
        assert target["boxes"].numel() == 0 or (target["boxes"].min() >= 0 and target["boxes"].max() <= 96)
        boxes += len(target["boxes"])
    assert boxes > 0.5 * sum(len(whole[i][1]["boxes"]) for i in range(len(whole)))
    first = data[0][0]
    views = whole[0][0][0].unfold(0, 96, 1).unfold(1, 96, 1)
    assert (views == first[0]).flatten(2).all(2).any(), "pixels of the image, unscaled"
    data.set_epoch(1)
    assert not torch.equal(data[0][0], first), "another window in another epoch"
    large = DetectionDataset(synthetic, files, seed=1, tile=400)
    assert all(torch.equal(large[i][0], whole[i][0]) for i in range(5))


@pytest.mark.timing
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_twice_as_fast_as_torchvisions_own(neu, workers):
    runs = perf.forms(neu, load_split("neu_det", "neu_det-5fold-v1", 0).train[:300], workers)
    assert statistics.median(perf.ratios(measure(runs, 5, torch.device("cpu")))) > 2


def test_wrong_names(synthetic, files):
    with pytest.raises(RequestError, match="did you mean 'hflip' or 'flips'"):
        train_transform("flip")
    with pytest.raises(DataError, match="no image"):
        DetectionDataset(synthetic, ["nowhere.png"])


def test_decode_refuses_what_is_too_large_or_damaged(monkeypatch):
    good = encode_png(np.zeros((20, 30), np.uint8))
    assert decode(good, "x.png").shape == (20, 30, 3)
    with pytest.raises(DataError, match=r"x\.png: not a JPEG"):
        decode(b"", "x.png")
    huge = bytearray(good)
    huge[16:24] = (60000).to_bytes(4, "big") * 2
    with pytest.raises(DataError, match=r"x\.png"):
        decode(bytes(huge), "x.png")
    monkeypatch.setattr("benchmarks.datasets.images.MAX_PIXELS", 599)
    with pytest.raises(DataError, match="more than 599 allowed"):
        decode(good, "x.png")
    assert MAX_PIXELS >= 2048 * 4096


def test_decode_never_fails_otherwise():
    rng = np.random.default_rng(0)
    good = encode_png(rng.integers(0, 256, (24, 24), dtype=np.uint8))
    for _ in range(300):
        bad = bytearray(good)
        for at in rng.integers(0, len(bad), rng.integers(1, 6)):
            bad[at] = rng.integers(0, 256)
        data = bytes(bad[: rng.integers(1, len(bad) + 1)])
        with contextlib.suppress(DataError):
            decode(data, "x.png")

"""Augmentations of small defects: what they must never do to a box, and that they do something."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from benchmarks.datasets.augment import (
    MIN_VISIBLE,
    CopyPaste,
    Mosaic,
    Sample,
    ScaleJitter,
    Window,
    crop,
    safe_window,
    visible,
)
from benchmarks.datasets.loading import DetectionDataset, train_transform
from benchmarks.datasets.splits import load_split

MARK = 200  # defects are squares of at least this value, the ground is darker


def drawn(seed: int, size: int = 96, most: int = 3) -> Sample:
    """A dark noisy image with bright rectangles that do not touch, each exactly its box."""
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.integers(20, 60, (1, size, size), dtype=np.uint8)).repeat(3, 1, 1)
    boxes: list[list[int]] = []
    for _ in range(int(rng.integers(0, most + 1))):
        w, h = rng.integers(5, 25, 2)
        x, y = rng.integers(0, size - w), rng.integers(0, size - h)
        if all(x > b[2] + 20 or b[0] > x + w + 20 or y > b[3] + 20 or b[1] > y + h + 20 for b in boxes):
            boxes.append([x, y, x + w, y + h])
            image[:, y : y + h, x : x + w] = MARK + 10 * len(boxes)
    return Sample(image, torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.arange(1, len(boxes) + 1))


class Images(list):
    """A pool that hands out what it holds."""

    def sample(self, index: int) -> Sample:
        return self[index]


POOL = Images(drawn(seed) for seed in range(30))


def same(one: Sample, other: Sample) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def bright(sample: Sample, box: torch.Tensor) -> float:
    """Share of defect pixels within a box."""
    x1, y1, x2, y2 = (round(v) for v in box.tolist())
    return float((sample.image[0, y1:y2, x1:x2] > 120).float().mean())


def test_what_a_window_shows_of_a_box() -> None:
    boxes = torch.tensor([[10.0, 10, 20, 20], [35, 10, 45, 20], [38, 10, 48, 20], [60, 60, 70, 70], [0, 0, 90, 90]])
    window = Window(0, 5, 40, 40)
    clipped, share = visible(boxes, window)
    assert share.tolist() == pytest.approx([1, 0.5, 0.2, 0, 1])
    assert clipped[1].tolist() == [35, 5, 40, 15]
    sample = crop(Sample(torch.zeros(3, 96, 96, dtype=torch.uint8), boxes, torch.arange(5)), window)
    assert sample.image.shape == (3, 40, 40)
    assert sample.labels.tolist() == [0, 1, 4], "of the box that is larger than the window, all that fits is visible"


@pytest.mark.parametrize("at_boxes", [0.0, 1.0])
def test_windows_are_box_safe(monkeypatch, at_boxes: float) -> None:
    monkeypatch.setattr("benchmarks.datasets.augment.AT_BOXES", at_boxes)
    torch.manual_seed(0)
    held = cut = 0
    for sample in POOL:
        window = safe_window(sample.boxes, (96, 96), 48, 48)
        assert window.left >= 0 <= window.top
        assert window.left + 48 <= 96 >= window.top + 48
        share = visible(sample.boxes, window)[1]
        cut += int(((share > 0) & (share < 1)).sum())
        held += bool((share == 1).any())
        small = crop(sample, window)
        assert all(bright(small, box) == 1 for box in small.boxes), "a kept box lies on its defect"
        assert len(small.boxes) == int((share >= MIN_VISIBLE).sum())
    with_boxes = sum(len(s.boxes) > 0 for s in POOL)
    assert cut <= 1
    assert held == with_boxes if at_boxes else held < with_boxes


def test_a_window_seeks_a_box_larger_than_itself(monkeypatch) -> None:
    monkeypatch.setattr("benchmarks.datasets.augment.AT_BOXES", 1.0)
    boxes = torch.tensor([[100.5, 200.0, 600.0, 210.0]])
    torch.manual_seed(0)
    windows = [safe_window(boxes, (1000, 2000), 64, 64) for _ in range(50)]
    assert all(visible(boxes, w)[1] == 1 for w in windows)
    assert len({w.left for w in windows}) > 20
    assert safe_window(boxes, (30, 40), 64, 64) == Window(0, 0, 40, 30)


def test_copy_paste_leaves_what_is_there_as_it_is() -> None:
    paste = CopyPaste(share=1.0)
    pasted = 0
    for seed, sample in enumerate(POOL):
        torch.manual_seed(seed)
        before = Sample(*(t.clone() for t in sample))
        pool = [Sample(*(t.clone() for t in s)) for s in POOL]
        out = paste(sample, POOL)
        assert same(sample, before)
        assert all(map(same, POOL, pool)), "donors are not changed"
        n = len(sample.boxes)
        assert torch.equal(out.boxes[:n], sample.boxes)
        assert torch.equal(out.labels[:n], sample.labels)
        for x1, y1, x2, y2 in sample.boxes.int().tolist():
            assert torch.equal(out.image[:, y1:y2, x1:x2], sample.image[:, y1:y2, x1:x2])
        assert len(out.boxes) == len(out.labels) <= n + 3
        assert all(bright(out, box) == 1 for box in out.boxes[n:])
        assert (out.image > 120).sum() == (sample.image > 120).sum() + 3 * sum(
            int((b[2] - b[0]) * (b[3] - b[1])) for b in out.boxes[n:]
        ), "nothing bright but what has a box"
        for a, b in itertools.combinations(out.boxes.tolist(), 2):
            assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]
        pasted += len(out.boxes) - n
    assert pasted > len(POOL), "defect-free images among them"
    free = next(s for s in POOL if len(s.boxes) == 0)
    torch.manual_seed(1)
    assert len(paste(free, POOL).boxes) > 0


def test_copy_paste_fades_out_and_meets_the_brightness_of_its_ground() -> None:
    ground = Sample(torch.full((3, 64, 64), 100, dtype=torch.uint8), torch.zeros(0, 4), torch.zeros(0).long())
    image = torch.full((3, 64, 64), 30, dtype=torch.uint8)
    image[:, 20:30, 20:30] = 90
    donor = Sample(image, torch.tensor([[20.0, 20, 30, 30]]), torch.tensor([4]))
    torch.manual_seed(0)
    out = CopyPaste(share=1.0, most=1)(ground, Images([donor]))
    x1, y1, x2, y2 = out.boxes[0].int().tolist()
    assert out.labels.tolist() == [4]
    assert out.image[:, y1:y2, x1:x2].unique().tolist() == [160], "60 above its ground, as at home"
    out.image[:, y1:y2, x1:x2] = 100
    assert out.image.unique().tolist() == [100], "no frame around it"


def test_what_cannot_be_pasted_is_not() -> None:
    empty = Images(s for s in POOL if len(s.boxes) == 0)
    large = Sample(POOL[0].image, torch.tensor([[5.0, 5, 80, 80]]), torch.tensor([1]))
    at_the_border = Sample(POOL[0].image, torch.tensor([[0.0, 30, 10, 40]]), torch.tensor([1]))
    crowded = Sample(POOL[0].image, torch.tensor([[30.0, 30, 40, 40], [38, 30, 50, 40]]), torch.tensor([1, 1]))
    for pool in (empty, Images([large]), Images([at_the_border]), Images([crowded])):
        torch.manual_seed(0)
        assert same(CopyPaste(share=1.0)(POOL[1], pool), POOL[1])


def test_a_mosaic_keeps_scale_and_boxes() -> None:
    counts = []
    for seed, sample in enumerate(POOL):
        torch.manual_seed(seed)
        before = Sample(*(t.clone() for t in sample))
        out = Mosaic(share=1.0)(sample, POOL)
        assert same(sample, before)
        assert out.image.shape == sample.image.shape
        assert len(out.boxes) == len(out.labels)
        assert out.boxes.numel() == 0 or (out.boxes.min() >= 0 and out.boxes.max() <= 96)
        assert all(bright(out, box) == 1 for box in out.boxes)
        assert all(min(b[2] - b[0], b[3] - b[1]) >= 2 for b in out.boxes)
        counts.append(len(out.boxes))
    assert sum(counts) > 0.5 * sum(len(s.boxes) for s in POOL)


@pytest.mark.parametrize("scale", [(0.5, 0.5), (0.75, 1.5), (1.7, 1.7)])
def test_scale_jitter_scales_boxes_with_the_pixels(scale: tuple[float, float]) -> None:
    jitter = ScaleJitter(scale, smallest=0.0)
    found = []
    for seed, sample in enumerate(POOL):
        torch.manual_seed(seed)
        out = jitter(sample, POOL)
        assert out.image.shape == sample.image.shape
        assert out.image.dtype == torch.uint8
        assert out.boxes.numel() == 0 or (out.boxes.min() >= 0 and out.boxes.max() <= 96)
        for x, y in ((out.boxes[:, :2] + out.boxes[:, 2:]) / 2).long().tolist():
            assert out.image[0, y, x] > 120
        if scale[0] == scale[1] == 0.5:
            found.append(torch.allclose(out.boxes[:, 2:] - out.boxes[:, :2], (s := sample.boxes / 2)[:, 2:] - s[:, :2]))
    assert all(found)


def test_scale_jitter_does_not_lose_the_smallest() -> None:
    sample = Sample(torch.zeros(3, 96, 96, dtype=torch.uint8), torch.tensor([[40.0, 40, 48, 60]]), torch.tensor([1]))
    sides = []
    for seed in range(40):
        torch.manual_seed(seed)
        out = ScaleJitter((0.1, 1.0), smallest=6.0)(sample, POOL)
        sides.append(float((out.boxes[0, 2:] - out.boxes[0, :2]).min()))
    assert 6 <= min(sides) + 0.1 < 6.6
    assert max(sides) > 7.5


@pytest.mark.parametrize("kind", ["mosaic", "copy_paste", "scale_jitter"])
def test_each_does_something_and_the_same_for_the_same_seed(synthetic, kind: str) -> None:
    names = load_split("synthetic_small", "synthetic_small-4fold-v2", 0).train[:16]

    def items(seed: int, epoch: int = 0) -> list[torch.Tensor]:
        data = DetectionDataset(synthetic, names, train_transform([kind, "flips"]), seed=seed)
        data.set_epoch(epoch)
        return [data[i][0] for i in range(16)]

    plain = DetectionDataset(synthetic, names, train_transform("flips"), seed=1)
    first = items(1)
    assert all(map(torch.equal, first, items(1)))
    assert not all(map(torch.equal, first, items(2)))
    assert not all(map(torch.equal, first, items(1, epoch=1)))
    changed = sum(not torch.equal(a, plain[i][0]) for i, a in enumerate(first))
    assert changed >= 4


@pytest.mark.parametrize(("height", "width"), [(48, 96), (96, 48), (20, 800), (1, 40)])
def test_scale_jitter_keeps_to_its_range_whatever_the_aspect(height: int, width: int) -> None:
    side = min(height, 10)
    box = torch.tensor([[4.0, 0.0, 4.0 + side, side]])
    sample = Sample(torch.zeros(3, height, width, dtype=torch.uint8), box, torch.tensor([1]))
    for seed in range(30):
        torch.manual_seed(seed)
        out = ScaleJitter((0.75, 1.5), smallest=0.0)(sample, POOL)
        assert out.image.shape == sample.image.shape
        for box in out.boxes:
            assert 0.7 * side - 1 <= box[2] - box[0] <= 1.5 * side

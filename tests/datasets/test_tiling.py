"""Tiles cover what they must, and a perfect detector looking through tiles is a perfect detector."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.datasets.augment import visible
from benchmarks.datasets.tiling import TiledDetector, merge, tiles

SHAPES = [(1000, 2048, 640, 160), (300, 300, 64, 16), (97, 501, 64, 31), (64, 64, 64, 16), (50, 40, 64, 32)]


@pytest.mark.parametrize(("height", "width", "size", "overlap"), SHAPES)
def test_every_box_no_larger_than_the_overlap_is_whole_in_a_tile(height, width, size, overlap) -> None:
    windows = tiles(height, width, size, overlap)
    assert len(set(windows)) == len(windows)
    assert len({(w.width, w.height) for w in windows}) == 1, "equal in size, so that they can be batched"
    covered = torch.zeros(height, width, dtype=torch.bool)
    for x, y, w, h in windows:
        assert x >= 0 <= y
        assert x + w <= width
        assert y + h <= height
        covered[y : y + h, x : x + w] = True
    assert covered.all()
    rng = np.random.default_rng(0)
    sides = rng.uniform(1, overlap, (500, 2)).clip(max=[width, height])
    corner = rng.uniform(0, [width, height] - sides)
    boxes = torch.from_numpy(np.concatenate([corner, corner + sides], 1)).float()
    whole = torch.stack([visible(boxes, w)[1] > 1 - 1e-4 for w in windows])
    assert whole.any(0).all()


class Oracle(nn.Module):
    """Knows all boxes of the image, and sees from two channels that hold coordinates which part it is shown.

    It gives what is visible of each box when at least `least` pixels are, off by up to `noise` pixels.
    """

    def __init__(self, boxes: Tensor, labels: Tensor, least: float = 0.0, noise: float = 0.0) -> None:
        super().__init__()
        self.boxes, self.labels, self.least, self.noise = boxes, labels, least, noise
        self.generator = torch.Generator().manual_seed(0)
        self.calls: list[int] = []

    def forward(self, images: list[Tensor], targets=None):
        self.calls.append(len(images))
        return [self._detect(image) for image in images]

    def _detect(self, image: Tensor) -> dict[str, Tensor]:
        height, width = image.shape[1:]
        origin = image[:2, 0, 0].repeat(2)
        limit = torch.tensor([width, height, width, height])
        found = (self.boxes - origin).clamp(min=0).minimum(limit)
        seen = (found[:, 2:] - found[:, :2]).min(1).values > self.least
        found = found[seen]
        found = found + self.noise * (2 * torch.rand(found.shape, generator=self.generator) - 1)
        found = found.clamp(min=0).minimum(limit)
        share = (found[:, 2:] - found[:, :2]).prod(1) / (self.boxes[seen, 2:] - self.boxes[seen, :2]).prod(1)
        return {"boxes": found, "scores": 0.5 + 0.4 * share.clamp(max=1), "labels": self.labels[seen]}


def coordinates(height: int, width: int) -> Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y, torch.zeros_like(x)]).float()


def scene(seed: int, height: int, width: int, longest: float, count: int) -> tuple[Tensor, Tensor]:
    """Boxes of random sides, and labels; those of one class do not overlap."""
    rng = np.random.default_rng(seed)
    boxes: list[list[float]] = []
    labels: list[int] = []
    for _ in range(count):
        sides = np.exp(rng.uniform(np.log(4), np.log(longest), 2)).clip(max=[width, height])
        x, y = rng.uniform(0, [width, height] - sides)
        box, label = [x, y, x + sides[0], y + sides[1]], int(rng.integers(1, 4))
        if all(
            k != label or box[0] >= b[2] or b[0] >= box[2] or box[1] >= b[3] or b[1] >= box[3]
            for b, k in zip(boxes, labels, strict=True)
        ):
            boxes.append(box)
            labels.append(label)
    return torch.tensor(boxes, dtype=torch.float32), torch.tensor(labels)


def key(box: Tensor) -> list[float]:
    return [round(v, 2) for v in box.tolist()]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("longest", "height", "width"), [(30, 300, 500), (400, 300, 500), (60, 90, 700)])
def test_merged_detections_of_an_oracle_are_the_boxes_of_the_whole_image(seed, longest, height, width) -> None:
    """Also of boxes that cross many tiles, whose ends no tile shows together."""
    boxes, labels = scene(seed, height, width, longest, 40)
    detector = TiledDetector(Oracle(boxes, labels), 96, 32).eval()
    (out,) = detector([coordinates(height, width)])
    assert sorted(map(key, out["boxes"])) == sorted(map(key, boxes))
    found = {tuple(key(b)): int(c) for b, c in zip(out["boxes"], out["labels"], strict=True)}
    assert found == {tuple(key(b)): int(c) for b, c in zip(boxes, labels, strict=True)}
    assert (out["scores"].diff() <= 0).all()


def test_one_that_is_a_little_off_still_finds_each_once() -> None:
    count = extra = 0
    for seed in range(10):
        boxes, labels = scene(seed, 300, 500, 60, 40)
        big = (boxes[:, 2:] - boxes[:, :2]).min(1).values > 12
        boxes, labels = boxes[big], labels[big]
        detector = TiledDetector(Oracle(boxes, labels, least=6.0, noise=1.0), 96, 32).eval()
        (out,) = detector([coordinates(300, 500)])
        distance = (out["boxes"][:, None] - boxes[None]).abs().amax(2)
        assert (distance.min(0).values <= 2.5).all(), "each is found"
        count, extra = count + len(boxes), extra + len(out["boxes"]) - len(boxes)
    assert extra <= 0.02 * count


def test_images_that_fit_into_a_tile_are_left_to_the_model() -> None:
    boxes, labels = scene(0, 80, 90, 40, 8)
    oracle = Oracle(boxes, labels)
    image = coordinates(80, 90)
    (plain,), (tiled,) = oracle([image]), TiledDetector(oracle, 96, 32).eval()([image])
    order = plain["scores"].argsort(descending=True, stable=True)
    for k in plain:
        assert torch.equal(plain[k][order], tiled[k])


def test_an_image_without_detections_and_the_best_hundred() -> None:
    none = Oracle(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    (out,) = TiledDetector(none, 96, 32).eval()([coordinates(200, 200)])
    assert out["boxes"].shape == (0, 4)
    assert (len(out["scores"]), len(out["labels"])) == (0, 0)
    assert sum(none.calls) == 9
    x = torch.arange(200.0) * 10
    many = torch.stack([x, x * 0 + 10, x + 6, x * 0 + 16], 1)
    (out,) = TiledDetector(Oracle(many, torch.ones(200, dtype=torch.int64)), 96, 32).eval()([coordinates(64, 2000)])
    assert len(out["boxes"]) == 100


def test_the_same_class_side_by_side_stays_two_and_other_classes_stay_themselves() -> None:
    boxes = torch.tensor([[70.0, 10, 80, 30], [80, 10, 90, 30], [70, 10, 80, 30]])
    (out,) = TiledDetector(Oracle(boxes, torch.tensor([1, 1, 2])), 96, 32).eval()([coordinates(96, 160)])
    assert sorted(map(key, out["boxes"])) == sorted(map(key, boxes))


def test_training_is_the_models_own() -> None:
    class Losses(nn.Module):
        def forward(self, images, targets=None):
            return {"loss": images[0].sum() + len(targets)}

    assert TiledDetector(Losses(), 96, 32)([torch.ones(3, 2, 2)], [{}]) == {"loss": torch.tensor(13.0)}


def test_thousands_of_detections_merge_quickly() -> None:
    """A 4608 x 3456 image in 70 tiles with 100 detections each: not quadratic in them."""
    windows = tiles(3456, 4608, 640, 160)
    g = torch.Generator().manual_seed(0)

    def some() -> dict[str, Tensor]:
        corner = 600 * torch.rand(100, 2, generator=g)
        boxes = torch.cat([corner, corner + 5 + 30 * torch.rand(100, 2, generator=g)], 1)
        return {"boxes": boxes, "scores": torch.rand(100, generator=g), "labels": torch.ones(100).long()}

    found = [some() for _ in windows]
    assert len(windows) == 70
    began = time.process_time()
    out = merge(found, windows, (3456, 4608), 100)
    assert time.process_time() - began < 2
    assert len(out["boxes"]) == 100

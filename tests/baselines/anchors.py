"""What anchors fit: `python -m tests.baselines.anchors SET FOLD [--data-root D]` prints the table of docs/recipes.md.

Of a fold's training boxes, the share with an anchor of IoU 0.5, without one of 0.4, and the former by class; and how
many hold no location of FCOS, at scale lite0. Pixels are those of the images as given.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from baselines.torchvision_models import DefaultBoxes
from benchmarks.datasets import catalogue
from benchmarks.datasets.loading import DetectionDataset
from benchmarks.datasets.prepared import ensure
from benchmarks.datasets.splits import load_split
from benchmarks.models import build_model
from canet.detector import Anchors

_SSD = {  # side in pixels, cells of each map, ratios, strides; and the library's own scales
    "SSD300": (300, (38, 19, 10, 5, 3, 1), [[2], [2, 3], [2, 3], [2, 3], [2], [2]], [8, 16, 32, 64, 100, 300]),
    "SSDLite": (320, (20, 10, 5, 3, 2, 1), [[2, 3]] * 6, None),
}
_SCALES = {
    "from 0.04": [0.04, 0.08, 0.16, 0.32, 0.5, 0.7, 0.9],
    "from 0.08": [0.08, 0.16, 0.3, 0.45, 0.6, 0.75, 0.9],
    "from 0.10": [0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95],
    "from 0.20": [0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0],
}


def pyramid(sizes: Sequence[Sequence[int]], strides: Sequence[int], side: int) -> Tensor:
    """Anchors (A, 4) of an image of `side` px."""
    maps = [torch.zeros(1, 1, math.ceil(side / s), math.ceil(side / s)) for s in strides]
    made: Tensor = Anchors(sizes, (0.5, 1.0, 2.0), exact=False)(
        ImageList(torch.zeros(1, 3, side, side), [(side, side)]), maps
    )[0]
    return made


def default_boxes(name: str, scales: list[float], side: int) -> Tensor:
    size, cells, ratios, steps = _SSD[name]
    maps = [torch.zeros(1, 1, n, n) for n in cells]
    made: Tensor = DefaultBoxes(ratios, scales=scales, steps=steps, clip=True)(
        ImageList(torch.zeros(1, 3, size, size), [(size, size)]), maps
    )[0]
    return made * (side / size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset"), parser.add_argument("fold", type=int)
    parser.add_argument("--data-root", type=Path, default=None)
    asked = parser.parse_args()
    root = catalogue.data_root(asked.data_root)
    spec, data = catalogue.get(asked.dataset, root), ensure(asked.dataset, root)
    split = load_split(asked.dataset, spec.split, asked.fold, root)
    images = DetectionDataset(data, split.train, cache=False)
    targets = [images[i][1] for i in range(len(images))]
    boxes, labels = (torch.cat([t[name] for t in targets]) for name in ("boxes", "labels"))
    side = spec.native_size

    def show(name: str, anchors: Tensor) -> None:
        best = box_iou(boxes, anchors).amax(dim=1)
        fits = best >= 0.5
        by_class = {c: f"{100 * fits[labels == k].float().mean():.0f}" for k, c in enumerate(data.classes, start=1)}
        print(f"{name}: {100 * fits.float().mean():.0f}% ({100 * (best < 0.4).float().mean():.0f}%) {by_class}")

    print(f"{len(boxes)} boxes of {len(images)} training images of {asked.dataset}, fold {asked.fold}, {side} px")
    show("CANet, Faster R-CNN", pyramid([[16 * 2**level] for level in range(5)], (4, 8, 16, 32, 64), side))
    for first in (16, 12, 10, 8):
        sizes = [[round(first * 2**level * 2 ** (octave / 3)) for octave in range(3)] for level in range(5)]
        show(f"RetinaNet from {first} px", pyramid(sizes, (8, 16, 32, 64, 128), side))
    for name in _SSD:
        for first_scale, scales in _SCALES.items():
            show(f"{name} {first_scale}", default_boxes(name, scales, side))
    fcos = build_model("fcos", num_classes=len(data.classes), image_size=side, scale="lite0")
    without = 0
    for i in range(0, len(images), 8):
        batch = [images[j] for j in range(i, min(i + 8, len(images)))]
        without += fcos.boxes_without_target([image for image, _ in batch], [target for _, target in batch])[0]
    print(f"FCOS: {without} of {len(boxes)} hold no location")


if __name__ == "__main__":
    main()

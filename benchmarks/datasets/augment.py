"""Augmentations that keep small defects: box-safe windows, scale jitter, copy-paste, mosaic.

All of them draw from torch's default generator, which the loader seeds for every item, and leave their inputs as
they are. **Box-safe**: a window is drawn several times, and of those the first that cuts no box is taken, or the one
that drops the fewest, then cuts the fewest. A box that is cut is clipped to the window when at least half of what a
window of that size could show of it is visible; otherwise its label is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

MIN_VISIBLE = 0.5
"""Share of a box, or of what a window can show of a box larger than it, below which a cut box is dropped."""

AT_BOXES = 0.75
"""Share of the windows that are placed to hold a box; the others lie anywhere, as most tiles of a test do."""

IGNORED = 0
"""Label of a box that is neither asked for nor false; it is moved and cut like the others, and never pasted."""

_TRIES = 20


class Sample(NamedTuple):
    """An image with its boxes."""

    image: Tensor
    """uint8 (3, H, W)"""
    boxes: Tensor
    """float32 (N, 4): x1, y1, x2, y2 in pixels"""
    labels: Tensor
    """int64 (N,): 1..K, or IGNORED"""


class Pool(Protocol):
    """Where other training images come from."""

    def __len__(self) -> int: ...

    def sample(self, index: int) -> Sample: ...


class Window(NamedTuple):
    """Part of an image, in whole pixels."""

    left: int
    top: int
    width: int
    height: int


Mix = Callable[[Sample, Pool], Sample]


class Augmentation:
    """Mixes of several images, then a torchvision transform of the one that results."""

    def __init__(self, mixes: Sequence[Mix] = (), transform: v2.Transform | None = None) -> None:
        self.mixes = tuple(mixes)
        self.transform = transform

    def __call__(self, sample: Sample, pool: Pool) -> Sample:
        for mix in self.mixes:
            sample = mix(sample, pool)
        return apply(self.transform, sample) if self.transform is not None else sample


def apply(transform: v2.Transform, sample: Sample) -> Sample:
    """A transform of torchvision's v2 on a sample."""
    height, width = sample.image.shape[1:]
    boxes = tv_tensors.BoundingBoxes(sample.boxes, format="XYXY", canvas_size=(height, width))
    image, target = transform(tv_tensors.Image(sample.image), {"boxes": boxes, "labels": sample.labels})
    return Sample(image.as_subclass(Tensor), target["boxes"].as_subclass(Tensor), target["labels"])


# ---------------------------------------------------------------- windows


def visible(boxes: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    """What a window shows of boxes: the clipped boxes, in pixels of the window, and which share of each (N,).

    The share is of the part that a window of this size could show at best, so that a box larger than it can count
    as visible.
    """
    origin = boxes.new_tensor([window.left, window.top])
    extent = boxes.new_tensor([window.width, window.height])
    corners = (boxes.reshape(-1, 2, 2) - origin).clamp(min=0).minimum(extent)
    shown = (corners[:, 1] - corners[:, 0]).prod(1)
    best = (boxes[:, 2:] - boxes[:, :2]).minimum(extent).prod(1)
    return corners.reshape(-1, 4), shown / best


def crop(sample: Sample, window: Window) -> Sample:
    """The window's part of a sample, with the boxes of which MIN_VISIBLE is in it. Of an
    ignored box any part is kept. The pixels are a view."""
    left, top, width, height = window
    boxes, share = visible(sample.boxes, window)
    kept = (share >= MIN_VISIBLE) | ((sample.labels == IGNORED) & (share > 0))
    return Sample(sample.image[:, top : top + height, left : left + width], boxes[kept], sample.labels[kept])


def _randint(low: int, high: int) -> int:
    """Uniform in low..high, both included."""
    return int(torch.randint(low, high + 1, ()))


def safe_window(boxes: Tensor, size: tuple[int, int], width: int, height: int) -> Window:
    """Draw a box-safe window; AT_BOXES of them, where there are boxes, hold a random one or lie within it.

    Args:
        size: (H, W) of the image.
        width, height: of the window; the image's own where that is smaller.
    """
    whole_height, whole_width = size
    width, height = min(width, whole_width), min(height, whole_height)
    best, least = Window(0, 0, width, height), (len(boxes) + 1, 0)
    seek = len(boxes) > 0 and torch.rand(()) < AT_BOXES
    target = boxes[_randint(0, len(boxes) - 1)].tolist() if seek else None
    for _ in range(_TRIES):
        if target is None:
            left, top = _randint(0, whole_width - width), _randint(0, whole_height - height)
        else:
            left = _around(target[0], target[2], width, whole_width)
            top = _around(target[1], target[3], height, whole_height)
        window = Window(left, top, width, height)
        share = visible(boxes, window)[1]
        cut = share[(share > 0) & (share < 1)]
        harm = int((cut < MIN_VISIBLE).sum()), len(cut)
        if harm < least:
            best, least = window, harm
        if harm == (0, 0):
            break
    return best


def _around(low: float, high: float, extent: int, whole: int) -> int:
    """Start of an interval of length `extent` in 0..whole that holds low..high, or lies in it where it is longer."""
    first, last = sorted((int(-(-high // 1)) - extent, int(low // 1)))
    first, last = (min(max(v, 0), whole - extent) for v in (first, last))
    return _randint(first, last)


# ---------------------------------------------------------------- augmentations


def _mean(image: Tensor) -> list[float]:
    return [float(v) for v in image.float().mean((1, 2)).round()]


def _fit(sample: Sample, width: int, height: int) -> Sample:
    """A box-safe window of the sample, on ground of its mean colour where it is smaller than width x height."""
    boxes, (have_height, have_width) = sample.boxes, sample.image.shape[1:]
    sample = crop(sample, safe_window(boxes, (have_height, have_width), width, height))
    right, below = width - sample.image.shape[2], height - sample.image.shape[1]
    if not (right or below):
        return sample
    left, above = _randint(0, right), _randint(0, below)
    image = F.pad(sample.image, [left, above, right - left, below - above], fill=_mean(sample.image))
    return Sample(image, sample.boxes + sample.boxes.new_tensor([left, above, left, above]), sample.labels)


class ScaleJitter:
    """Resized by a random factor, then back to the image's size with a box-safe window or a margin.

    An image is shrunk only as far as its smallest box keeps sides of `smallest` pixels.
    """

    def __init__(self, scale: tuple[float, float] = (0.75, 1.5), smallest: float = 6.0) -> None:
        self.scale = scale
        self.smallest = smallest

    def __call__(self, sample: Sample, pool: Pool) -> Sample:
        height, width = sample.image.shape[1:]
        low, high = self.scale
        if len(sample.boxes):
            side = float((sample.boxes[:, 2:] - sample.boxes[:, :2]).min())
            low = max(low, min(1.0, self.smallest / side))
        # torchvision's own takes (H, W) and compares H with W: of what is no square it shrinks by the aspect as well.
        scale = low + torch.rand(1) * (high - low)
        size = max(1, int(height * scale)), max(1, int(width * scale))
        return _fit(apply(v2.Resize(size, antialias=True), sample), width, height)


class Mosaic:
    """With probability `share`, four images meet at a random point: box-safe windows of them, in their own scale.

    Unlike the mosaic of the YOLO family, nothing is shrunk: small defects would be lost.
    """

    def __init__(self, share: float = 0.5) -> None:
        self.share = share

    def __call__(self, sample: Sample, pool: Pool) -> Sample:
        if torch.rand(()) >= self.share:
            return sample
        height, width = sample.image.shape[1:]
        x, y = (_randint(round(0.3 * extent), round(0.7 * extent)) for extent in (width, height))
        parts = [sample, *(pool.sample(_randint(0, len(pool) - 1)) for _ in range(3))]
        image = torch.empty_like(sample.image)
        boxes, labels = [], []
        corners = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
        for part, (x1, y1, x2, y2) in zip((parts[i] for i in torch.randperm(4).tolist()), corners, strict=True):
            piece = _fit(part, x2 - x1, y2 - y1)
            image[:, y1:y2, x1:x2] = piece.image
            boxes.append(piece.boxes + piece.boxes.new_tensor([x1, y1, x1, y1]))
            labels.append(piece.labels)
        return Sample(image, torch.cat(boxes), torch.cat(labels))


class CopyPaste:
    """With probability `share`, defects of other training images are pasted beside those of this one.

    What is pasted is a box with a margin around it, which no other box of its image touches and which is at most half
    of the receiver in width and height. It goes where it touches no box, its brightness moved so that the margins
    agree, and fades out over its margin. Boxes and pixels that the receiver's boxes hold stay as they are; a
    defect-free receiver is welcome. (Box-level form of Ghiasi et al., Simple Copy-Paste, CVPR 2021; Kisantal et al.,
    Augmentation for small object detection, 2019.)
    """

    def __init__(self, share: float = 0.5, most: int = 3) -> None:
        self.share = share
        self.most = most

    def __call__(self, sample: Sample, pool: Pool) -> Sample:
        if torch.rand(()) >= self.share:
            return sample
        image, boxes, labels = sample.image.clone(), sample.boxes, sample.labels
        height, width = image.shape[1:]
        for _ in range(_randint(1, self.most)):
            found = _donor(pool, width // 2, height // 2)
            if found is None:
                continue
            patch, box, label = found
            high, wide = patch.shape[1:]
            for _ in range(_TRIES):
                left, top = _randint(0, width - wide), _randint(0, height - high)
                if not _touched(boxes, left, top, left + wide, top + high).any():
                    _paste(image[:, top : top + high, left : left + wide], patch, box)
                    boxes = torch.cat([boxes, (box + box.new_tensor([left, top, left, top]))[None]])
                    labels = torch.cat([labels, label[None]])
                    break
        return Sample(image, boxes, labels)


def _touched(boxes: Tensor, x1: int, y1: int, x2: int, y2: int) -> Tensor:
    return (boxes[:, 0] < x2) & (boxes[:, 2] > x1) & (boxes[:, 1] < y2) & (boxes[:, 3] > y1)


def _donor(pool: Pool, width: int, height: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """A patch (3, h, w) of at most height x width, the box in it (4,), and its label; None where draws find none."""
    for _ in range(_TRIES):
        image, boxes, labels = pool.sample(_randint(0, len(pool) - 1))
        real = (labels != IGNORED).nonzero()[:, 0]
        if len(real) == 0:
            continue
        chosen = int(real[_randint(0, len(real) - 1)])
        x1, y1, x2, y2 = boxes[chosen].tolist()
        margin = min(max(round(0.25 * max(x2 - x1, y2 - y1)), 2), 8)
        left, top = int(x1 // 1) - margin, int(y1 // 1) - margin
        right, bottom = int(-(-x2 // 1)) + margin, int(-(-y2 // 1)) + margin
        if min(left, top) < 0 or right > image.shape[2] or bottom > image.shape[1]:
            continue
        if right - left > width or bottom - top > height:
            continue
        if int(_touched(boxes, left, top, right, bottom).sum()) > 1:
            continue
        shift = boxes.new_tensor([left, top, left, top])
        return image[:, top:bottom, left:right], boxes[chosen] - shift, labels[chosen]
    return None


def _paste(ground: Tensor, patch: Tensor, box: Tensor) -> None:
    """Paste in place; alpha rises from the patch's border to 1 at the box."""
    high, wide = patch.shape[1:]
    x1, y1, x2, y2 = box.tolist()
    alpha = torch.minimum(_ramp(high, y1, y2)[:, None], _ramp(wide, x1, x2)[None, :])
    margin = alpha < 1
    below, above = ground.float(), patch.float()
    above = above + (below[:, margin].mean(1) - above[:, margin].mean(1))[:, None, None]
    ground.copy_((alpha * above + (1 - alpha) * below).round_().clamp_(0, 255))


def _ramp(extent: int, low: float, high: float) -> Tensor:
    """(extent,) from 0 at both ends to 1 between `low` and `high`."""
    at = torch.arange(extent, dtype=torch.float32) + 0.5
    return torch.minimum(at / max(low, 0.5), (extent - at) / max(extent - high, 0.5)).clamp_(max=1.0)

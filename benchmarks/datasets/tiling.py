"""Large images in tiles: the grid, and detections of overlapping tiles merged at the seams."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmarks.datasets.augment import Window

AGREEMENT = 0.5
"""IoU that two boxes must have, within what both of their tiles show, to be of one object."""

_TILES_AT_ONCE = 8


def tiles(height: int, width: int, size: int, overlap: int) -> list[Window]:
    """Windows of size x size (less where the image is smaller) that cover an image, row by row.

    Neighbours overlap by at least `overlap` pixels: a box with no side longer than that is whole in some tile.
    """
    return [
        Window(left, top, min(size, width), min(size, height))
        for top in _starts(height, size, overlap)
        for left in _starts(width, size, overlap)
    ]


def _starts(whole: int, size: int, overlap: int) -> list[int]:
    last = max(whole - size, 0)
    return [*range(0, last, size - overlap), last]


class TiledDetector(nn.Module):
    """A detector that looks at large images tile by tile, under the same contract.

    In training it is the wrapped model itself. Tiles of an image are equal in size, so that batching them changes no
    padding.

    Args:
        size, overlap: of `tiles`.
        most: detections kept per image, the best ones.
    """

    def __init__(self, model: nn.Module, size: int, overlap: int, most: int = 100) -> None:
        super().__init__()
        self.model = model
        self.size, self.overlap, self.most = size, overlap, most

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        if self.training:
            return self.model(images, targets)
        return [self._detect(image) for image in images]

    def _detect(self, image: Tensor) -> dict[str, Tensor]:
        height, width = image.shape[1:]
        windows = tiles(height, width, self.size, self.overlap)
        found: list[dict[str, Tensor]] = []
        for i in range(0, len(windows), _TILES_AT_ONCE):
            found += self.model([image[:, t : t + h, x : x + w] for x, t, w, h in windows[i : i + _TILES_AT_ONCE]])
        return merge(found, windows, (height, width), self.most)


def merge(
    found: Sequence[dict[str, Tensor]], windows: Sequence[Window], size: tuple[int, int], most: int
) -> dict[str, Tensor]:
    """Detections of an image's tiles as detections of the image (height, width), best first, at most `most`.

    Two detections of one class from different tiles are of one object when, within the part of the image that both
    tiles show, their boxes have an IoU of AGREEMENT. From the best score down, a detection takes in all that are of its
    object: where it was whole, that is non-maximum suppression across tiles; where a seam cut it, it also takes in what
    those agree with, and each side of its box comes from the best of them that saw this side, rather than the
    border of its tile.
    """
    device = found[0]["boxes"].device
    views = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in windows], dtype=torch.float32)
    tile = torch.cat([torch.full((len(f["scores"]),), i) for i, f in enumerate(found)])
    view = views[tile]
    boxes = torch.cat([f["boxes"].cpu() for f in found]).float() + view[:, [0, 1, 0, 1]]
    scores = torch.cat([f["scores"].cpu() for f in found])
    labels = torch.cat([f["labels"].cpu() for f in found])
    order = scores.argsort(descending=True, stable=True)
    tile, view, boxes, scores, labels = (x[order] for x in (tile, view, boxes, scores, labels))

    # A side that lies on a seam may go on beyond it. Detectors are not exact: near is as good as on.
    near = max(1.0, (view[0, 2:] - view[0, :2]).min().item() / 64) if len(view) else 1.0
    outer = torch.tensor([0.0, 0.0, size[1], size[0]])
    cut = ((boxes - view).abs() <= near) & (view != outer)
    some_cut = cut.any(1).tolist()

    alive = torch.ones(len(scores), dtype=torch.bool)
    merged, kept = list[Tensor](), list[int]()
    for best in range(len(scores)):
        if len(kept) == most:
            break
        if not alive[best]:
            continue
        alive[best] = False
        group, ask = [best], [best]
        while ask:
            one = ask.pop()
            same = alive & (labels == labels[one]) & (tile != tile[one])
            others = same.nonzero()[:, 0]
            others = others[_agreement(boxes[one], view[one], boxes[others], view[others]) >= AGREEMENT]
            alive[others] = False
            group += others.tolist()
            if some_cut[best]:
                ask += others.tolist()
        merged.append(_joined(boxes[best], boxes[sorted(group)], cut[sorted(group)]))
        kept.append(best)
    whole = torch.stack(merged) if merged else boxes.reshape(-1, 4)
    return {"boxes": whole.to(device), "scores": scores[kept].to(device), "labels": labels[kept].to(device)}


def _agreement(box: Tensor, view: Tensor, boxes: Tensor, views: Tensor) -> Tensor:
    """IoU (N,) of a box (4,) with others (N, 4), within the part that its view and theirs share."""
    low, high = view[:2].maximum(views[:, :2]), view[2:].minimum(views[:, 2:])
    one_low, one_high = box[:2].maximum(low), box[2:].minimum(high)
    low, high = boxes[:, :2].maximum(low), boxes[:, 2:].minimum(high)
    one, other = _area(one_low, one_high), _area(low, high)
    both = _area(one_low.maximum(low), one_high.minimum(high))
    return both / (one + other - both).clamp(min=1e-6)


def _area(low: Tensor, high: Tensor) -> Tensor:
    return (high - low).clamp(min=0).prod(-1)


def _joined(seed: Tensor, boxes: Tensor, cut: Tensor) -> Tensor:
    """The box (4,) of a group, best first: each side from the first that saw it, else the outermost."""
    out = seed.clone()
    for side in range(4):
        seen = (~cut[:, side]).nonzero()
        values = boxes[:, side]
        out[side] = values[seen[0, 0]] if len(seen) else values.min() if side < 2 else values.max()
    return out

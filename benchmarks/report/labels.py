"""Where names go in a scatter: no name touches another, or a mark, or lies nearer to another mark than to its own.

Geometry only, in points, the origin at the lower left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_DISTANCES = (3.0, 6.0, 10.0, 15.0, 21.0, 28.0, 36.0, 46.0, 58.0)
_SLIDES = (0.5, 0.0, 1.0, 0.25, 0.75)
_MOST_STEPS = 20_000
"""Of the search: then each name takes the first place that is left, and a name without one stays without."""


@dataclass(frozen=True)
class Rectangle:
    x0: float
    y0: float
    x1: float
    y1: float

    def meets(self, other: Rectangle) -> bool:
        return self.x0 < other.x1 and other.x0 < self.x1 and self.y0 < other.y1 and other.y0 < self.y1

    def within(self, other: Rectangle) -> bool:
        return self.x0 >= other.x0 and self.y0 >= other.y0 and self.x1 <= other.x1 and self.y1 <= other.y1

    def distance(self, x: float, y: float) -> float:
        """Of a point; 0 inside."""
        return math.hypot(max(self.x0 - x, x - self.x1, 0.0), max(self.y0 - y, y - self.y1, 0.0))


def place(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    frame: Rectangle,
    *,
    radius: float = 6.0,
    avoid: Sequence[Rectangle] = (),
    taken: Sequence[Rectangle] = (),
) -> list[Rectangle | None]:
    """A box for the name of each point; None where there is no place.

    Args:
        points: of the marks, which are discs of `radius` with room around them.
        sizes: width and height of the names.
        avoid: what names may cover if they must (whiskers). taken: what they may not.
    """
    choices = [_choices(i, points, size, frame, radius, avoid, taken) for i, size in enumerate(sizes)]
    boxes = _boxes(choices)
    out: list[Rectangle | None] = [None] * len(points)
    order = sorted((i for i in range(len(points)) if choices[i]), key=lambda i: (len(choices[i]), i))
    steps = _MOST_STEPS
    while order:
        found, deepest, steps = _search(order, boxes, steps)
        if found is None and not steps:
            found = _greedy(order, boxes)
        if found is not None:
            for i, chosen in found.items():
                out[i] = choices[i][chosen]
            break
        order.remove(deepest)  # the one that never found a place
    return out


def _choices(
    own: int,
    points: Sequence[tuple[float, float]],
    size: tuple[float, float],
    frame: Rectangle,
    radius: float,
    avoid: Sequence[Rectangle],
    taken: Sequence[Rectangle],
) -> list[Rectangle]:
    """Boxes that agree with everything but other names, the best first."""
    (x, y), (w, h) = points[own], size
    marks = [Rectangle(px - radius, py - radius, px + radius, py + radius) for px, py in points]
    found: list[tuple[float, int, Rectangle]] = []
    for gap in _DISTANCES:
        d = radius + gap
        spots = [(x + d, y - h / 2), (x - d - w, y - h / 2)]
        spots += [(x + side * d - (w if side < 0 else 0), y - h * s) for side in (1, -1) for s in (0.0, 1.0)]
        spots += [(x - w * s, y + d) for s in _SLIDES] + [(x - w * s, y - d - h) for s in _SLIDES]
        spots += [(x + sx * d * 0.75 - (w if sx < 0 else 0), y + sy * d * 0.75 - (h if sy < 0 else 0))
                  for sx in (1, -1) for sy in (1, -1)]  # fmt: skip
        for x0, y0 in spots:
            box = Rectangle(x0, y0, x0 + w, y0 + h)
            if not box.within(frame) or any(box.meets(mark) for mark in marks) or any(box.meets(t) for t in taken):
                continue
            nearest = box.distance(x, y)
            other = min((box.distance(px, py) for i, (px, py) in enumerate(points) if i != own), default=math.inf)
            if other < nearest:
                continue
            covered = sum(box.meets(other) for other in avoid)
            doubtful = 15.0 * (other < 1.15 * nearest)
            found.append((gap + 12.0 * covered + doubtful, len(found), box))
    return [box for _, _, box in sorted(found, key=lambda f: f[:2])]


@dataclass(frozen=True)
class _Box:
    bit: int
    """Of this box alone."""
    meets: int
    """The bits of all boxes that it meets, or comes nearer to than a pixel."""


def _boxes(choices: Sequence[Sequence[Rectangle]]) -> list[list[_Box]]:
    corners = np.array([(c.x0, c.y0, c.x1, c.y1) for own in choices for c in own]).reshape(-1, 4)
    x0, y0, x1, y1 = corners.T
    count, out = 0, []
    for own in choices:
        boxes = []
        for c in own:
            near = (c.x0 - 1.0 < x1) & (x0 < c.x1 + 1.0) & (c.y0 - 1.0 < y1) & (y0 < c.y1 + 1.0)
            boxes.append(_Box(1 << count, int.from_bytes(np.packbits(near, bitorder="little").tobytes(), "little")))
            count += 1
        out.append(boxes)
    return out


def _search(
    order: Sequence[int], boxes: Sequence[Sequence[_Box]], steps: int
) -> tuple[dict[int, int] | None, int, int]:
    """Which box for each, none meeting another, in depth first, in at most `steps`; or None.

    Also the first that found no place, and the steps that are left.
    """
    at = [0] * len(order)
    held = [0]  # bits of the boxes that are chosen, by depth
    deepest = 0
    while (depth := len(held) - 1) < len(order):
        if not steps:
            return None, order[deepest], 0
        steps -= 1
        deepest = max(deepest, depth)
        options = boxes[order[depth]]
        while at[depth] < len(options):
            box = options[at[depth]]
            at[depth] += 1
            if not box.meets & held[-1]:
                held.append(held[-1] | box.bit)
                break
        else:
            at[depth] = 0
            if not depth:
                return None, order[deepest], steps
            held.pop()
    return {i: n - 1 for i, n in zip(order, at, strict=True)}, -1, steps


def _greedy(order: Sequence[int], boxes: Sequence[Sequence[_Box]]) -> dict[int, int]:
    """Which box for each, the first that meets none; names that find none are left out."""
    held, out = 0, {}
    for i in order:
        free = next((n for n, box in enumerate(boxes[i]) if not box.meets & held), None)
        if free is not None:
            out[i], held = free, held | boxes[i][free].bit
    return out

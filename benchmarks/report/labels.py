"""Where names go in a scatter: no name touches another, or a mark, or lies nearer to another mark than to its own.

Geometry only, in points, the origin at the lower left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_DISTANCES = (3.0, 6.0, 10.0, 15.0, 21.0, 28.0, 36.0, 46.0, 58.0)
_SLIDES = (0.5, 0.0, 1.0, 0.25, 0.75)
_MOST_STEPS = 20_000
"""Of the search, which ends for sure: the names that are left then have no place."""


@dataclass(frozen=True)
class Rectangle:
    x0: float
    y0: float
    x1: float
    y1: float

    def padded(self, by: float) -> Rectangle:
        return Rectangle(self.x0 - by, self.y0 - by, self.x1 + by, self.y1 + by)

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
    out: list[Rectangle | None] = [None] * len(points)
    order = sorted((i for i in range(len(points)) if choices[i]), key=lambda i: (len(choices[i]), i))
    while order:
        found, deepest = _search(order, choices)
        if found is not None:
            for i, box in found.items():
                out[i] = box
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


def _search(order: Sequence[int], choices: Sequence[Sequence[Rectangle]]) -> tuple[dict[int, Rectangle] | None, int]:
    """A box for each, none meeting another, in depth first; or None and the first that found none."""
    at = [0] * len(order)
    chosen: list[Rectangle] = []
    deepest = steps = 0
    while len(chosen) < len(order):
        depth = len(chosen)
        options, steps = choices[order[depth]], steps + 1
        deepest = max(deepest, depth)
        if steps > _MOST_STEPS:
            return None, order[deepest]
        while at[depth] < len(options):
            box = options[at[depth]].padded(1.0)
            at[depth] += 1
            if not any(box.meets(other) for other in chosen):
                chosen.append(options[at[depth] - 1])
                break
        else:
            at[depth] = 0
            if not chosen:
                return None, order[deepest]
            chosen.pop()
    return dict(zip(order, chosen, strict=True)), -1

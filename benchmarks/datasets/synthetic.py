"""`synthetic_small`, version 2: metal surfaces with small defects, made from a seed, the same bytes on every machine.

800 images of 128 x 128 px, nine in ten with one to five defects, for the folds, and 600 parts without any that are
tested on and never trained on. Harder than version 1: fainter and smaller defects, and more marks that are none.
No defect is fainter than `FAINT`, so that none is there that nobody could see.

Every random number is raw PCG64 output; pixels come from integer arithmetic and from float64 `+ - * /`, `sqrt`,
comparisons and rounding, which IEEE 754 fixes to the last bit. There is no sin, exp or normal (they differ between
libm's), no float sum over an array (its order differs between CPUs), no library filter; PNG files are written with
stored blocks, so that they do not depend on a zlib version either.
"""

from __future__ import annotations

import itertools
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.datasets.sources import Box, RawSample

Floats = NDArray[np.float64]

CLASSES = ("crack", "inclusion", "missing_pattern", "pit", "ring_stain", "scratch")
SIZE = 128
COUNT = 800
GOOD = 600
FOLDS = 4
SEED = 20261126
MARGIN = 2  # no box comes closer to the image border
GAP = 3  # nor to another box
HALF = SIZE / 2
FAINT, CLEAR = (9.0, 14.0), (14.0, 34.0)
"""Visibility of a third of the defects, and of the others: the norm of what a defect changes over the deviation of a
pixel from its neighbourhood, the signal-to-noise ratio of the best linear detector on white noise."""
PEAK = (13.0, 70.0)
"""Least and greatest change of a pixel, in grey levels."""
GOOD_PREFIX = "good_"
SURFACES = ("brushed", "rolled", "cast", "turned", "blasted", "embossed")


class Stream:
    """Uniform numbers from raw PCG64 output."""

    def __init__(self, *seed: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(seed))

    def raw(self, n: int) -> NDArray[np.uint64]:
        return np.asarray(self._bits.random_raw(n), dtype=np.uint64)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * (int(self.raw(1)[0] >> np.uint64(11)) / 2**53)

    def below(self, n: int) -> int:
        """An integer in 0..n-1; the modulo bias of 64 bits is far below anything visible."""
        return int(self.raw(1)[0]) % n

    def sign(self) -> int:
        return 1 if self.below(2) else -1

    def direction(self) -> tuple[float, float]:
        """A unit vector, uniform over the circle, by rejection."""
        while True:
            x, y = self.uniform(-1, 1), self.uniform(-1, 1)
            r2 = x * x + y * y
            if 0.01 < r2 <= 1.0:
                r = math.sqrt(r2)
                return x / r, y / r

    def bytes(self, *shape: int) -> NDArray[np.int64]:
        """Integers in 0..255 of the given shape."""
        n = math.prod(shape)
        octets = self.raw((n + 7) // 8).astype("<u8").view(np.uint8)
        return octets[:n].reshape(shape).astype(np.int64)

    def noise(self, *shape: int) -> Floats:
        """Nearly normal numbers, mean 0, variance 1: the sum of four bytes (Irwin-Hall)."""
        total = self.bytes(*shape) + self.bytes(*shape) + self.bytes(*shape) + self.bytes(*shape)
        return (total - 510).astype(np.float64) / 147.8


def _smoothstep(x: Floats) -> Floats:
    x = np.minimum(np.maximum(x, 0.0), 1.0)
    return x * x * (3.0 - 2.0 * x)


def _interpolate(table: Floats, at: Floats) -> Floats:
    """`table` (n,) read at positions `at` in cells, smoothly; positions wrap around."""
    low = np.floor(at)
    t = _smoothstep(at - low)
    i = low.astype(np.int64) % len(table)
    a, b = table[i], table[(i + 1) % len(table)]
    return a + (b - a) * t


def _value_noise(stream: Stream, cell: float, size: int = SIZE) -> Floats:
    """(size, size) smooth noise of about unit variance with features of `cell` pixels."""
    cells = int(size / cell) + 3
    grid = stream.noise(cells, cells)
    y = np.arange(size, dtype=np.float64) / cell + stream.uniform()
    x = np.arange(size, dtype=np.float64) / cell + stream.uniform()
    iy, ix = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    ty, tx = _smoothstep(y - iy)[:, None], _smoothstep(x - ix)[None, :]
    a, b = grid[np.ix_(iy, ix)], grid[np.ix_(iy, ix + 1)]
    c, d = grid[np.ix_(iy + 1, ix)], grid[np.ix_(iy + 1, ix + 1)]
    top, bottom = a + (b - a) * tx, c + (d - c) * tx
    return (top + (bottom - top) * ty) * 1.4


def _box_blur(image: Floats, radius: int, axis: int) -> Floats:
    """Mean over 2*radius+1 pixels along one axis, edges repeated; exact, because it sums 1/256ths as integers."""
    q = np.rint(image * 256.0).astype(np.int64)
    pad = [(0, 0), (0, 0)]
    pad[axis] = (radius + 1, radius)
    total = np.cumsum(np.pad(q, pad, mode="edge"), axis=axis)
    n = 2 * radius + 1
    high = np.take(total, np.arange(n, total.shape[axis]), axis=axis)
    low = np.take(total, np.arange(0, total.shape[axis] - n), axis=axis)
    return (high - low).astype(np.float64) / (256.0 * n)


def _blur(image: Floats, radius: int) -> Floats:
    return _box_blur(_box_blur(image, radius, 0), radius, 1)


CANVAS = 96  # a defect is drawn on a canvas of its own and then placed
MID = CANVAS / 2
_Y, _X = (a.astype(np.float64) for a in np.indices((SIZE, SIZE)))
_CY, _CX = (a.astype(np.float64) for a in np.indices((CANVAS, CANVAS)))


@dataclass(frozen=True)
class Surface:
    kind: str
    image: Floats  # grey levels
    grain: tuple[float, float]  # unit vector along which the metal was worked
    light: tuple[float, float]  # unit vector towards the lamp
    dots: tuple[tuple[float, float], ...] = ()  # centres of the embossed pattern
    dot_radius: float = 0.0
    dot_gain: float = 0.0


def _shade(shape: Floats, light: tuple[float, float], gain: float) -> Floats:
    """A height map lit from `light`: central differences, no angle needed."""
    padded = np.pad(shape, 1, mode="edge")
    dy = padded[2:, 1:-1] - padded[:-2, 1:-1]
    dx = padded[1:-1, 2:] - padded[1:-1, :-2]
    return -(dx * light[0] + dy * light[1]) * gain


def make_surface(stream: Stream, kind: str) -> Surface:
    light = stream.direction()
    base = stream.uniform(95, 165)
    grain = (1.0, 0.0)
    dots: list[tuple[float, float]] = []
    dot_radius = dot_gain = 0.0
    if kind == "brushed":
        fine = _box_blur(stream.noise(SIZE, SIZE + 120), 28, 1)[:, 60:-60]
        coarse = _box_blur(stream.noise(SIZE, SIZE + 120), 9, 1)[:, 60:-60]
        texture = fine * stream.uniform(22, 38) + coarse * stream.uniform(7, 13)
        if stream.below(2):
            texture, grain = texture.T.copy(), (0.0, 1.0)
    elif kind == "rolled":
        bands = _interpolate(stream.noise(64), _X / stream.uniform(7, 13) + _Y * stream.uniform(-0.006, 0.006))
        streaks = _box_blur(stream.noise(SIZE + 120, SIZE), 40, 0)[60:-60]
        mottle = _value_noise(stream, stream.uniform(5, 9))
        texture = bands * stream.uniform(3, 7) + streaks * stream.uniform(16, 28) + mottle * stream.uniform(2, 3.5)
        grain = (0.0, 1.0)
        if stream.below(2):
            texture, grain = texture.T.copy(), (1.0, 0.0)
    elif kind == "cast":
        texture = _value_noise(stream, 2.3) * 4.5 + _value_noise(stream, 4.5) * 4.0 + _value_noise(stream, 17) * 4.5
        texture = texture * stream.uniform(0.75, 1.15)
        grain = stream.direction()
    elif kind == "turned":
        dx, dy = stream.direction()
        reach = stream.uniform(120, 340)
        cx, cy = HALF + dx * reach, HALF + dy * reach
        r = np.sqrt((_X - cx) * (_X - cx) + (_Y - cy) * (_Y - cy))
        pitch = stream.uniform(2.6, 4.6)
        texture = _interpolate(stream.noise(512), r / pitch) * stream.uniform(5, 8)
        texture = texture + _interpolate(stream.noise(512), r / (pitch * 5.3)) * stream.uniform(2, 5)
        grain = (-dy, dx)
    elif kind == "blasted":
        peened = _value_noise(stream, stream.uniform(3.2, 5.0))
        texture = _shade(peened, light, stream.uniform(2.6, 4.4)) + _value_noise(stream, 30) * 4
        grain = stream.direction()
    elif kind == "embossed":
        texture = _box_blur(stream.noise(SIZE, SIZE + 60), 14, 1)[:, 30:-30] * stream.uniform(8, 14)
        pitch = stream.uniform(15, 21)
        dot_radius = pitch * stream.uniform(0.24, 0.31)
        dot_gain = stream.uniform(16, 32)
        ux, uy = 1.0, stream.uniform(-0.25, 0.25)
        n = math.sqrt(ux * ux + uy * uy)
        ux, uy = ux / n, uy / n
        ox, oy = stream.uniform(0, pitch), stream.uniform(0, pitch)
        stagger = 0.5 if stream.below(2) else 0.0
        for i in range(-14, 15):
            for j in range(-14, 15):
                a, b = (i + stagger * (j % 2)) * pitch, j * pitch
                x, y = HALF + ox + a * ux - b * uy, HALF + oy + a * uy + b * ux
                if -pitch < x < SIZE + pitch and -pitch < y < SIZE + pitch:
                    dots.append((x, y))
    else:
        raise ValueError(kind)
    return Surface(kind, base + texture, grain, light, tuple(dots), dot_radius, dot_gain)


def _window(x: float, y: float, reach: float) -> tuple[slice, slice]:
    """Rows and columns of the image within `reach` of a point."""
    top, left = max(math.floor(y - reach), 0), max(math.floor(x - reach), 0)
    return slice(top, max(math.ceil(y + reach) + 1, top)), slice(left, max(math.ceil(x + reach) + 1, left))


def _add_dot(image: Floats, surface: Surface, x: float, y: float) -> None:
    """Press one lens of the embossed pattern into `image`: bright towards the lamp, dark away from it."""
    r = surface.dot_radius
    at = _window(x, y, r + 1)
    dx, dy = (_X[at] - x) / r, (_Y[at] - y) / r
    d2 = dx * dx + dy * dy
    dome = np.maximum(1.0 - d2, 0.0)
    edge = np.minimum(np.maximum((1.0 - np.sqrt(d2)) * r + 0.5, 0.0), 1.0)
    lit = dx * surface.light[0] + dy * surface.light[1]
    image[at] += edge * surface.dot_gain * (lit * 1.25 - 0.35 * dome)


def _segment_distance(ax: float, ay: float, bx: float, by: float) -> tuple[Floats, Floats, Floats]:
    """Distance of every pixel to a segment, position 0..1 along it, and signed distance to its line."""
    vx, vy = bx - ax, by - ay
    length2 = vx * vx + vy * vy + 1e-9
    t = np.minimum(np.maximum(((_CX - ax) * vx + (_CY - ay) * vy) / length2, 0.0), 1.0)
    dx, dy = _CX - (ax + vx * t), _CY - (ay + vy * t)
    side = ((_CX - ax) * vy - (_CY - ay) * vx) / math.sqrt(length2)
    return np.sqrt(dx * dx + dy * dy), t, side


def _stroke(distance: Floats, half_width: float) -> Floats:
    return np.minimum(np.maximum(half_width + 0.6 - distance, 0.0), 1.0)


# Every defect maker returns what it adds to the grey levels, centred anywhere; its box is found from that.
# `strength` is the contrast wanted, in grey levels.
Delta = Floats


def _scratch(stream: Stream, surface: Surface, strength: float, large: bool) -> Delta:
    """A cut across the grain: a thin bright furrow with a dark lip, slightly bent, thinner at its ends."""
    gx, gy = surface.grain
    dx, dy = stream.direction()
    if abs(dx * gx + dy * gy) > 0.85:  # along the grain it would be part of the texture
        dx, dy = -dy, dx
    length = stream.uniform(42, 70) if large else stream.uniform(14, 31)
    bend = stream.uniform(-0.14, 0.14) * length
    half = stream.uniform(0.55, 1.05)
    pieces = 6
    points = []
    for k in range(pieces + 1):  # a parabola, in straight pieces
        u = 2.0 * k / pieces - 1.0
        along, across = u * length / 2, (1.0 - u * u) * bend
        points.append((MID + dx * along - dy * across, MID + dy * along + dx * across))
    delta: Delta = np.zeros((CANVAS, CANVAS))
    for k, ((px, py), (qx, qy)) in enumerate(itertools.pairwise(points)):
        d, t, side = _segment_distance(px, py, qx, qy)
        middle = np.abs((k + t) * 2.0 / pieces - 1.0)
        taper = 1.0 - 0.45 * middle * middle
        bright = _stroke(d, half) * taper
        lip = np.where(side > 0, _stroke(np.abs(d - half - 1.0), 0.5), 0.0) * taper * 0.6
        piece = bright - lip * (1.0 - bright)
        delta = np.where(np.abs(piece) > np.abs(delta), piece, delta)
    return delta * strength


def _crack(stream: Stream, surface: Surface, strength: float, large: bool) -> Delta:
    """A dark jagged line with short branches."""
    dx, dy = stream.direction()
    steps = 9 + stream.below(5) if large else 4 + stream.below(4)
    step = stream.uniform(4.0, 5.6) if large else stream.uniform(3.4, 4.8)
    x, y = MID - dx * step * steps / 2, MID - dy * step * steps / 2
    nearest = np.full((CANVAS, CANVAS), 1e3)
    for k in range(steps):
        swing = stream.uniform(0.35, 0.95) * (1 if k % 2 else -1)
        nx, ny = x + (dx - dy * swing) * step, y + (dy + dx * swing) * step
        nearest = np.minimum(nearest, _segment_distance(x, y, nx, ny)[0])
        if k in (1, 3, 6) and stream.below(3):
            s = stream.sign()
            reach = stream.uniform(0.9, 1.5) * step
            ex, ey = nx + (0.5 * dx - s * dy) * reach, ny + (0.5 * dy + s * dx) * reach
            nearest = np.minimum(nearest, _segment_distance(nx, ny, ex, ey)[0] + 0.25)
        x, y = nx, ny
    return -_stroke(nearest, stream.uniform(0.5, 0.85)) * strength * 1.15


def _pit(stream: Stream, surface: Surface, strength: float, large: bool) -> Delta:
    """A hole: dark floor, the wall away from the lamp lit, a thin bright rim on that side."""
    r = stream.uniform(9, 13) if large else stream.uniform(3.4, 6.8)
    squeeze = stream.uniform(0.8, 1.25)
    wobble = _blur(stream.noise(CANVAS, CANVAS), 2) * 0.55
    dx, dy = (_CX - MID) / (r * squeeze), (_CY - MID) / (r / squeeze)
    d = np.sqrt(dx * dx + dy * dy) + wobble * (1.6 / r)
    inside = np.minimum(np.maximum((1.0 - d) * r + 0.5, 0.0), 1.0)
    lit = -(dx * surface.light[0] + dy * surface.light[1])
    rim = np.minimum(np.maximum(1.0 - np.abs((d - 1.0) * r) / 1.2, 0.0), 1.0) * np.maximum(lit, 0.0)
    return inside * (-0.95 + 0.5 * lit) * strength * 1.1 + rim * strength * 0.7


def _inclusion(stream: Stream, surface: Surface, strength: float, large: bool) -> Delta:
    """Foreign matter drawn out along the grain: a dark ragged patch with a mottled inside."""
    gx, gy = surface.grain
    ux, uy = gx + stream.uniform(-0.2, 0.2), gy + stream.uniform(-0.2, 0.2)
    n = math.sqrt(ux * ux + uy * uy)
    ux, uy = ux / n, uy / n
    long = stream.uniform(19, 27) if large else stream.uniform(7.5, 14)
    wide = long * stream.uniform(0.24, 0.4)
    a = ((_CX - MID) * ux + (_CY - MID) * uy) / long
    b = ((_CY - MID) * ux - (_CX - MID) * uy) / wide
    ragged = _value_noise(stream, 3.1, CANVAS) * 0.17
    d = np.sqrt(a * a + b * b) + ragged
    inside = np.minimum(np.maximum((1.0 - d) * wide * 0.8 + 0.5, 0.0), 1.0)
    return -inside * (0.85 + 0.22 * _value_noise(stream, 2.2, CANVAS)) * strength


def _ring_stain(stream: Stream, surface: Surface, strength: float, large: bool) -> Delta:
    """What a dried drop leaves: a soft ring, its inside tinted a little."""
    r = stream.uniform(17, 24) if large else stream.uniform(5.5, 12)
    squeeze = stream.uniform(0.88, 1.14)
    dx, dy = (_CX - MID) / squeeze, (_CY - MID) * squeeze
    d = np.sqrt(dx * dx + dy * dy) + _value_noise(stream, 6, CANVAS) * 0.5
    width = stream.uniform(1.3, 2.0)
    ring = _smoothstep(1.0 - np.abs(d - r) / (width * 1.5))
    tint = np.minimum(np.maximum(r - d, 0.0), 1.0) * stream.uniform(0.1, 0.3)
    tone = -1.0 if stream.below(4) else 1.0
    return np.maximum(ring, tint) * strength * 0.95 * tone


MAKERS: dict[str, Callable[[Stream, Surface, float, bool], Delta]] = {
    "scratch": _scratch,
    "crack": _crack,
    "pit": _pit,
    "inclusion": _inclusion,
    "ring_stain": _ring_stain,
}


def extent_of(delta: Delta) -> tuple[int, int, int, int] | None:
    """x, y, width, height of what can be seen: pixels with at least a third of the strongest change."""
    size = np.abs(delta)
    seen = size >= max(float(size.max()) / 3.0, 1.0)
    rows, cols = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if not len(rows):
        return None
    y, x = int(rows[0]), int(cols[0])
    return x, y, int(cols[-1]) + 1 - x, int(rows[-1]) + 1 - y


def paste(image: Floats, delta: Delta, x: int, y: int) -> None:
    """Add a canvas whose top left corner lies at (x, y), which may be outside."""
    top, left = max(y, 0), max(x, 0)
    bottom, right = min(y + CANVAS, SIZE), min(x + CANVAS, SIZE)
    image[top:bottom, left:right] += delta[top - y : bottom - y, left - x : right - x]


def is_free(box: tuple[int, int, int, int], taken: list[tuple[int, int, int, int]], size: int = SIZE) -> bool:
    x, y, w, h = box
    if x < MARGIN or y < MARGIN or x + w > size - MARGIN or y + h > size - MARGIN:
        return False
    return all(
        x > tx + tw + GAP or tx > x + w + GAP or y > ty + th + GAP or ty > y + h + GAP for tx, ty, tw, th in taken
    )


def _distractors(stream: Stream, surface: Surface, image: Floats) -> Floats:
    """Marks that are no defects: dust, lint, tool lines through the whole part, smears, rub marks."""
    gx, gy = surface.grain
    for _ in range(stream.below(9)):  # dust: a pixel or two, dark or bright
        x, y, tone = stream.uniform(2, SIZE - 3), stream.uniform(2, SIZE - 3), stream.uniform(16, 42) * stream.sign()
        at = _window(x, y, 2)
        d2 = (_X[at] - x) * (_X[at] - x) + (_Y[at] - y) * (_Y[at] - y)
        image[at] += np.maximum(1.0 - d2 / stream.uniform(1.0, 2.6), 0.0) * tone
    if stream.below(2) == 0:  # tool lines follow the grain from border to border
        for _ in range(1 + stream.below(3)):
            x, y, tone = stream.uniform(0, SIZE), stream.uniform(0, SIZE), stream.uniform(7, 19) * stream.sign()
            d = np.abs((_X - x) * gy - (_Y - y) * gx)
            image = image + _stroke(d, 0.5) * tone
    if stream.below(3) == 0:  # lint: a long soft bright thread
        dx, dy = stream.direction()
        x, y = stream.uniform(24, SIZE - 24), stream.uniform(24, SIZE - 24)
        bend = stream.uniform(0.004, 0.012) * stream.sign()
        a, b = (_X - x) * dx + (_Y - y) * dy, (_Y - y) * dx - (_X - x) * dy
        reach = stream.uniform(20, 38)
        along = np.minimum(np.maximum((reach - np.abs(a)) / 3.0, 0.0), 1.0)
        image = image + _stroke(np.abs(b - a * a * bend), 0.3) * along * stream.uniform(9, 20)
    for _ in range(stream.below(3)):  # smears: wide and faint
        x, y, r = stream.uniform(0, SIZE), stream.uniform(0, SIZE), stream.uniform(12, 30)
        d2 = ((_X - x) * (_X - x) + (_Y - y) * (_Y - y)) / (r * r)
        image = image + stream.uniform(-13, 13) / (1.0 + d2 * d2)
    for _ in range(stream.below(3)):  # rub marks: as large as a defect, without an edge
        x, y, r = stream.uniform(8, SIZE - 8), stream.uniform(8, SIZE - 8), stream.uniform(3, 8)
        long = stream.uniform(1.0, 2.2)
        a, b = ((_X - x) * gx + (_Y - y) * gy) / (r * long), ((_Y - y) * gx - (_X - x) * gy) / r
        image = image + _smoothstep(1.0 - np.sqrt(a * a + b * b) * 0.6) * stream.uniform(6, 15) * stream.sign()
    return image


def illuminate(stream: Stream, surface: Surface, image: Floats) -> Floats:
    """A slope across the image, a soft hot spot, darker corners."""
    lx, ly = surface.light
    middle = (SIZE - 1) / 2
    slope = ((_X - middle) * lx + (_Y - middle) * ly) / HALF
    x, y, r = stream.uniform(8, SIZE - 8), stream.uniform(8, SIZE - 8), stream.uniform(36, 76)
    spot = 1.0 / (1.0 + ((_X - x) * (_X - x) + (_Y - y) * (_Y - y)) / (r * r))
    corner = ((_X - middle) * (_X - middle) + (_Y - middle) * (_Y - middle)) / (2 * HALF * HALF)
    gain = (
        0.92 + slope * stream.uniform(0.04, 0.2) + spot * stream.uniform(0.05, 0.3) - corner * stream.uniform(0, 0.22)
    )
    return image * gain


def _norm(values: Floats) -> float:
    """Root of the sum of squares, in integers of 1/16, whose sum has no order."""
    q = np.rint(values * 16.0).astype(np.int64)
    return math.sqrt(int((q * q).sum())) / 16.0


def _deviation(surface: Floats, box: tuple[int, int, int, int], noise: float) -> float:
    """Of a pixel from its neighbourhood, around a box (x, y, width, height), with the sensor's `noise` to come."""
    x, y, w, h = box
    at = slice(max(y - 6, 0), y + h + 6), slice(max(x - 6, 0), x + w + 6)
    rough = (surface - _blur(surface, 4))[at]
    return math.sqrt((_norm(rough) ** 2) / rough.size + noise * noise)


def render(index: int) -> tuple[NDArray[np.uint8], list[tuple[str, tuple[int, int, int, int]]]]:
    """Image `index`: (128, 128) grey levels, and per defect its class and box (x, y, width, height).

    Images from `COUNT` on are good parts.
    """
    stream = Stream(SEED, index)
    surface = make_surface(stream, SURFACES[index % len(SURFACES)])
    noise = stream.uniform(1.8, 4.8)
    image = surface.image.copy()
    absent: set[int] = set()
    boxes: list[tuple[str, tuple[int, int, int, int]]] = []
    taken: list[tuple[int, int, int, int]] = []
    good = index >= COUNT or index % 10 == (index // 10) % 10  # of the folds a tenth, spread over the surfaces
    wanted = 0 if good else 1 + (stream.below(5) + stream.below(5)) // 2
    plain = [c for c in CLASSES if c != "missing_pattern"]
    for k in range(wanted):
        visibility = stream.uniform(*(FAINT if stream.below(3) == 0 else CLEAR))
        if surface.dots and (k == 0 or stream.below(3) < 2):
            found = _missing_dot(stream, surface, absent, taken)
            if found is not None:
                boxes.append(("missing_pattern", found))
                taken.append(found)
            continue
        label = plain[stream.below(len(plain))]
        large = stream.below(5) == 0
        delta = MAKERS[label](stream, surface, 40.0, large)
        extent = extent_of(delta)
        if extent is None:
            continue
        for _ in range(30):
            x, y = stream.below(SIZE - extent[2]), stream.below(SIZE - extent[3])
            box = (x, y, extent[2], extent[3])
            if is_free(box, taken):
                scale = visibility * _deviation(surface.image, box, noise) / _norm(delta)
                peak = float(np.abs(delta).max())
                scale = min(max(scale, PEAK[0] / peak), PEAK[1] / peak)
                paste(image, delta * scale, x - extent[0], y - extent[1])
                boxes.append((label, box))
                taken.append(box)
                break
    for i, (dot_x, dot_y) in enumerate(surface.dots):
        if i not in absent:
            _add_dot(image, surface, dot_x, dot_y)
    image = _distractors(stream, surface, image)
    image = illuminate(stream, surface, image)
    image = image + stream.noise(SIZE, SIZE) * noise
    return np.minimum(np.maximum(np.rint(image), 0.0), 255.0).astype(np.uint8), boxes


def _missing_dot(
    stream: Stream, surface: Surface, absent: set[int], taken: list[tuple[int, int, int, int]]
) -> tuple[int, int, int, int] | None:
    r = surface.dot_radius + 0.5
    for _ in range(30):
        i = stream.below(len(surface.dots))
        x, y = surface.dots[i]
        left, top = math.floor(x - r + 0.5), math.floor(y - r + 0.5)
        right, bottom = math.ceil(x + r + 0.5), math.ceil(y + r + 0.5)
        box = (left, top, right - left, bottom - top)
        if i not in absent and is_free(box, taken):
            absent.add(i)
            return box
    return None


def encode_png(grey: NDArray[np.uint8]) -> bytes:
    """An 8-bit grey PNG whose data lie in stored (uncompressed) blocks: the same bytes from any zlib."""
    height, width = grey.shape
    rows = np.zeros((height, width + 1), dtype=np.uint8)  # filter type 0 before each row
    rows[:, 1:] = grey
    data = rows.tobytes()
    blocks = [data[i : i + 65535] for i in range(0, len(data), 65535)]
    stored = b"".join(
        struct.pack("<BHH", i == len(blocks) - 1, len(b), len(b) ^ 0xFFFF) + b for i, b in enumerate(blocks)
    )
    body = b"\x78\x01" + stored + struct.pack(">I", zlib.adler32(data))

    def chunk(kind: bytes, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def read(source: None = None) -> Iterator[RawSample]:
    """All images, as `prepared` wants them: those of the folds, then the good parts that are only tested on."""
    for index in range(COUNT + GOOD):
        grey, found = render(index)
        boxes = tuple(Box(label, x, y, x + w, y + h) for label, (x, y, w, h) in found)
        name = f"part_{index:03d}.png" if index < COUNT else f"{GOOD_PREFIX}{index - COUNT:03d}.png"
        yield RawSample(name, encode_png(grey), boxes, origin=name)

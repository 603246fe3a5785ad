"""Images that must not be on both sides of a split: near-duplicates, and crops that show the same place.

Near-duplicates are found by a perceptual hash of 255 bits: grey, reduced to 32x32 by area, DCT, the 16x16 lowest
frequencies without the mean, each compared with their median. Integers throughout, so that only a different JPEG
decoder could change a bit.

Overlapping crops are found by registration: grey values, each against the mean and the spread of its neighbourhood, so
that brightness and contrast of a place do not count, are correlated over all shifts; what stands out is decided in full
resolution. `docs/folds.md` has how well that does on pairs that were judged by eye.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.datasets.images import decode

THRESHOLD = 64
"""Images whose hashes differ in at most this many of 255 bits count as near-duplicates; see `near_duplicates`."""

_GRID, _KEPT = 32, 16


@lru_cache(maxsize=1)
def _basis() -> NDArray[np.int64]:
    rows = [
        [round(math.cos(math.pi * (2 * x + 1) * k / (2 * _GRID)) * 4096) for x in range(_GRID)] for k in range(_KEPT)
    ]
    return np.array(rows, dtype=np.int64)


_LONG = 4
"""Sides of an image longer than this many times the other are cut into pieces, laid below each other, for its hash."""


def perceptual_hash(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The 255 bits of an RGB image (height, width, 3)."""
    return _bits(_thumbnail(rgb))


def _thumbnail(rgb: NDArray[np.uint8]) -> NDArray[np.int64]:
    """32 x 32 grey values; of a strip, whose rows would all be alike there, of its pieces below each other."""
    grey = np.asarray(Image.fromarray(rgb).convert("L"))
    if max(grey.shape) > _LONG * min(grey.shape):
        long = grey if grey.shape[0] < grey.shape[1] else grey.T
        pieces = math.isqrt(long.shape[1] // long.shape[0])
        width = long.shape[1] // pieces
        grey = np.concatenate([long[:, k * width : (k + 1) * width] for k in range(pieces)])
    return np.asarray(Image.fromarray(grey).resize((_GRID, _GRID), Image.Resampling.BOX), dtype=np.int64)


def _bits(thumbnail: NDArray[np.int64]) -> NDArray[np.bool_]:
    basis = _basis()
    spectrum = (basis @ thumbnail @ basis.T).ravel()[1:]
    return spectrum > np.sort(spectrum)[len(spectrum) // 2]


def _close(hashes: NDArray[np.bool_], threshold: int) -> Iterator[tuple[int, int]]:
    """Pairs i < j of N hashes that differ in at most `threshold` bits, some rows at a time."""
    ones = hashes.astype(np.float32)
    for start in range(0, len(ones), 1000):
        part = ones[start : start + 1000]
        differ = part @ (1 - ones).T + (1 - part) @ ones.T  # small integers: exact
        for i, j in zip(*np.nonzero(differ <= threshold), strict=True):
            if start + i < j:
                yield start + int(i), int(j)


def near_duplicates(paths: Mapping[str, Path], threshold: int = THRESHOLD) -> list[list[str]]:
    """Groups of two or more images linked by hashes at most `threshold` bits apart, sorted.

    Unrelated images differ in about 127 bits. On NEU-DET four pairs differ in 0 to 48 bits, a fifth, the same place
    under other light, in 70; from 88 bits on they are unrelated.
    """
    names = list(paths)
    if not names:
        return []
    hashes = np.stack([perceptual_hash(decode(paths[name].read_bytes(), name)) for name in names])
    return linked(names, ((names[i], names[j]) for i, j in _close(hashes, threshold)))


_COPY = re.compile(r"(?:[._](?:jpe?g|png|bmp|tiff?|webp))?\.rf\.[0-9a-z]+$", re.IGNORECASE)
_SAME = 0.1
"""Thumbnails, of spread 1, that differ nowhere by more than this are copies, fixture or not."""


def source_name(file_name: str) -> str:
    """What an image was called before an exporter made copies of it: `a/part_png.rf.0f3c.jpg` was `part`.

    Folders do not count: exporters put the copies of one image into train, valid and test.
    """
    path = PurePosixPath(file_name)
    stem, found = _COPY.subn("", path.stem)
    return stem if found else file_name


def look_alike(paths: Mapping[str, Path], threshold: int = THRESHOLD, parts: int = 5) -> list[list[str]]:
    """Groups of images of any set that must stay together: `near_duplicates`, turned and mirrored ones, and copies.

    Where one group would hold more than one of `parts` equal parts of the set, its images may be of one fixture: then
    what counts is each image without what they all share (their median), unless they are the same all over.
    """
    names = list(paths)
    if not names:
        return []
    small = [_thumbnail(decode(paths[name].read_bytes(), name)) for name in names]
    by_source: dict[str, list[str]] = {}
    for name in names:
        by_source.setdefault(source_name(name), []).append(name)
    copies = [(group[0], other) for group in by_source.values() for other in group[1:]]
    groups = linked(names, [*copies, *((names[i], names[j]) for i, j in _turned(small, threshold))])
    index = {name: i for i, name in enumerate(names)}
    out = []
    for group in groups:
        if len(group) * parts <= len(names):
            out.append(group)
            continue
        level = np.stack([small[index[name]] for name in group]).astype(np.float64)
        level -= level.mean((1, 2), keepdims=True)
        level /= np.maximum(level.std((1, 2), keepdims=True), 1e-6)
        rest = level - np.median(level, axis=0)
        whole = [np.rint(1e4 * image).astype(np.int64) for image in rest]
        near = list(_turned(whole, threshold))
        flat = level.reshape(len(group), -1)
        for i in range(len(group)):
            same = np.nonzero(np.abs(flat[i + 1 :] - flat[i]).max(axis=1, initial=0.0) < _SAME)[0]
            near += [(i, i + 1 + int(j)) for j in same]
        kept = set(group)
        out += linked(group, [*((a, b) for a, b in copies if a in kept), *((group[i], group[j]) for i, j in near)])
    return sorted(out)


def _turned(thumbnails: Sequence[NDArray[np.int64]], threshold: int) -> Iterator[tuple[int, int]]:
    """Pairs i < j of thumbnails whose hashes are close, the second as it is, turned by quarters, or mirrored."""
    plain = np.stack([_bits(t) for t in thumbnails]).astype(np.float32)
    for flip in (False, True):
        for quarter in range(4):
            turned = np.stack([_bits(np.rot90(t.T if flip else t, quarter)) for t in thumbnails]).astype(np.float32)
            for start in range(0, len(plain), 1000):
                part = plain[start : start + 1000]
                differ = part @ (1 - turned).T + (1 - part) @ turned.T
                for i, j in zip(*np.nonzero(differ <= threshold), strict=True):
                    if start + i < j:
                        yield start + int(i), int(j)


def linked(names: Iterable[str], pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Groups of two or more names that pairs connect, directly or through others; sorted."""
    parent = {name: name for name in names}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for a, b in pairs:
        parent[root(b)] = root(a)
    groups: dict[str, list[str]] = {}
    for name in parent:
        groups.setdefault(root(name), []).append(name)
    return sorted(sorted(group) for group in groups.values() if len(group) > 1)


MIN_OVERLAP = 0.08
"""Smallest common area that is looked for, as a share of an image."""

SURE, LIKELY, SHARP, THIN = 0.75, 0.35, 1.4, 0.1
"""Correlation from which two images show the same place; and from which they do where the peak is SHARP and the common
area not THIN: a line beside the edge looks like any other."""

STANDS_OUT, VERY_SHARP = 8.0, 1.75
"""Significance and sharpness from which a peak counts whatever the correlation: a place whose surface has changed in
between, or marks of the same roll, so that only a part of it is the same."""

_CANDIDATE_Z, _CANDIDATE_CORRELATION = 5.2, 0.4  # at reduced resolution
_LONGEST = 100  # pixels of the longer side there, at least half the image's
_APART = 4  # pixels there: a second peak that is nearer belongs to the first
_BATCH = 16  # some maps at a time, so that they stay in the cache


class Overlap(NamedTuple):
    """Two images, the first at (y + dy, x + dx) over the second at (y, x), in pixels."""

    a: str
    b: str
    dy: int
    dx: int
    area: float
    """Common area as a share of the image."""
    side: float
    """Its shorter side as a share of the image's."""
    correlation: float
    """Correlation of the pixels of the common area, in full resolution."""
    sharpness: float
    """The best shift's correlation times the root of its area, over that of the best shift elsewhere."""
    significance: float
    """The best shift's correlation times the root of its area, over the standard deviation of that over all shifts."""

    @property
    def same_place(self) -> bool:
        """Whether the two show the same place of the same part, to the limits that `overlapping` was judged by."""
        return (
            self.correlation >= SURE
            or (self.correlation >= LIKELY and self.sharpness >= SHARP and self.side >= THIN)
            or (self.significance >= STANDS_OUT and self.sharpness >= VERY_SHARP)
        )


def _standardised(grey: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Each pixel minus the mean of the `side` x `side` around it, over the spread in twice that, within +-2.5."""
    from scipy.ndimage import uniform_filter

    rest = grey - uniform_filter(grey, side, mode="nearest")
    power = np.maximum(uniform_filter(rest * rest, 2 * side + 1, mode="nearest"), 0)  # rounding: a little below
    spread = np.sqrt(power) + 1.0  # a grey level: flat stays flat
    return np.clip(rest / spread, -2.5, 2.5)


def _common(a: NDArray[np.float32], b: NDArray[np.float32], dy: int, dx: int) -> float:
    """Correlation of the common area where `a` at (y + dy, x + dx) lies over `b` at (y, x)."""
    h, w = a.shape
    part = a[max(dy, 0) : h + min(dy, 0), max(dx, 0) : w + min(dx, 0)]
    other = b[max(-dy, 0) : h + min(-dy, 0), max(-dx, 0) : w + min(-dx, 0)]
    if not part.size:
        return 0.0
    part, other = part - part.mean(), other - other.mean()
    return float((part * other).sum() / np.sqrt((part * part).sum() * (other * other).sum() + 1e-9))


def _reduced(grey: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    h, w = (n // factor for n in grey.shape)
    small = _standardised(
        grey[: h * factor, : w * factor].reshape(h, factor, w, factor).mean((1, 3), dtype=np.float32), 7
    )
    small = small - small.mean()
    return small / max(float(small.std()), 1e-6)


class _Candidate(NamedTuple):
    i: int
    j: int
    dy: int
    dx: int
    sharpness: float
    significance: float


def _candidates(
    small: NDArray[np.float32], classes: list[frozenset[str]], report: Callable[[str], object]
) -> Iterator[_Candidate]:
    """For pairs i < j with a class in common, the shift of N maps (N, h, w) that stands out most, where one does."""
    import scipy.fft  # slow to import, and every fold list is read through `splits`

    count, h, w = small.shape
    spectra = scipy.fft.rfft2(small, (2 * h, 2 * w))
    down, right = (np.minimum(np.arange(2 * n), 2 * n - np.arange(2 * n)) for n in (h, w))
    area = np.outer(np.maximum(h - down, 0), np.maximum(w - right, 0))
    # By the root of the area, not the area: chance correlation grows where less is in common.
    scale = np.where(area >= MIN_OVERLAP * h * w, 1.0 / np.sqrt(np.maximum(area, 1)), 0.0).astype(np.float32)
    near = np.arange(-_APART, _APART + 1)
    for i in range(count):
        if i % 300 == 299:
            report(f"overlap search: {i + 1} of {count} images")
        others = [j for j in range(i + 1, count) if classes[i] & classes[j]]
        for start in range(0, len(others), _BATCH):
            batch = others[start : start + _BATCH]
            maps = scipy.fft.irfft2(spectra[i] * np.conj(spectra[batch]), (2 * h, 2 * w))
            maps *= scale
            flat = maps.reshape(len(batch), -1)
            peaks, spreads, places = flat.max(axis=1), flat.std(axis=1), flat.argmax(axis=1)
            for k in np.nonzero(peaks > _CANDIDATE_Z * spreads)[0].tolist():
                y, x = divmod(int(places[k]), 2 * w)
                peak = float(peaks[k])
                maps[k][np.ix_((y + near) % (2 * h), (x + near) % (2 * w))] = 0.0
                sharpness = peak / max(float(maps[k].max()), 1e-6)
                if sharpness >= SHARP or peak / math.sqrt(area[y, x]) >= _CANDIDATE_CORRELATION:
                    dy, dx = y if y < h else y - 2 * h, x if x < w else x - 2 * w
                    yield _Candidate(i, batch[k], dy, dx, sharpness, peak / float(spreads[k]))


def overlap_candidates(
    paths: Mapping[str, Path],
    labels: Mapping[str, Iterable[str]],
    *,
    report: Callable[[str], object] = lambda line: None,
) -> list[Overlap]:
    """Pairs of images of one size with a class in common, registered over each other where a shift stands out.

    Each pair is searched over all shifts that leave MIN_OVERLAP of the area in common, reduced to half or less; the
    shift that stands out most is refined in full resolution. Quadratic in the number of images: minutes for 1,800.
    """
    from scipy.ndimage import gaussian_filter

    names = list(paths)
    greys = [
        np.asarray(Image.fromarray(decode(paths[n].read_bytes(), n)).convert("L"), dtype=np.float32) for n in names
    ]
    found: list[Overlap] = []
    shapes = Counter(grey.shape for grey in greys)
    if len(shapes) > 1:
        others = len(greys) - max(shapes.values())
        report(
            f"overlap search: images of {len(shapes)} sizes are compared within each size alone; {others} images have "
            "another than most: crop or pad them to one size if they may show one place"
        )
    for shape in sorted(shapes):
        chosen = [i for i, grey in enumerate(greys) if grey.shape == shape]
        factor = min(max(2, -(-max(shape) // _LONGEST)), *shape)
        small = np.stack([_reduced(greys[i], factor) for i in chosen])
        full = lru_cache(maxsize=2000)(lambda i: gaussian_filter(_standardised(greys[i], 9), 0.8))
        around = range(-factor, factor + 1)
        for c in _candidates(small, [frozenset(labels[names[i]]) for i in chosen], report):
            i, j = chosen[c.i], chosen[c.j]
            y, x = factor * c.dy, factor * c.dx
            match, dy, dx = max((_common(full(i), full(j), y + u, x + v), y + u, x + v) for u in around for v in around)
            down, right = 1 - abs(dy) / shape[0], 1 - abs(dx) / shape[1]
            figures = (round(n, 4) for n in (down * right, min(down, right), match, c.sharpness, c.significance))
            found.append(Overlap(names[i], names[j], dy, dx, *figures))
    return sorted(found, key=lambda pair: (-pair.correlation, pair.a, pair.b))


def overlapping(
    paths: Mapping[str, Path],
    labels: Mapping[str, Iterable[str]],
    *,
    report: Callable[[str], object] = lambda line: None,
) -> list[Overlap]:
    """The pairs of `overlap_candidates` that show the same place of the same part, strongest first."""
    return [pair for pair in overlap_candidates(paths, labels, report=report) if pair.same_place]

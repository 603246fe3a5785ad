"""Images that must not be on both sides of a split: near-duplicates, and crops that show the same place.

Near-duplicates are found by a perceptual hash of 255 bits: grey, reduced to 32x32 by area, DCT, the 16x16 lowest
frequencies without the mean, each compared with their median. Integers throughout, so that only a different JPEG
decoder could change a bit.

Overlapping crops are found by registration: the sign of each pixel against the mean of its neighbourhood, which knows
nothing of brightness or contrast, is correlated over all shifts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

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


def perceptual_hash(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The 255 bits of an RGB image (height, width, 3)."""
    grey = Image.fromarray(rgb).convert("L").resize((_GRID, _GRID), Image.Resampling.BOX)
    basis = _basis()
    spectrum = (basis @ np.asarray(grey, dtype=np.int64) @ basis.T).ravel()[1:]
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


OVERLAP_THRESHOLD = 0.45
"""Correlation of the signs in the common area from which two images show the same place; see `overlapping`."""

MIN_OVERLAP = 0.1
"""Smallest common area that is looked for, as a share of an image."""

_CANDIDATE = 0.25  # at half resolution, where an odd shift costs some of the correlation
_BATCH = 64


def _signs(grey: NDArray[np.int64], side: int) -> NDArray[np.int8]:
    """+1 and -1: each pixel against the mean of the `side` x `side` pixels around it (0 where equal)."""
    padded = np.pad(grey, side // 2, mode="edge")
    total = np.pad(padded.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    around = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    return np.sign(grey * side * side - around).astype(np.int8)


def _common(a: NDArray[np.int8], b: NDArray[np.int8], dy: int, dx: int) -> float:
    """Mean product of two sign maps where `a` at (y + dy, x + dx) lies over `b` at (y, x)."""
    h, w = a.shape
    part = a[max(dy, 0) : h + min(dy, 0), max(dx, 0) : w + min(dx, 0)]
    other = b[max(-dy, 0) : h + min(-dy, 0), max(-dx, 0) : w + min(-dx, 0)]
    return int((part * other).sum(dtype=np.int64)) / part.size if part.size else 0.0


def overlapping(
    paths: Mapping[str, Path],
    labels: Mapping[str, Iterable[str]],
    *,
    report: Callable[[str], object] = lambda line: None,
) -> list[tuple[str, str, float]]:
    """Pairs of images, of one size and with a class in common, that show the same place of the same part.

    Each pair is searched over all shifts that leave MIN_OVERLAP of the area in common, at half resolution, and what
    looks promising is decided at full resolution. On NEU-DET, crops of one strip correlate with 0.45 to 1 and
    unrelated images with less than 0.35; few pairs lie between. Quadratic in the number of images: minutes for 1,800.

    Returns:
        (name, name, correlation), strongest first.
    """
    import scipy.fft  # slow to import, and every fold list is read through `splits`

    names = list(paths)
    greys = [np.asarray(Image.fromarray(decode(paths[n].read_bytes(), n)).convert("L"), dtype=np.int64) for n in names]
    classes = [frozenset(labels[name]) for name in names]
    found: list[tuple[str, str, float]] = []
    for shape in sorted({grey.shape for grey in greys}):
        chosen = [i for i, grey in enumerate(greys) if grey.shape == shape]
        h, w = shape[0] // 2, shape[1] // 2
        full = {i: _signs(greys[i], 7) for i in chosen}
        half = np.stack([_signs(greys[i][: 2 * h, : 2 * w].reshape(h, 2, w, 2).sum((1, 3)), 5) for i in chosen]).astype(
            np.float32
        )
        spectra = scipy.fft.rfft2(half, (2 * h, 2 * w))
        down, right = (np.minimum(np.arange(2 * n), 2 * n - np.arange(2 * n)) for n in (h, w))
        area = np.outer(np.maximum(h - down, 0), np.maximum(w - right, 0))
        scale = np.where(area >= MIN_OVERLAP * h * w, 1.0 / np.maximum(area, 1), 0.0).astype(np.float32)
        for k, i in enumerate(chosen):
            if k % 300 == 299:
                report(f"overlap search: {k + 1} of {len(chosen)} images")
            others = [m for m in range(k + 1, len(chosen)) if classes[i] & classes[chosen[m]]]
            for start in range(0, len(others), _BATCH):
                batch = others[start : start + _BATCH]
                product = scipy.fft.irfft2(spectra[k] * np.conj(spectra[batch]), (2 * h, 2 * w)) * scale
                flat = product.reshape(len(batch), -1)
                best = flat.argmax(axis=1)
                for m, at, value in zip(batch, best.tolist(), flat.max(axis=1).tolist(), strict=True):
                    if value < _CANDIDATE:
                        continue
                    j = chosen[m]
                    y, x = divmod(at, 2 * w)
                    dy, dx = 2 * (y if y < h else y - 2 * h), 2 * (x if x < w else x - 2 * w)
                    match = max(_common(full[i], full[j], dy + u, dx + v) for u in range(-2, 3) for v in range(-2, 3))
                    if match >= OVERLAP_THRESHOLD:
                        found.append((names[i], names[j], round(match, 4)))
    return sorted(found, key=lambda pair: (-pair[2], pair[0], pair[1]))

"""Searches a split list for places that two folds show, by another method than the lists are made by.

    python -m tests.datasets.search_leaks neu_det neu_det-5fold-v2 --images 400

Shifts come from phase correlation of both gradients: frequencies are nearly evened out, so that stripes do not lead
along themselves. A shift is decided by blocks: 24 x 24 pixels of one image are looked for in the other within 6 pixels
of where they should be, and 35% must be found there, which chance does to 5%.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.datasets.images import decode
from benchmarks.datasets.prepared import PreparedDataset, ensure
from benchmarks.datasets.splits import load_split

LEAST_AREA = 0.2
PEAK = 7.5  # standard deviations over all shifts; two of a hundred pairs that have nothing in common reach it
BLOCK, REACH, LEAST_NCC, LEAST_SHARE = 24, 6, 0.3, 0.35


@dataclass(frozen=True)
class Leak:
    """Two images of different folds, the first at (y + dy, x + dx) over the second at (y, x)."""

    a: str
    b: str
    dy: int
    dx: int
    area: float
    found: float
    """Share of the blocks that are found where they should be."""


def _greys(data: PreparedDataset, names: Sequence[str], side: int) -> NDArray[np.float32]:
    """Grey values, reduced by a whole factor to at most `side` pixels (0: as they are)."""
    out = []
    for name in names:
        image = Image.fromarray(decode(data.path(name).read_bytes(), name)).convert("L")
        image = image.reduce(-(-max(image.size) // side)) if side else image
        out.append(np.asarray(image, dtype=np.float32))
    return np.stack(out)


def _spectra(small: NDArray[np.float32]) -> list[NDArray[np.complex64]]:
    """Of both gradients of maps (N, h, w): clipped, faded out at the borders, frequencies nearly evened out."""
    import scipy.fft

    _, h, w = small.shape
    fade = np.outer(*(np.minimum(1, np.minimum(np.arange(1, n + 1), np.arange(n, 0, -1)) / 8) for n in (h, w)))
    out = []
    for axis in (1, 2):
        slope = np.diff(small, axis=axis, append=np.take(small, [-1], axis=axis))
        slope = np.clip(slope / (slope.std((1, 2), keepdims=True) + 1e-6), -2, 2) * fade.astype(np.float32)
        spectrum = scipy.fft.rfft2(slope, (2 * h, 2 * w))
        size = np.abs(spectrum)
        out.append((spectrum / (size + 1e-3 * size.mean((1, 2), keepdims=True)) ** 0.7).astype(np.complex64))
    return out


def _ncc(block: NDArray[np.float32], field: NDArray[np.float32]) -> NDArray[np.float64]:
    """Normalised cross-correlation of a block with each place of a field."""
    windows = np.lib.stride_tricks.sliding_window_view(field.astype(np.float64), block.shape)
    target = (block - block.mean()).astype(np.float64)
    total, squares = np.einsum("yxij->yx", windows), np.einsum("yxij,yxij->yx", windows, windows)
    norm = np.sqrt(np.maximum(squares - total**2 / target.size, 0.0) * (target**2).sum()) + 1e-6
    return np.einsum("yxij,ij->yx", windows, target) / norm


def found_share(a: NDArray[np.float32], b: NDArray[np.float32], dy: int, dx: int) -> float:
    """Share of the blocks of `b` that lie best in `a`, within REACH, where a shift says, up to 2 pixels."""
    h, w = b.shape
    hits = total = 0
    votes = []
    for y in range(max(0, -dy) + REACH, min(h, h - dy) - BLOCK - REACH + 1, BLOCK):
        for x in range(max(0, -dx) + REACH, min(w, w - dx) - BLOCK - REACH + 1, BLOCK):
            top, left = y + dy - REACH, x + dx - REACH
            score = _ncc(
                b[y : y + BLOCK, x : x + BLOCK],
                a[top : top + BLOCK + 2 * REACH, left : left + BLOCK + 2 * REACH],
            )
            best = np.unravel_index(score.argmax(), score.shape)
            total += 1
            if score[best] >= LEAST_NCC:
                votes.append(best)
    if not votes:
        return 0.0
    # The shift is known to two pixels: the blocks agree on the rest.
    for centre in set(votes):
        near = sum(abs(v[0] - centre[0]) <= 1 and abs(v[1] - centre[1]) <= 1 for v in votes)
        if max(abs(int(centre[0]) - REACH), abs(int(centre[1]) - REACH)) <= 3:
            hits = max(hits, near)
    return hits / total


def search(
    data: PreparedDataset,
    fold_of: Mapping[str, int],
    images: int,
    report: Callable[[str], object] = lambda line: None,
) -> Iterator[Leak]:
    """Pairs of one class in different folds with more than LEAST_AREA in common, of `images` of the images with all."""
    import scipy.fft

    names = sorted(fold_of)
    classes = {name: frozenset(box["category_id"] for box in data.boxes(name)) for name in names}
    sample = sorted(names, key=lambda name: hashlib.sha256(f"leaks/{name}".encode()).hexdigest())[:images]
    small = _greys(data, names, 100)
    full = _greys(data, names, 0)
    factor = full.shape[1] // small.shape[1]
    _, h, w = small.shape
    down, right = (np.minimum(np.arange(2 * n), 2 * n - np.arange(2 * n)) for n in (h, w))
    common = np.outer(np.maximum(h - down, 0), np.maximum(w - right, 0))
    scale = np.where(common >= LEAST_AREA * h * w, 1 / np.sqrt(np.maximum(common, 1)), 0).astype(np.float32)
    spectra = _spectra(small)
    index = {name: i for i, name in enumerate(names)}
    done: set[str] = set()
    for count, name in enumerate(sample, start=1):
        done.add(name)
        i = index[name]
        others = [
            index[o] for o in names if fold_of[o] != fold_of[name] and classes[o] & classes[name] and o not in done
        ]
        for start in range(0, len(others), 16):
            batch = others[start : start + 16]
            product = sum(s[i] * np.conj(s[batch]) for s in spectra)
            maps = scipy.fft.irfft2(product, (2 * h, 2 * w)) * scale
            flat = maps.reshape(len(batch), -1)
            strong = np.nonzero(flat.max(1) > PEAK * flat.std(1))[0]
            for k in strong.tolist():
                y, x = divmod(int(flat[k].argmax()), 2 * w)
                dy, dx = factor * (y if y < h else y - 2 * h), factor * (x if x < w else x - 2 * w)
                share = found_share(full[i], full[batch[k]], dy, dx)
                if share >= LEAST_SHARE:
                    area = (1 - abs(dy) / full.shape[1]) * (1 - abs(dx) / full.shape[2])
                    yield Leak(name, names[batch[k]], dy, dx, round(area, 3), round(share, 3))
        if count % 10 == 0:
            report(f"{count} of {len(sample)} images")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("split")
    parser.add_argument("--images", type=int, default=400)
    given = parser.parse_args()
    data = ensure(given.dataset)
    fold_of = {name: fold for fold in range(5) for name in load_split(given.dataset, given.split, fold).test}
    found = list(search(data, fold_of, given.images, lambda line: print(line, flush=True)))
    for leak in found:
        print(leak)
    print(f"{given.split}: {len(found)} pairs of images in different folds show one place, of {given.images} images")


if __name__ == "__main__":
    main()

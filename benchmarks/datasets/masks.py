"""Boxes from masks: each 8-connected component of a class's mask becomes the box that just holds it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.datasets.sources import Box


def boxes(mask: NDArray[np.bool_], label: str) -> tuple[Box, ...]:
    """The boxes of a (height, width) mask, however small a component is; from top to bottom."""
    components, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    return tuple(
        Box(label, float(columns.start), float(rows.start), float(columns.stop), float(rows.stop))
        for rows, columns in ndimage.find_objects(components)
    )


def from_runs(runs: str, width: int, height: int) -> NDArray[np.bool_]:
    """The (height, width) mask of "start length start length ...", counted from 1 down the columns.

    ValueError for what is no such list, or leaves the image.
    """
    numbers = [int(field) for field in runs.split()]
    if len(numbers) % 2:
        raise ValueError("its last run has no length")
    mask = np.zeros(width * height, dtype=bool)
    for start, length in zip(numbers[0::2], numbers[1::2], strict=True):
        if start < 1 or length < 1 or start - 1 + length > mask.size:
            raise ValueError(f"run {start} {length} leaves the image of {width}x{height} pixels")
        mask[start - 1 : start - 1 + length] = True
    return mask.reshape((height, width), order="F")

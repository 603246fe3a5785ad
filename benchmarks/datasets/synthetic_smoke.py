"""`synthetic_smoke`: surfaces of `synthetic_small` cut to 64 px, with defects of two of its classes.

For suite `smoke`, whose models train in seconds: two defects in three are clear, so that a few steps find them; the
third is so faint that hardly any training does, which keeps accuracy away from 1, where nothing can get better. It
tells whether the code still works, not which model is better. The same bytes on every machine, as
`benchmarks.datasets.synthetic` makes them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.datasets import synthetic
from benchmarks.datasets.sources import Box, RawSample

CLASSES = ("pit", "ring_stain")
SIZE = 64
COUNT = 168
SEED = 20261127
CLEAR, FAINT = (55.0, 85.0), (5.0, 10.0)
"""Change of a pixel, in grey levels, where a defect changes it most."""
SURFACES = ("brushed", "cast", "blasted")


def render(index: int) -> tuple[NDArray[np.uint8], list[tuple[str, tuple[int, int, int, int]]]]:
    """Image `index`: (64, 64) grey levels, and per defect its class and box (x, y, width, height)."""
    stream = synthetic.Stream(SEED, index)
    surface = synthetic.make_surface(stream, SURFACES[index % len(SURFACES)])
    image = surface.image.copy()
    boxes: list[tuple[str, tuple[int, int, int, int]]] = []
    taken: list[tuple[int, int, int, int]] = []
    for _ in range(0 if index % 10 == 0 else 1 + stream.below(3)):
        label = CLASSES[stream.below(len(CLASSES))]
        delta = synthetic.MAKERS[label](stream, surface, 40.0, False)
        extent = synthetic.extent_of(delta)
        if extent is None or max(extent[2:]) > SIZE // 2:
            continue
        for _ in range(30):
            x, y = stream.below(SIZE - extent[2]), stream.below(SIZE - extent[3])
            box = (x, y, extent[2], extent[3])
            if synthetic.is_free(box, taken, SIZE):
                scale = stream.uniform(*(FAINT if stream.below(3) == 0 else CLEAR)) / float(np.abs(delta).max())
                synthetic.paste(image, delta * scale, x - extent[0], y - extent[1])
                boxes.append((label, box))
                taken.append(box)
                break
    image = synthetic.illuminate(stream, surface, image) + stream.noise(synthetic.SIZE, synthetic.SIZE) * 2.0
    cut = image[:SIZE, :SIZE]
    return np.minimum(np.maximum(np.rint(cut), 0.0), 255.0).astype(np.uint8), boxes


def read(source: None = None) -> Iterator[RawSample]:
    """All images, as `prepared` wants them; a tenth is without defects."""
    for index in range(COUNT):
        grey, found = render(index)
        boxes = tuple(Box(label, x, y, x + w, y + h) for label, (x, y, w, h) in found)
        name = f"part_{index:03d}.png"
        yield RawSample(name, synthetic.encode_png(grey), boxes, origin=name)

"""NEU-DET in its original layout: `IMAGES/*.jpg` and `ANNOTATIONS/*.xml`, one of each per image.

Files belong together by their stem: the `<filename>` inside 174 of the annotations lacks its extension. Corners are
taken as they stand (they start at 1 and end at 200, in images of 200 pixels).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from benchmarks.datasets import voc
from benchmarks.datasets.sources import Sample, Source
from benchmarks.errors import DataError


def read(source: Source) -> Iterator[Sample]:
    images: dict[str, str] = {}
    annotations: dict[str, str] = {}
    for name in source.names():
        path = PurePosixPath(name)
        kind = {".jpg": images, ".xml": annotations}.get(path.suffix.lower())
        if kind is None:
            continue
        if path.stem in kind:
            raise DataError(f"{source.where(name)}: a second file for {path.stem}, beside {kind[path.stem]}")
        kind[path.stem] = name
    if not images:
        raise DataError(f"{source.path}: no .jpg in it; NEU-DET has IMAGES/*.jpg and ANNOTATIONS/*.xml")
    for stem in sorted(images.keys() | annotations.keys()):
        if stem not in annotations:
            raise DataError(f"{source.where(images[stem])}: no annotation {stem}.xml for it in the source")
        if stem not in images:
            raise DataError(f"{source.where(annotations[stem])}: no image {stem}.jpg for it in the source")
        origin = source.where(annotations[stem])
        boxes = voc.parse(source.read(annotations[stem]), origin)
        yield Sample(f"{stem}.jpg", source.read(images[stem]), boxes, origin)

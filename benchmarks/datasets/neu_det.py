"""NEU-DET: one `.jpg` and one `.xml` per image, which belong together by their stem, in whatever folders.

So it reads the original layout (`IMAGES`, `ANNOTATIONS`) and the one that circulates, parted into train and validation
(`train/images/crazing/*.jpg`, `train/annotations/*.xml`); the parting is not official and is not used. The `<filename>`
inside 174 of the annotations lacks its extension. Corners are taken as they stand (they start at 1 and end at 200, in
images of 200 pixels).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from benchmarks.datasets.readers import voc_xml
from benchmarks.datasets.sources import RawSample, Source
from benchmarks.errors import DataError


def read(source: Source) -> Iterator[RawSample]:
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
        name = f"{stem}.jpg"
        if stem not in annotations:
            problem = (
                "missing_annotation",
                source.where(images[stem]),
                f"no annotation {stem}.xml for it in the source",
            )
            yield RawSample(name, source.read(images[stem]), (), source.where(images[stem]), (problem,))
            continue
        origin = source.where(annotations[stem])
        if stem not in images:
            yield RawSample(
                name, None, (), origin, (("missing_image", origin, f"no image {name} for it in the source"),)
            )
            continue
        read = voc_xml.parse(source.read(annotations[stem]), origin)
        yield RawSample(name, source.read(images[stem]), read.boxes, origin, read.problems, read.size)

"""Severstal: `train_images/*.jpg`, and a `train.csv` whose rows are the mask of one class in one image.

Columns are ImageId, ClassId and EncodedPixels, or ImageId_ClassId and EncodedPixels (the first edition, with empty
masks for classes that an image does not show). An image without a row is defect-free. `test_images` has no labels that
are public.
"""

from __future__ import annotations

import csv
import io
import posixpath
from collections import defaultdict
from collections.abc import Iterator

from benchmarks.datasets import masks
from benchmarks.datasets.images import size
from benchmarks.datasets.readers.base import Content, Problem
from benchmarks.datasets.sources import Box, RawSample, Source
from benchmarks.errors import DataError

CLASSES = {str(k): f"defect_{k}" for k in range(1, 5)}
Rows = dict[str, list[tuple[int, str, str]]]


def read(source: Source) -> Content:
    listed = [name for name in source.names() if posixpath.basename(name) == "train.csv"]
    if len(listed) != 1:
        raise DataError(f"{source.path}: {len(listed)} files are called train.csv, Severstal has one")
    images = {posixpath.basename(name): name for name in source.names() if name.lower().endswith(".jpg")}
    rows = _rows(source, listed[0])

    def samples() -> Iterator[RawSample]:
        where = source.where(listed[0])
        for name in sorted(images.keys() | rows.keys()):
            if name not in images:
                yield RawSample(
                    name, None, (), where, (("missing_image", where, f"image {name!r} is not in the source"),)
                )
                continue
            data = source.read(images[name])
            boxes, problems = _boxes(rows[name], data, where) if name in rows else ((), ())
            yield RawSample(name, data, boxes, where, problems)

    return Content(tuple(CLASSES.values()), samples())


def _rows(source: Source, name: str) -> Rows:
    """Line number, class and runs of each row with a mask, by image."""
    where = source.where(name)
    try:
        reader = csv.DictReader(io.StringIO(source.read(name).decode("utf-8-sig")), strict=True)
        fields = set(reader.fieldnames or ())
        joined = "ImageId_ClassId" in fields
        if not {"EncodedPixels"} | ({"ImageId_ClassId"} if joined else {"ImageId", "ClassId"}) <= fields:
            raise DataError(f"{where}: it has no columns ImageId, ClassId, EncodedPixels; replace the file")
        rows: Rows = defaultdict(list)
        for row in reader:
            cells = {key: cell or "" for key, cell in row.items() if key}
            image, label = cells.get("ImageId", ""), cells.get("ClassId", "")
            if joined:
                image, _, label = cells["ImageId_ClassId"].rpartition("_")
            if runs := cells["EncodedPixels"].strip():
                rows[image].append((reader.line_num, label, runs))
        return dict(rows)
    except (UnicodeDecodeError, csv.Error) as e:
        raise DataError(f"{where}: not a table of UTF-8 text ({e}); replace the file") from None


def _boxes(rows: list[tuple[int, str, str]], data: bytes, where: str) -> tuple[tuple[Box, ...], tuple[Problem, ...]]:
    boxes: list[Box] = []
    problems: list[Problem] = []
    try:
        width, height = size(data, where)
    except DataError:
        return (), ()  # told when it is decoded
    for line, label, runs in rows:
        if label not in CLASSES:
            problems.append(("unknown_class", where, f"line {line} has class {label!r}, not 1 to {len(CLASSES)}"))
            continue
        try:
            boxes.extend(masks.boxes(masks.from_runs(runs, width, height), CLASSES[label]))
        except ValueError as e:
            problems.append(("bad_object", where, f"line {line}: {e}"))
    return tuple(boxes), tuple(problems)

"""DAGM 2007 in both layouts. A texture has one kind of defect, so its folder, `Class1` to `Class10`, is the class.

- `Class1/Train/0576.PNG`, and its mask `Class1/Train/Label/0576_label.PNG` where it has a defect; the same in `Test`.
  `Label/Labels.txt` lists all images, `number defect image 0 mask`, 0 for none: so a mask that got lost is noticed.
- The first edition: `Class1/1.png` is defect-free, `Class1_def/1.png` has a defect, whose ellipse is a line of
  `Class1_def/labels.txt`: number of the image, semi-axes, angle in radians, centre.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from benchmarks.datasets import masks
from benchmarks.datasets.images import values
from benchmarks.datasets.readers.base import IMAGE_SUFFIXES, Content, Problem
from benchmarks.datasets.sources import Box, RawSample, Source
from benchmarks.errors import DataError

CLASSES = tuple(f"Class{k}" for k in range(1, 11))
_FOLDER = re.compile(r"(Class(?:10|[1-9]))(_def)?")
Labels = tuple[tuple[Box, ...], tuple[Problem, ...]]


def read(source: Source) -> Content:
    files = set(source.names())
    images = {}
    for name in sorted(files):
        parts = PurePosixPath(name).parts
        if not name.lower().endswith(IMAGE_SUFFIXES) or "Label" in parts:
            continue
        at = next((i for i in range(len(parts) - 2, -1, -1) if _FOLDER.fullmatch(parts[i])), None)
        if at is not None:
            images[name] = "/".join(parts[at:])
    if not images:
        raise DataError(f"{source.path}: no image in a folder Class1 to Class10 (or Class1_def ...) in it")

    def samples() -> Iterator[RawSample]:
        lists: dict[str, dict[str, list[str]]] = {}
        for name, short in images.items():
            folder = posixpath.dirname(name)
            found = _FOLDER.fullmatch(short.split("/")[0])
            assert found is not None
            label, ellipses = found.group(1), bool(found.group(2))
            listed = posixpath.join(folder, "labels.txt" if ellipses else "Label/Labels.txt")
            if listed in files and listed not in lists:
                lists[listed] = _lines(source, listed, 0 if ellipses else 2)
            stated = lists.get(listed, {})
            if ellipses:
                origin = source.where(listed)
                boxes, problems = _ellipse(stated, PurePosixPath(name).stem, label, origin)
            else:
                boxes, problems, origin = _mask(source, files, stated, name, label)
            yield RawSample(short, source.read(name), boxes, origin, problems)

    return Content(CLASSES, samples())


def _lines(source: Source, name: str, key: int) -> dict[str, list[str]]:
    """The fields of each line, by field `key`."""
    text = source.read(name).decode("utf-8", errors="replace")
    return {fields[key]: fields for line in text.splitlines() if len(fields := line.split()) > key}


def _ellipse(stated: Mapping[str, list[str]], number: str, label: str, where: str) -> Labels:
    """The box of the ellipse of image `number`."""
    if number not in stated:
        return (), (("missing_annotation", where, f"no line for image {number}"),)
    try:
        a, b, angle, x, y = (float(field) for field in stated[number][1:])
    except ValueError:
        return (), (("bad_object", where, f"the line of image {number} is not a number and an ellipse"),)
    w = math.hypot(a * math.cos(angle), b * math.sin(angle)) if math.isfinite(angle) else math.nan
    h = math.hypot(a * math.sin(angle), b * math.cos(angle)) if math.isfinite(angle) else math.nan
    return (Box(label, x - w, y - h, x + w, y + h),), ()


def _mask(
    source: Source, files: set[str], stated: Mapping[str, list[str]], name: str, label: str
) -> tuple[tuple[Box, ...], tuple[Problem, ...], str]:
    """The boxes of an image's mask, what is wrong with it, and the file that says so."""
    path = PurePosixPath(name)
    mask = posixpath.join(path.parent.as_posix(), "Label", f"{path.stem}_label{path.suffix}")
    if mask not in files:
        where = source.where(name)
        fields = stated.get(path.name, [])
        if len(fields) > 4 and fields[4] != "0":
            return (), (("missing_annotation", where, f"its mask {fields[4]} is not in the source"),), where
        return (), (), where
    where = source.where(mask)
    try:
        pixels = values(source.read(mask), where)
    except DataError as e:
        return (), (("bad_annotation", where, str(e).removeprefix(f"{where}: ")),), where
    boxes = masks.boxes(pixels > 0, label)
    return boxes, () if boxes else (("bad_object", where, "its mask is empty"),), where

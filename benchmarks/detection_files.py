"""Detections from other people's tools: COCO results (one JSON), or YOLO txt files with scores. Torch-free."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.datasets.prepared import PreparedDataset
from benchmarks.errors import DataError, RequestError
from benchmarks.store import Detections

OUTSIDE_PX = 1.0
"""How far a box may reach over the border of its image, in pixels: rounding does that, other coordinates do more."""

_Row = tuple[str, tuple[float, float, float, float], float, int]
"""Image, box as x1 y1 x2 y2 in pixels, score, label from 1."""


@dataclass(frozen=True)
class Read:
    """Detections of the images asked for, and how many the file has of the set's other images."""

    detections: Detections
    elsewhere: int

    def notes(self, per_image: int) -> list[str]:
        """What a reader of the numbers must know, a line each."""
        out = []
        if self.elsewhere:
            out.append(f"left out: {self.elsewhere} detections of images that are not in this part of the split")
        over = int((np.diff(self.detections.offsets) - per_image).clip(min=0).sum())
        if over:
            out.append(f"left out: {over} detections beyond the best {per_image} of their image")
        return out


def read(path: Path, data: PreparedDataset, file_names: Sequence[str]) -> Read:
    """Detections of some images of a data set, not rounded; images that the file does not name have none.

    A `.json` file is a list of `{"image_id", "category_id", "bbox": [x, y, width, height], "score"}` in pixels of the
    images as given; `image_id` is the id in the set's annotations.json, or a file name, with or without its suffix;
    categories count from 1. A folder holds `<image>.txt` with lines `class cx cy width height score`, as fractions of
    the image; classes count from 0.

    Raises:
        RequestError: no such file, or neither kind.
        DataError: an unknown image or class, a box outside its image, or no detection of any of `file_names`.
    """
    if not path.exists():
        raise RequestError(f"there is no {path}")
    if path.is_dir():
        rows = list(_yolo(path, data))
    elif path.suffix.lower() == ".json":
        rows = list(_coco(path, data))
    else:
        raise RequestError(f"{path} is neither a .json file (COCO results) nor a folder (YOLO txt files)")
    found: dict[str, list[_Row]] = {name: [] for name in file_names}
    elsewhere = 0
    for row in rows:
        if row[0] in found:
            found[row[0]].append(row)
        else:
            elsewhere += 1
    if not any(found.values()):
        what = f"only of {elsewhere} others" if elsewhere else "of none at all"
        raise DataError(
            f"{path} has no detection of the {len(found)} images to evaluate, {what}; "
            "are --split and --fold the right ones?"
        )
    kept = [row for name in file_names for row in found[name]]
    counts = [len(found[name]) for name in file_names]
    detections = Detections(
        tuple(file_names),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        np.array([row[1] for row in kept], dtype=np.float64).reshape(-1, 4),
        np.array([row[2] for row in kept], dtype=np.float64),
        np.array([row[3] for row in kept], dtype=np.int64),
    )
    return Read(detections, elsewhere)


def _stems(data: PreparedDataset) -> dict[str, str]:
    """File name by stem, for stems that stand for one image."""
    out: dict[str, str] = {}
    twice = set()
    for image in data.images:
        stem = str(Path(image["file_name"]).with_suffix(""))
        if stem in out:
            twice.add(stem)
        out[stem] = image["file_name"]
    return {stem: name for stem, name in out.items() if stem not in twice}


def _coco(path: Path, data: PreparedDataset) -> Iterator[_Row]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as e:
        raise DataError(f"{path} is not readable as JSON: {' '.join(str(e).split())}") from None
    if not isinstance(content, list):
        raise DataError(
            f"{path} is not a list of detections; COCO results are [{{image_id, category_id, bbox, score}}]"
        )
    by_id: dict[Any, str] = {image["id"]: image["file_name"] for image in data.images}
    by_id |= _stems(data) | {image["file_name"]: image["file_name"] for image in data.images}
    k = len(data.classes)
    for i, entry in enumerate(content):
        where = f"{path}, entry {i}"
        if not isinstance(entry, dict) or not {"image_id", "category_id", "bbox", "score"} <= set(entry):
            raise DataError(f"{where}: not an object with image_id, category_id, bbox and score")
        image_id, category = entry["image_id"], entry["category_id"]
        if isinstance(image_id, bool) or not isinstance(image_id, (int, str)) or image_id not in by_id:
            raise DataError(
                f"{where}: {data.name} has no image {image_id!r}; "
                f"image_id is an id of {data.root / 'annotations.json'}, or a file name"
            )
        if isinstance(category, bool) or not isinstance(category, int) or not 1 <= category <= k:
            raise DataError(f"{where}: category_id {category!r} is not of 1 to {k} ({', '.join(data.classes)})")
        box = entry["bbox"]
        if not isinstance(box, list) or len(box) != 4 or not all(_is_number(v) for v in box):
            raise DataError(f"{where}: bbox is not four finite numbers, x y width height")
        x, y, w, h = (float(v) for v in box)
        yield _checked(data, where, by_id[image_id], (x, y, x + w, y + h), entry["score"], category)


def _yolo(folder: Path, data: PreparedDataset) -> Iterator[_Row]:
    files = sorted(folder.rglob("*.txt"))
    if not files:
        raise DataError(f"{folder} holds no .txt file; YOLO's predictions lie in the folder labels/ of a run")
    stems = _stems(data)
    k = len(data.classes)
    for file in files:
        stem = str(file.relative_to(folder).with_suffix(""))
        if stem not in stems:
            raise DataError(f"{file}: {data.name} has no image {stem!r}")
        image = data.image(stems[stem])
        width, height = image["width"], image["height"]
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise DataError(f"{file} is not text") from None
        for number, line in enumerate(lines, start=1):
            where = f"{file}, line {number}"
            fields = line.split()
            if not fields:
                continue
            if len(fields) != 6:
                raise DataError(
                    f"{where}: {len(fields)} fields, not class cx cy width height score; "
                    "with ultralytics, save_conf=True writes the score"
                )
            try:
                label, values = int(fields[0]), [float(f) for f in fields[1:]]
            except ValueError:
                raise DataError(f"{where}: not a class and five numbers: {line[:60]!r}") from None
            if not 0 <= label < k:
                raise DataError(f"{where}: class {label} is not of 0 to {k - 1} ({', '.join(data.classes)})")
            if not all(math.isfinite(v) for v in values):
                raise DataError(f"{where}: a number is not finite")
            cx, cy, w, h = values[0] * width, values[1] * height, values[2] * width, values[3] * height
            box = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
            yield _checked(data, where, image["file_name"], box, values[4], label + 1)


def _checked(
    data: PreparedDataset, where: str, name: str, box: tuple[float, float, float, float], score: Any, label: int
) -> _Row:
    """The row, when its box lies in its image and its score in [0, 1]."""
    if not _is_number(score) or not 0 <= score <= 1:
        raise DataError(f"{where}: score {score!r} is not in [0, 1]")
    image = data.image(name)
    width, height = image["width"], image["height"]
    x1, y1, x2, y2 = box
    if x2 < x1 or y2 < y1:
        raise DataError(f"{where}: the box has a negative width or height")
    if x1 < -OUTSIDE_PX or y1 < -OUTSIDE_PX or x2 > width + OUTSIDE_PX or y2 > height + OUTSIDE_PX:
        raise DataError(
            f"{where}: the box {x1:g} {y1:g} to {x2:g} {y2:g} lies outside of {name}, {width} x {height}; boxes are in "
            "pixels of the images as given (YOLO: fractions), clipped to them"
        )
    return name, box, float(score), label


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

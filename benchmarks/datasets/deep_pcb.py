"""DeepPCB in its original layout: `PCBData/trainval.txt` and `test.txt` list images and their box files.

The tested image of `group00041/00041/00041000.jpg` is `00041000_test.jpg`, its defect-free template
`00041000_temp.jpg`. A line of the box file is `x1 y1 x2 y2 type`. The templates of the test images are part of the set
as `templates/00041000.jpg`, without boxes; fold lists leave them out.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Any

from benchmarks.datasets.prepared import PreparedDataset
from benchmarks.datasets.sources import Box, RawSample, Source
from benchmarks.datasets.splits import make_grouped
from benchmarks.errors import DataError

TYPES = {1: "open", 2: "short", 3: "mousebite", 4: "spur", 5: "copper", 6: "pin-hole"}
TEMPLATES = "templates/"
OFFICIAL_TRAIN = 1000  # the images come in the order of the official lists


def read(source: Source) -> Iterator[RawSample]:
    known = set(source.names())
    for part in ("trainval", "test"):
        for image, text in official(source, part):
            name = posixpath.basename(image)
            tested = image.removesuffix(".jpg") + "_test.jpg"
            if text not in known:
                where = source.where(tested)
                problem = ("missing_annotation", where, f"{posixpath.basename(text)} is not in the source")
                yield RawSample(name, source.read(tested) if tested in known else None, (), where, (problem,))
                continue
            origin = source.where(text)
            if tested not in known:
                problem = ("missing_image", origin, f"{posixpath.basename(tested)} is not in the source")
                yield RawSample(name, None, (), origin, (problem,))
                continue
            boxes, problems = _boxes(source.read(text), origin)
            yield RawSample(name, source.read(tested), boxes, origin, problems)
    for image, _ in official(source, "test"):
        template = image.removesuffix(".jpg") + "_temp.jpg"
        name = TEMPLATES + posixpath.basename(image)
        origin = source.where(template)
        if template in known:
            yield RawSample(name, source.read(template), (), origin)
        else:
            yield RawSample(name, None, (), origin, (("missing_image", origin, "the template is not in the source"),))


def official(source: Source, part: str) -> list[tuple[str, str]]:
    """Image and box file of each line of an official list, as names in the source."""
    found = [name for name in source.names() if posixpath.basename(name) == f"{part}.txt"]
    if len(found) != 1:
        raise DataError(f"{source.path}: {len(found)} files are called {part}.txt, DeepPCB has one")
    base, pairs = posixpath.dirname(found[0]), []
    text = source.read(found[0]).decode("utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if len(fields) != 2 or not fields[0].endswith(".jpg") or not fields[1].endswith(".txt"):
            raise DataError(f"{source.where(found[0])}: line {number} is not an image and a box file: {line[:60]!r}")
        pairs.append((posixpath.join(base, fields[0]), posixpath.join(base, fields[1])))
    return pairs


def _boxes(data: bytes, where: str) -> tuple[tuple[Box, ...], tuple[tuple[str, str, str], ...]]:
    boxes, problems = [], []
    for number, line in enumerate(data.decode("utf-8", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            x1, y1, x2, y2, kind = (int(field) for field in line.split())
        except ValueError:
            problems.append(("bad_object", where, f"line {number} is not five whole numbers: {line[:60]!r}"))
            continue
        if kind in TYPES:
            boxes.append(Box(TYPES[kind], x1, y1, x2, y2))
        else:
            problems.append(("unknown_class", where, f"line {number} has type {kind}, not 1 to {len(TYPES)}"))
    return tuple(boxes), tuple(problems)


def board(file_name: str) -> str:
    """The board that an image shows a part of: the first five digits of its name."""
    return file_name.removeprefix(TEMPLATES)[:5]


def lists(data: PreparedDataset) -> dict[str, dict[str, Any]]:
    """The official list, folds that hold whole boards out, and the templates alone.

    All seven boards that the official list trains on are in its test part again.
    """
    tested = [image["file_name"] for image in data.images if not image["file_name"].startswith(TEMPLATES)]
    templates = [image["file_name"] for image in data.images if image["file_name"].startswith(TEMPLATES)]

    def fixed(train: list[str], test: list[str]) -> dict[str, Any]:
        return {"schema": 1, "dataset": data.name, "parts": {"train": train, "val": [], "test": test}}

    return {
        "deep_pcb-official-v1": fixed(tested[:OFFICIAL_TRAIN], tested[OFFICIAL_TRAIN:]),
        "deep_pcb-boards-v1": make_grouped(data, board),
        "deep_pcb-templates-v1": fixed([], templates),
    }

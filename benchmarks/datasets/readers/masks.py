"""Images and masks of the same name; each 8-connected component of a mask becomes a box."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np

from benchmarks.datasets import masks
from benchmarks.datasets.images import shades, values
from benchmarks.datasets.readers.base import (
    PARTS,
    Content,
    Names,
    Pairing,
    Problem,
    Tell,
    folders,
    images_of,
    key,
    listed_classes,
)
from benchmarks.datasets.sources import Box, RawSample, Source
from benchmarks.errors import DataError

FOLDERS = ("masks", "mask", "labels", "label", "annotations", "ground_truth", "gt", "segmentationclass")
SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
_ENDINGS = ("_mask", "_label", "_gt", "_segmentation")
_GROUND = ("background", "_background_", "__background__")
_GOOD = ("good", "ok", "normal", "defect_free")
_ANOMALY = "ground_truth"
"""The folder of masks in the layout of MVTec AD: a folder below it for each kind of defect."""


def is_mask(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and any(key(part) in FOLDERS for part in path.parts[:-1])


def is_anomaly(source: Source) -> bool:
    """Whether masks lie as in MVTec AD: `ground_truth/<kind>/000_mask.png` beside `test/<kind>/000.png`."""
    names = source.names()
    return any(is_mask(n) and _ANOMALY in map(key, PurePosixPath(n).parts) for n in names) and any(
        "test" in map(key, PurePosixPath(n).parts) and not is_mask(n) for n in names
    )


def _below(mask: str) -> list[str]:
    """The folders of a mask below the folder of masks."""
    parts = PurePosixPath(mask).parts[:-1]
    at = max(i for i, part in enumerate(parts) if key(part) in FOLDERS)
    return list(parts[at + 1 :])


def _stem(mask: str) -> str:
    """The stem of the image that a mask is of."""
    path = PurePosixPath(mask)
    ending = next((e for e in _ENDINGS if key(path.stem).endswith(e)), "")
    return path.stem[: len(path.stem) - len(ending)]


def read(source: Source, tell: Tell) -> Content:
    """Masks in a folder called `masks`, `labels`, `ground_truth` or the like, also several of one image.

    With a `classes.txt`, a class in each line, value k of a mask is class k. Without, all above 0 is a defect, of the
    class that the folder of the mask is called, where there are several or the layout is MVTec AD's; else `defect`.
    """
    found = [name for name in source.names() if is_mask(name)]
    if not found:
        raise DataError(f"{source.path}: no mask in it, a .png or .bmp in a folder called {' or '.join(FOLDERS)}")
    taken = set(found)
    beside = {PurePosixPath(mask).parent for mask in found}
    for name in images_of(source):
        if name not in taken and PurePosixPath(name).parent in beside:
            detail = f"it lies among masks, which are {', '.join(SUFFIXES)}: the values of others are not exact"
            tell("unread_image", source.where(name), detail)
            taken.add(name)
    names = Names(source, [name for name in images_of(source) if name not in taken])
    pairing = Pairing(found, names.all)
    owner: dict[str, list[str]] = defaultdict(list)
    homeless: list[str] = []
    for mask in found:
        image = _owner(mask, names, pairing)
        owner[image].append(mask) if image else homeless.append(mask)
    listed = _listed(source)
    kinds = {} if listed else _kinds(source, found, names, owner, tell)
    classes = listed or tuple(dict.fromkeys(kinds.get(mask, "defect") for mask in found))

    def samples() -> Iterator[RawSample]:
        for image in names.all:
            data = source.read(image)
            if not owner[image]:
                where = source.where(image)
                good = bool(kinds) and key(PurePosixPath(image).parent.name) in _GOOD
                problem = ("missing_annotation", where, f"no mask {PurePosixPath(image).stem}.png for it in the source")
                yield RawSample(names.short(image), data, (), where, () if good else (problem,))
                continue
            boxes: list[Box] = []
            problems: list[Problem] = []
            sizes = set()
            for mask in owner[image]:
                some, wrong, size = _boxes(source, mask, listed, kinds.get(mask, "defect"))
                boxes += some
                problems += wrong
                sizes |= {size} if size else set()
            origin = source.where(owner[image][0])
            if len(sizes) > 1:
                problems.append(("bad_annotation", origin, f"the masks of {image} differ in size"))
            size = sizes.pop() if sizes else None
            yield RawSample(names.short(image), data, tuple(boxes), origin, tuple(problems), size, measured=True)
        for mask in homeless:
            where = source.where(mask)
            stem = _stem(mask)
            problem = ("missing_image", where, f"no image {stem} for it in the source, or more than one")
            yield RawSample(stem, None, (), where, (problem,))

    return Content(classes, samples())


def _owner(mask: str, names: Names, pairing: Pairing) -> str | None:
    """The image of a mask; None where its name and folders leave none, or more than one."""
    path = PurePosixPath(mask)
    for stem in dict.fromkeys((path.stem, _stem(mask))):
        images = pairing.of(mask, names.of_stem(stem))
        if len(images) == 1:
            return images[0]
        # Of several, the one whose folder is called as the mask's: test/spot for ground_truth/spot, not train/spot.
        near = [i for i in images if _below(mask) and key(PurePosixPath(i).parent.name) == key(_below(mask)[-1])]
        if len(near) == 1:
            return near[0]
        if len(near) > 1 and len(in_test := [i for i in near if "test" in map(key, PurePosixPath(i).parts)]) == 1:
            return in_test[0]
    # MVTec LOCO: the masks of an image in a folder of its name, ground_truth/kind/000/000.png.
    if len(_below(mask)) > 1:
        return _owner(str(path.parent.parent / f"{path.parent.name}{path.suffix}"), names, pairing)
    return None


def _kinds(source: Source, found: list[str], names: Names, owner: dict[str, list[str]], tell: Tell) -> dict[str, str]:
    """Mask -> class by its folder, where folders are kinds of defect; else nothing."""
    folder = {mask: _kind(mask) for mask in found}
    apart = {key(label) for label in folder.values() if label}
    anomaly = any(_ANOMALY in map(key, PurePosixPath(mask).parts) and folder[mask] for mask in found)
    several = any(len({folder[mask] for mask in masks_of}) > 1 for masks_of in owner.values())
    if not (anomaly or several):
        if len(apart) < 2:
            return {}
        if apart & {part for image in names.all for part in folders(image)}:  # `images/cut` may be a kind, or a place
            detail = f"folders {', '.join(sorted(apart))}"
            if tell("mask_folders", source.where(found[0]), detail) != "fix":
                return {}
    return {mask: label or "defect" for mask, label in folder.items()}


def _kind(mask: str) -> str:
    """The kind of defect that the folders of a mask state; "" where they only part the set."""
    below = [part for part in _below(mask) if key(part) not in PARTS]
    if len(below) > 1 and key(below[-1]) == key(_stem(mask)):
        below.pop()
    if len(below) > 1 and below[-1].isdigit():  # MVTec LOCO
        below.pop()
    return below[-1] if below else ""


def _listed(source: Source) -> tuple[str, ...]:
    """The classes of `classes.txt`; none without it."""
    files = [name for name in source.names() if key(posixpath.basename(name)) == "classes.txt"]
    if not files:
        return ()
    classes = tuple(listed_classes(source, files[0]))
    if not classes or len(set(classes)) != len(classes):
        raise DataError(f"{source.where(files[0])}: it is empty or repeats a class; correct the file")
    if key(classes[0]) in _GROUND:  # lists that count from 0 have it: each class would be taken for the one before it
        raise DataError(
            f"{source.where(files[0])}: its first line is {classes[0]!r}, which value 0 is already; value k is line k: "
            "leave that line out"
        )
    return classes


def _boxes(
    source: Source, name: str, listed: tuple[str, ...], label: str
) -> tuple[tuple[Box, ...], tuple[Problem, ...], tuple[int, int] | None]:
    """Boxes, what is wrong, and the width and height of a mask."""
    where = source.where(name)
    try:
        mask = values(source.read(name), where) if listed else shades(source.read(name), where)
    except DataError as e:
        return (), (("bad_annotation", where, str(e).removeprefix(f"{where}: ")),), None
    size = (mask.shape[1], mask.shape[0])
    if not listed:
        return masks.boxes(mask > 0, label), (), size
    boxes = [box for k, of_class in enumerate(listed, start=1) for box in masks.boxes(mask == k, of_class)]
    beyond = sorted(int(v) for v in np.unique(mask) if not 0 <= v <= len(listed))
    problems = tuple(
        ("unknown_class", where, f"it has the value {v}, classes.txt ends at {len(listed)}") for v in beyond[:10]
    )
    return tuple(boxes), problems, size

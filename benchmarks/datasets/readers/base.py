"""What all readers share: what they return, which images they know, and how annotations and images are paired."""

from __future__ import annotations

import json
import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from benchmarks.datasets.sources import RawSample, Source
from benchmarks.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp")
UNREAD_SUFFIXES = (
    *(".gif", ".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".pgm", ".ppm", ".pnm", ".exr", ".psd", ".mpo"),
    *(".dcm", ".dicom", ".dng", ".cr2", ".nef", ".arw", ".raw", ".svg", ".tga"),
)
"""Images in formats that are not read."""

PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"} | dict.fromkeys(
    ("test", "testing"), "test"
)
"""What a folder, a file or a key may call a part of a set -> train, val or test."""

Problem = tuple[str, str, str]
"""A finding as a reader tells it: kind, file, detail."""
Tell = Callable[[str, str, str], str]
"""Takes a finding that belongs to no image; returns what is to be done about it."""


@dataclass(frozen=True)
class Content:
    """A set as a format tells it: class names in its order, and the samples, read as they are asked for."""

    classes: tuple[str, ...]
    samples: Iterator[RawSample]
    source_ids: Mapping[str, int | str | None] = field(default_factory=dict)
    """The source's own ids of classes, where it has any; None where its files do not agree on one."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """Image -> train, val or test, as the source itself parts the set; empty where it does not."""


def key(name: str) -> str:
    """A name as it is compared: systems differ in capitals, and in how they compose accents."""
    return unicodedata.normalize("NFC", name).casefold()


def images_of(source: Source) -> list[str]:
    return [name for name in source.names() if name.lower().endswith(IMAGE_SUFFIXES)]


def listed_classes(source: Source, name: str) -> list[str]:
    """The classes of a file with one in each line. DataError where one before the last is blank: it has a number."""
    lines = [line.strip() for line in source.read(name).decode("utf-8-sig", errors="replace").splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if "" in lines:
        raise DataError(
            f"{source.where(name)}: line {lines.index('') + 1} is blank, and classes are numbered by their lines; name "
            "the class or remove the line"
        )
    return lines


def load_json(source: Source, name: str) -> Any:
    try:
        return json.loads(source.read(name))
    except (ValueError, RecursionError) as e:
        raise DataError(f"{source.where(name)}: not JSON ({e}); replace the file") from None


def folders(name: str) -> list[str]:
    """The folders of a path, as they are compared."""
    return [key(part) for part in PurePosixPath(name).parts[:-1]]


_ROLES = frozenset(
    [
        "images",
        "image",
        "imgs",
        "img",
        "jpegimages",
        "jpg",
        "jpeg",
        "png",
        "photos",
        "pictures",
        "rgb",
        "frames",
        "raw",
        "annotations",
        "annotation",
        "annots",
        "anno",
        "xml",
        "xmls",
        "labels",
        "label",
        "lable",
        "voc",
        "ann",
        "json",
        "coco",
        "yolo",
        "masks",
        "mask",
        "ground_truth",
        "groundtruth",
        "gt",
        "segmentationclass",
        "segmentation",
    ]
)
"""Folders that say what a file is, not which images it is about."""


def stated(parts: Sequence[str]) -> list[str]:
    """The folders that say which images these are."""
    return [part for part in parts if part not in _ROLES]


class Names:
    """Finds images by what annotations call them, and gives them short names: their path below what all share."""

    def __init__(self, source: Source, images: Iterable[str] | None = None) -> None:
        self.all = images_of(source) if images is None else list(images)
        dirs = [posixpath.dirname(name) for name in self.all]
        self.base = posixpath.commonpath(dirs) if dirs and all(dirs) else ""
        self._by_key: dict[str, list[str]] = defaultdict(list)
        self._by_base: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for name in self.all:
            self._by_key[key(name)].append(name)
            self._by_base[key(posixpath.basename(name))].append(name)
            self._by_stem[key(PurePosixPath(name).stem)].append(name)
        self._folder_names = {part for name in self.all for part in stated(folders(name))}
        self._one_folder = len(set(dirs)) < 2

    def short(self, name: str) -> str:
        return posixpath.relpath(name, self.base) if self.base else name

    def at(self, path: str) -> str | None:
        """The image at a path, whatever its capitals and accents are made of."""
        path = posixpath.normpath(path)
        same = self._by_key.get(key(path), [])
        return path if path in same else same[0] if len(same) == 1 else None

    def below(self, folder: str) -> list[str]:
        """The images in a folder and its folders."""
        start = "" if folder in ("", ".") else key(folder).rstrip("/") + "/"
        return [name for name in self.all if key(name).startswith(start)]

    def of_stem(self, stem: str) -> list[str]:
        return self._by_stem.get(key(stem), [])

    def find(self, wanted: str, beside: str) -> str | None:
        """The image that an annotation in folder `beside` calls `wanted`; None for none, or more than one.

        A folder that `wanted` states must agree with the image's; where it states none, that of the annotation must, if
        images lie in folders of that name.
        """
        wanted = wanted.replace("\\", "/")
        for folder in (beside, posixpath.dirname(beside), posixpath.join(beside, "images"), self.base, ""):
            if (there := self.at(posixpath.join(folder, wanted))) is not None:
                return there
        end = key("/" + wanted.lstrip("./"))
        tail = [name for name in self.all if key(name).endswith(end)]
        if tail:
            agrees = bool(stated(folders(wanted))) or self._is_near(tail[0], beside)
            return tail[0] if len(tail) == 1 and agrees else None
        said = stated([p for p in folders(wanted) if p not in (".", "..", "/")])
        absolute = wanted.startswith("/") or wanted[1:3] == ":/"
        same = [n for n in self._by_base.get(key(posixpath.basename(wanted)), []) if self._agrees(said, n, absolute)]
        return same[0] if len(same) == 1 else None

    def _is_near(self, image: str, beside: str) -> bool:
        """Whether an image lies in each of an annotation's folders that images lie in: in `train`, not in `valid`."""
        said = set(stated(folders(f"{beside}/_")))
        return not (said & self._folder_names) - set(folders(image))

    def _agrees(self, said: list[str], image: str, absolute: bool) -> bool:
        """Whether the folders said of an image may be those of this one."""
        have = stated(folders(image))
        for a, b in zip(reversed(said), reversed(have), strict=False):
            if a != b:
                # Folders of the machine on which it was labelled say nothing, unless there is a choice here.
                known = a in self._folder_names
                return not known and (said[-1] == have[-1] or (absolute and self._one_folder))
        return not said or bool(have) or said[-1] not in self._folder_names


class Pairing:
    """Which images the folders of an annotation allow, where names alone would pair them.

    Args:
        annotations: paths of all annotation files.
        images: paths of all images.
    """

    def __init__(self, annotations: Iterable[str], images: Iterable[str]) -> None:
        sides = [{part for name in names for part in stated(folders(name))} for names in (annotations, images)]
        self._both = sides[0] & sides[1]

    def of(self, annotation: str, images: Sequence[str]) -> list[str]:
        """Those of several images of one stem that agree; the closest alone, if it is one."""
        said = stated(folders(annotation))
        agree = [image for image in images if self._agree(annotation, image)]
        equal = [image for image in agree if stated(folders(image)) == said]
        return equal if len(equal) == 1 else agree

    def _agree(self, annotation: str, image: str) -> bool:
        said, have = stated(folders(annotation)), stated(folders(image))
        odd, other = [p for p in said if p not in have], [p for p in have if p not in said]
        if not odd or not other:
            return True
        # `xmlfiles/1.xml` and `photographs/1.png`: one folder each that may be but a name for what is in it.
        told = len(said) < len(folders(annotation)) or len(have) < len(folders(image))
        return not told and len(odd) == len(other) == 1 and not self._both & {odd[0], other[0]}

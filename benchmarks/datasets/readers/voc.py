"""Pascal VOC: an XML file per image; it belongs to the image of its stem, or that it names, in an agreeing folder."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np

from benchmarks.datasets.findings import are_fractions
from benchmarks.datasets.images import decode
from benchmarks.datasets.readers import voc_xml
from benchmarks.datasets.readers.base import PARTS, Content, Names, Pairing, Tell, key
from benchmarks.datasets.sources import RawSample, Source
from benchmarks.errors import DataError


def is_voc(source: Source, name: str) -> bool:
    return name.lower().endswith(".xml") and b"<annotation" in source.read(name)


def read(source: Source, tell: Tell) -> Content:
    names = Names(source)
    parsed: list[tuple[str, voc_xml.Annotation]] = []
    for name in source.names():
        if name.lower().endswith(".xml"):
            parsed.append((name, voc_xml.parse(source.read(name), source.where(name))))
    if not parsed:
        raise DataError(f"{source.path}: no VOC XML in it")
    # No order of classes is stated anywhere: the alphabet's.
    classes = tuple(sorted({box.label for _, a in parsed for box in a.boxes}))
    relative = are_fractions(box for _, a in parsed for box in a.boxes)
    if relative:
        detail = "the boxes are fractions of the image, VOC's are in pixels"
        tell("fractions", source.where(parsed[0][0]), detail)

    pairing = Pairing([name for name, _ in parsed], names.all)

    def samples() -> Iterator[RawSample]:
        used: set[str] = set()
        for name, annotation in parsed:
            where = source.where(name)
            stem = PurePosixPath(name).stem
            owners = _owners(source, names, pairing, name, annotation.file_name)
            if not owners:
                problem = ("missing_image", where, f"no image {stem} for it in the source, or more than one")
                yield RawSample(stem, None, (), where, (*annotation.problems, problem))
                continue
            used.update(owners)
            for owner in owners:
                yield RawSample(
                    names.short(owner),
                    source.read(owner),
                    annotation.boxes,
                    where,
                    annotation.problems,
                    annotation.size,
                    relative=relative,
                )
        for image in names.all:
            if image not in used:
                where = source.where(image)
                problem = ("missing_annotation", where, f"no {PurePosixPath(image).stem}.xml for it in the source")
                yield RawSample(names.short(image), source.read(image), (), where, (problem,))

    return Content(classes, samples(), parts=_parts(source, names, tell))


def _owners(source: Source, names: Names, pairing: Pairing, annotation: str, called: str | None) -> list[str]:
    """The image of an annotation file; several where they are copies of one, none where that cannot be told."""
    stem = PurePosixPath(annotation).stem
    same = pairing.of(annotation, names.of_stem(stem))
    found = names.find(called, posixpath.dirname(annotation)) if called else None
    if found is not None and found in same:
        return [found]
    if names.of_stem(stem):  # <filename> is often left over from before a renaming: the stem decides
        return same if _are_one(source, same) else []
    return pairing.of(annotation, [found]) if found else []


def _are_one(source: Source, names: list[str]) -> bool:
    """Whether these are one image, if more than once: all have the same pixels."""
    if len(names) < 2:
        return bool(names)
    try:
        first, *others = (decode(source.read(name), name) for name in names)
    except DataError:
        return False
    return all(np.array_equal(first, other) for other in others)


def _parts(source: Source, names: Names, tell: Tell) -> dict[str, str]:
    """Image -> part by `ImageSets/Main/train.txt` and the like, a stem in each line; none where they share images."""
    out: dict[str, str] = {}
    main = [n for n in source.names() if n.lower().endswith(".txt") and key(PurePosixPath(n).parent.name) == "main"]
    # VOC's own `trainval.txt` is what is trained on where it is not parted further.
    parted = {PARTS.get(key(PurePosixPath(n).stem)) for n in main} & {"train", "val"}
    called = PARTS if parted else {**PARTS, "trainval": "train"}
    for name in main:
        part = called.get(key(PurePosixPath(name).stem))
        if part is None:
            continue
        where = source.where(name)
        for line in source.read(name).decode("utf-8-sig", errors="replace").splitlines():
            if not line.strip():
                continue
            # The whole line first: a stem may have spaces; else what stands before a flag, as in lists of a class.
            images = names.of_stem(line.strip()) or names.of_stem(line.split()[0])
            if len(images) != 1:
                tell("missing_image", where, f"image {line.strip()!r} is not in the source, or more than once")
                continue
            short = names.short(images[0])
            if out.setdefault(short, part) != part:
                tell("unusable_part", where, f"{short} is in it, and in `{out[short]}` too")
                return {}
    return out

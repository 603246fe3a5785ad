"""Sets in the formats everyone has: COCO JSON, Pascal VOC XML, YOLO txt with its data.yaml; and masks.

Images are named by their path below the folder that all of them share.
"""

from __future__ import annotations

import json
import posixpath
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import yaml

from benchmarks.datasets import masks, voc
from benchmarks.datasets.images import decode, values
from benchmarks.datasets.sources import Box, Sample, Source
from benchmarks.errors import DataError, RequestError, nearest

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
Problem = tuple[str, str, str]


@dataclass(frozen=True)
class Content:
    """A set as a format tells it: class names in its order, and the samples, read as they are asked for."""

    classes: tuple[str, ...]
    samples: Iterator[Sample]
    source_ids: Mapping[str, int | str] = field(default_factory=dict)
    """The source's own ids of classes, where it has any and they are one each."""


def _images(source: Source) -> list[str]:
    return [name for name in source.names() if name.lower().endswith(IMAGE_SUFFIXES)]


class _Names:
    """Finds images by what annotations call them, and gives them short names."""

    def __init__(self, source: Source, images: list[str] | None = None) -> None:
        self.all = _images(source) if images is None else images
        folders = [posixpath.dirname(name) for name in self.all]
        self.base = posixpath.commonpath(folders) if folders and all(folders) else ""
        self._by_base: dict[str, list[str]] = defaultdict(list)
        for name in self.all:
            self._by_base[posixpath.basename(name)].append(name)
        self._known = set(self.all)

    def short(self, name: str) -> str:
        return posixpath.relpath(name, self.base) if self.base else name

    def find(self, wanted: str, beside: str) -> str | None:
        """The image that an annotation in folder `beside` calls `wanted`; None for none, or more than one."""
        wanted = wanted.replace("\\", "/")
        for folder in (beside, posixpath.dirname(beside), posixpath.join(beside, "images"), self.base, ""):
            path = posixpath.normpath(posixpath.join(folder, wanted))
            if path in self._known:
                return path
        tail = [name for name in self.all if name.endswith("/" + wanted.lstrip("./"))]
        found = tail or self._by_base.get(posixpath.basename(wanted), [])
        return found[0] if len(found) == 1 else None


def _load_json(source: Source, name: str) -> Any:
    try:
        return json.loads(source.read(name))
    except (ValueError, RecursionError) as e:
        raise DataError(f"{source.where(name)}: not JSON ({e}); replace the file") from None


# COCO


def _is_coco(source: Source, name: str) -> bool:
    head = source.read(name)
    return b'"annotations"' in head and b'"categories"' in head


def read_coco(source: Source) -> Content:
    """All COCO files of the source, joined by image; categories are joined by their names."""
    files = [n for n in source.names() if n.lower().endswith(".json") and _is_coco(source, n)]
    if not files:
        raise DataError(f"{source.path}: no COCO JSON in it (a file with images, annotations and categories)")
    contents = {name: _load_json(source, name) for name in files}
    classes: list[str] = []
    for name, content in contents.items():
        where = source.where(name)
        if not isinstance(content, dict):
            raise DataError(f"{where}: its top level is no object; replace the file")
        for key in ("images", "annotations", "categories"):
            if not isinstance(content.get(key), list):
                raise DataError(f"{where}: its {key!r} is not a list; replace the file")
        for category in content["categories"]:
            if not isinstance(category, dict) or not isinstance(category.get("name"), str):
                raise DataError(f"{where}: a category has no name; correct the file")
            if category["name"] not in classes:
                classes.append(category["name"])
    return Content(tuple(classes), _coco_samples(source, contents), _category_ids(contents))


def _category_ids(contents: dict[str, Any]) -> dict[str, int | str]:
    """Id of each category, by name; none where the files do not agree on it."""
    found: dict[str, set[int | str]] = defaultdict(set)
    for content in contents.values():
        for category in content["categories"]:
            found[category["name"]].add(_plain_id(category.get("id")))
    return {name: next(iter(ids)) for name, ids in found.items() if len(ids) == 1 and None not in ids}


def _plain_id(value: Any) -> Any:
    """An id as JSON may keep it: 1.0 is 1; None for what is neither a whole number nor text."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) else None


def _coco_samples(source: Source, contents: dict[str, Any]) -> Iterator[Sample]:
    names = _Names(source)
    used: set[str] = set()
    last = ""
    for name, content in contents.items():
        where = source.where(name)
        category = {repr(c.get("id")): c["name"] for c in content["categories"]}
        problems: dict[str, list[Problem]] = defaultdict(list)
        boxes: dict[str, list[Box]] = defaultdict(list)
        ids = Counter(repr(i.get("id")) if isinstance(i, dict) else "" for i in content["images"])
        seen: set[str] = set()
        for k, a in enumerate(content["annotations"], start=1):
            owner = repr(a.get("image_id")) if isinstance(a, dict) else ""
            box, kind, detail = _coco_box(a, category, k)
            if owner not in ids:
                kind, detail = "bad_object", f"annotation {k} belongs to image {owner or 'none'}, which is not listed"
                owner = ""
            elif box is not None and "id" in a and repr(a["id"]) in seen:
                kind, detail, box = "duplicate_id", f"annotation id {a['id']!r} occurs twice", None
            if isinstance(a, dict):
                seen.add(repr(a.get("id")))
            if box is None:
                problems[owner].append((kind, where, detail))
            else:
                boxes[owner].append(box)
        stray = problems.pop("", [])  # told with the first image, for want of a better one
        done: set[str] = set()
        for image in content["images"]:
            key = repr(image.get("id")) if isinstance(image, dict) else ""
            called = image.get("file_name") if isinstance(image, dict) else None
            told = tuple(stray + problems[key])
            stray = []
            if not isinstance(called, str) or not called:
                yield Sample("?", None, (), where, (*told, ("bad_annotation", where, f"image {key} has no file_name")))
                continue
            if key in done:
                yield Sample(called, None, (), where, (*told, ("duplicate_id", where, f"image id {key} occurs twice")))
                continue
            done.add(key)
            found = names.find(called, posixpath.dirname(name))
            if found is None:
                problem = ("missing_image", where, f"image {called!r} is not in the source, or more than once")
                yield Sample(called, None, (), where, (*told, problem))
                continue
            used.add(found)
            last = where
            size = _coco_size(image)
            yield Sample(
                names.short(found),
                source.read(found),
                tuple(boxes[key]),
                where,
                told,
                size,
                source_id=_plain_id(image.get("id")),
                source_file=name if len(contents) > 1 else "",
            )
    for name in names.all:
        if name not in used:
            problem = ("missing_annotation", source.where(name), f"no entry for it in {last or 'the COCO files'}")
            yield Sample(names.short(name), source.read(name), (), source.where(name), (problem,))


def _coco_size(image: dict[str, Any]) -> tuple[int, int] | None:
    width, height = image.get("width"), image.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None


def _coco_box(a: Any, category: dict[str, str], k: int) -> tuple[Box | None, str, str]:
    """The box of an annotation, or the kind and detail of what is wrong with it."""
    if not isinstance(a, dict):
        return None, "bad_object", f"annotation {k} is no object"
    bbox = a.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(_is_real(v) for v in bbox):
        return None, "bad_object", f"annotation {k} has no bbox of four numbers"
    if repr(a.get("category_id")) not in category:
        return None, "unknown_class", f"annotation {k} has category_id {a.get('category_id')!r}, which is not listed"
    x, y, w, h = (float(v) for v in bbox)
    ignore = "crowd" if a.get("iscrowd") else "difficult" if a.get("ignore") else ""
    return Box(category[repr(a["category_id"])], x, y, x + w, y + h, ignore, _mask_area(a)), "", ""


def _mask_area(a: dict[str, Any]) -> float | None:
    """The stated area, where there is a mask that it is of."""
    area = a.get("area")
    if not a.get("segmentation") or isinstance(area, bool) or not isinstance(area, (int, float)):
        return None
    return float(area) if 0 < area < 1e12 else None


def _is_real(value: Any) -> bool:
    return (isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e12) or value != value


# VOC


def read_voc(source: Source) -> Content:
    """All `<annotation>` files of the source; an image belongs to the XML of its stem, or that names it."""
    names = _Names(source)
    by_stem: dict[str, list[str]] = defaultdict(list)
    for image in names.all:
        by_stem[PurePosixPath(image).stem].append(image)
    parsed: list[tuple[str, voc.Annotation]] = []
    for name in source.names():
        if name.lower().endswith(".xml"):
            parsed.append((name, voc.parse(source.read(name), source.where(name))))
    if not parsed:
        raise DataError(f"{source.path}: no VOC XML in it")
    # No order of classes is stated anywhere: the alphabet's.
    classes = tuple(sorted({box.label for _, a in parsed for box in a.boxes}))

    def samples() -> Iterator[Sample]:
        used: set[str] = set()
        for name, annotation in parsed:
            where = source.where(name)
            stem = PurePosixPath(name).stem
            found = names.find(annotation.file_name, posixpath.dirname(name)) if annotation.file_name else None
            owners = [found] if found else []
            if found is None or PurePosixPath(found).stem != stem:
                # <filename> is often left over from before a renaming: the stem decides.
                same = by_stem.get(stem, [])
                owners = same if _are_one(source, same) else [] if same else owners
            if not owners:
                problem = ("missing_image", where, f"no image {stem} for it in the source, or more than one")
                yield Sample(stem, None, (), where, (*annotation.problems, problem))
                continue
            used.update(owners)
            for owner in owners:
                yield Sample(
                    names.short(owner),
                    source.read(owner),
                    annotation.boxes,
                    where,
                    annotation.problems,
                    annotation.size,
                )
        for image in names.all:
            if image not in used:
                where = source.where(image)
                problem = ("missing_annotation", where, f"no {PurePosixPath(image).stem}.xml for it in the source")
                yield Sample(names.short(image), source.read(image), (), where, (problem,))

    return Content(classes, samples())


def _are_one(source: Source, names: list[str]) -> bool:
    """Whether these are one image, if more than once: all have the same pixels."""
    if len(names) < 2:
        return bool(names)
    try:
        first, *others = (decode(source.read(name), name) for name in names)
    except DataError:
        return False
    return all(np.array_equal(first, other) for other in others)


# YOLO


def _yolo_yaml(source: Source) -> str | None:
    named = [n for n in source.names() if n.lower().endswith((".yaml", ".yml"))]
    return next((n for n in named if b"names" in source.read(n)), None)


def read_yolo(source: Source) -> Content:
    """Images with `labels/*.txt` beside `images/`, classes from the data.yaml.

    A line is `class cx cy width height` or a polygon `class x1 y1 x2 y2 ...`, as fractions. By the format's own rule an
    image without a txt file has no defect.
    """
    stated = _yolo_yaml(source)
    if stated is None:
        raise DataError(f"{source.path}: no data.yaml with `names` in it")
    where = source.where(stated)
    try:
        content = yaml.safe_load(source.read(stated))
        listed = content["names"]
        if isinstance(listed, dict):
            listed = [listed[i] for i in range(len(listed))]
        if not isinstance(listed, list) or not listed or not all(isinstance(n, (str, int, float)) for n in listed):
            raise TypeError("something else")
        classes = tuple(str(name) for name in listed)
    except (yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError) as e:
        raise DataError(f"{where}: `names` is no list of class names ({type(e).__name__}); correct the file") from None
    if len(set(classes)) != len(classes):
        raise DataError(f"{where}: `names` repeats a class; correct the file")
    names = _Names(source)
    texts = {name for name in source.names() if name.lower().endswith(".txt")}

    def samples() -> Iterator[Sample]:
        for image in names.all:
            label = next((text for text in _label_files(image) if text in texts), None)
            boxes, problems = _yolo_boxes(source, label, classes) if label else ((), ())
            origin = source.where(label or image)
            yield Sample(names.short(image), source.read(image), boxes, origin, problems, relative=True)

    return Content(classes, samples())


def _label_files(image: str) -> Iterator[str]:
    """Where the labels of an image may lie: the last `images` of its path replaced, or beside it."""
    text = str(PurePosixPath(image).with_suffix(".txt"))
    parts = text.split("/")
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            yield "/".join([*parts[:i], "labels", *parts[i + 1 :]])
    yield text


def _yolo_boxes(source: Source, label: str, classes: tuple[str, ...]) -> tuple[tuple[Box, ...], tuple[Problem, ...]]:
    where = source.where(label)
    boxes: list[Box] = []
    problems: list[Problem] = []
    try:
        lines = source.read(label).decode("utf-8").splitlines()
    except UnicodeDecodeError:
        return (), (("bad_annotation", where, "it is not UTF-8 text"),)
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields:
            continue
        try:
            index, values = int(fields[0]), [float(f) for f in fields[1:]]
        except ValueError:
            problems.append(("bad_object", where, f"line {number} is not a class and numbers: {line[:60]!r}"))
            continue
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            problems.append(("bad_object", where, f"line {number} has {len(values)} numbers after the class, not 4"))
        elif not 0 <= index < len(classes):
            problems.append(
                ("unknown_class", where, f"line {number} has class {index}, `names` ends at {len(classes) - 1}")
            )
        elif len(values) == 4:
            cx, cy, w, h = values
            boxes.append(Box(classes[index], cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2))
        else:
            xs, ys = values[0::2], values[1::2]
            boxes.append(Box(classes[index], min(xs), min(ys), max(xs), max(ys)))
    return tuple(boxes), tuple(problems)


# Masks

MASK_FOLDERS = ("masks", "mask", "labels", "label", "annotations", "ground_truth", "gt")
MASK_ENDINGS = ("", "_mask", "_label", "_gt")


def _masks(source: Source) -> dict[str, str]:
    """The masks, by their names without folder and ending."""
    found: dict[str, str] = {}
    for name in source.names():
        path = PurePosixPath(name)
        if path.suffix.lower() in (".png", ".bmp") and any(p.lower() in MASK_FOLDERS for p in path.parts[:-1]):
            ending = next(e for e in reversed(MASK_ENDINGS) if path.stem.endswith(e))
            stem = path.stem.removesuffix(ending)
            if stem in found:
                raise DataError(f"{source.where(name)}: a second mask for {stem}, beside {found[stem]}")
            found[stem] = name
    return found


def read_masks(source: Source) -> Content:
    """Images, and PNG or BMP masks of the same stem in a folder called `masks`, `labels`, `ground_truth` or the like.

    With a `classes.txt`, a class in each line, value k of a mask is class k; without, all above 0 is `defect`.
    """
    found = _masks(source)
    if not found:
        raise DataError(f"{source.path}: no mask in it, a .png or .bmp in a folder called {' or '.join(MASK_FOLDERS)}")
    taken = set(found.values())
    names = _Names(source, [name for name in _images(source) if name not in taken])
    listed = [name for name in source.names() if posixpath.basename(name) == "classes.txt"]
    classes: tuple[str, ...] = ("defect",)
    if listed:
        lines = source.read(listed[0]).decode("utf-8", errors="replace").splitlines()
        classes = tuple(line.strip() for line in lines if line.strip())
        if not classes or len(set(classes)) != len(classes):
            raise DataError(f"{source.where(listed[0])}: it is empty or repeats a class; correct the file")

    def samples() -> Iterator[Sample]:
        left = dict(found)
        for image in names.all:
            mask = left.pop(PurePosixPath(image).stem, None)
            data = source.read(image)
            if mask is None:
                where = source.where(image)
                problem = ("missing_annotation", where, f"no mask {PurePosixPath(image).stem}.png for it in the source")
                yield Sample(names.short(image), data, (), where, (problem,))
                continue
            boxes, problems, stated = _mask_boxes(source, mask, classes, named=bool(listed))
            yield Sample(names.short(image), data, boxes, source.where(mask), problems, stated)
        for stem, mask in left.items():
            where = source.where(mask)
            yield Sample(stem, None, (), where, (("missing_image", where, f"no image {stem} for it in the source"),))

    return Content(classes, samples())


def _mask_boxes(
    source: Source, name: str, classes: tuple[str, ...], named: bool
) -> tuple[tuple[Box, ...], tuple[Problem, ...], tuple[int, int] | None]:
    """Boxes, what is wrong, and the width and height of a mask."""
    where = source.where(name)
    try:
        mask = values(source.read(name), where)
    except DataError as e:
        return (), (("bad_annotation", where, str(e).removeprefix(f"{where}: ")),), None
    stated = (mask.shape[1], mask.shape[0])
    if not named:
        return masks.boxes(mask > 0, classes[0]), (), stated
    boxes = [box for k, label in enumerate(classes, start=1) for box in masks.boxes(mask == k, label)]
    beyond = sorted(int(v) for v in np.unique(mask) if not 0 <= v <= len(classes))
    problems = tuple(
        ("unknown_class", where, f"it has the value {v}, classes.txt ends at {len(classes)}") for v in beyond[:10]
    )
    return tuple(boxes), problems, stated


FORMATS: dict[str, Callable[[Source], Content]] = {
    "coco": read_coco,
    "voc": read_voc,
    "yolo": read_yolo,
    "masks": read_masks,
}


def detect(source: Source) -> str:
    """The format of a source. DataError when it is none of ours, or more than one."""
    files = source.names()
    found = [
        name
        for name, there in (
            ("coco", any(n.lower().endswith(".json") and _is_coco(source, n) for n in files)),
            ("yolo", _yolo_yaml(source) is not None),
            ("voc", any(n.lower().endswith(".xml") and b"<annotation" in source.read(n) for n in files)),
        )
        if there
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{source.path} could be {' or '.join(found)}; say which with --format")
    raise DataError(
        f"{source.path}: neither COCO (a .json with images, annotations, categories), VOC (.xml per image) "
        "nor YOLO (data.yaml with names, labels/*.txt); masks are read with --format masks"
    )


def read(source: Source, form: str) -> Content:
    """Read a source in a format, or the one that it is found to have ("auto")."""
    if form == "auto":
        form = detect(source)
    if form not in FORMATS:
        raise RequestError(f"--format {form}: {nearest(form, [*FORMATS, 'auto'])}")
    return FORMATS[form](source)

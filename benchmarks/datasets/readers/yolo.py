"""YOLO: images with `labels/*.txt` beside `images/`, classes and parts from the data.yaml.

A line is `class cx cy width height` or a polygon `class x1 y1 x2 y2 ...`, as fractions; with `kpt_shape` in the
data.yaml it is the box and then keypoints. By the format's own rule an image without a txt file has no defect.
"""

from __future__ import annotations

import math
import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath

import yaml

from benchmarks.datasets.readers.base import (
    PARTS,
    Content,
    Names,
    Problem,
    Tell,
    images_of,
    key,
    listed_classes,
    load_json,
)
from benchmarks.datasets.sources import Box, RawSample, Source
from benchmarks.errors import DataError

_LISTS = ("classes.txt", "obj.names", "_darknet.labels")
"""Files with a class in each line."""
_NOTES = "notes.json"
"""Label Studio's, with the same classes by id."""


@dataclass(frozen=True)
class Statement:
    """What a file says of the set: classes by index, keypoints of an object, and where its parts lie."""

    file: str
    names: Mapping[int, str]
    keypoints: int = 0
    """Numbers after the box."""
    parts: Mapping[str, tuple[str, ...]] | None = None
    path: str = ""

    @property
    def folder(self) -> str:
        return posixpath.dirname(self.file)


def is_yolo(source: Source) -> bool:
    if _yamls(source):
        return True
    names = source.names()
    listed = any(key(posixpath.basename(n)) in _LISTS for n in names)
    return listed and any(_says_labels(source, n) and not _is_list(n) for n in names if n.lower().endswith(".txt"))


def _yamls(source: Source) -> list[str]:
    named = [n for n in source.names() if n.lower().endswith((".yaml", ".yml"))]
    return [n for n in named if b"names" in source.read(n)]


def _is_list(name: str) -> bool:
    return key(posixpath.basename(name)) in _LISTS


def _says_labels(source: Source, name: str) -> bool:
    """Whether a txt file holds labels: its first line is a class and numbers; or it is empty, in a folder of labels."""
    lines = source.read(name)[:500].decode("utf-8", errors="replace").splitlines()
    first = next((line.split() for line in lines if line.strip()), [])
    if not first:
        return "labels" in map(key, PurePosixPath(name).parts[:-1])
    return len(first) >= 5 and all(map(_is_number, first[:5]))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# What the set says of itself


def _statements(source: Source) -> list[Statement]:
    """All files that state classes, those with a data.yaml first."""
    found = [_from_yaml(source, name) for name in _yamls(source)]
    for name in source.names():
        if _is_list(name):
            listed = listed_classes(source, name)
            found.append(Statement(name, dict(enumerate(_unique(listed, source.where(name))))))
        elif key(posixpath.basename(name)) == _NOTES:
            content = load_json(source, name)
            categories = content.get("categories") if isinstance(content, dict) else None
            if isinstance(categories, list) and all(isinstance(c, dict) for c in categories):
                named = [(c.get("id"), c.get("name")) for c in categories]
                known = {i: n for i, n in named if isinstance(i, int) and isinstance(n, str) and n}
                found.append(Statement(name, known))
    return found


def _from_yaml(source: Source, name: str) -> Statement:
    where = source.where(name)
    try:
        text = source.read(name)
        yaml.safe_load(text)  # refuses what no data.yaml needs
        content = yaml.load(text, Loader=yaml.BaseLoader)  # texts as they stand: `NO` and `010` are names
        listed = content["names"]
        if isinstance(listed, dict):
            listed = {int(i): n for i, n in listed.items()}
        elif isinstance(listed, list):
            listed = dict(enumerate(listed))
        if not isinstance(listed, dict) or not listed or not all(isinstance(n, str) and n for n in listed.values()):
            raise TypeError("something else")
        shape = [int(v) for v in content.get("kpt_shape") or ()]
        keypoints = shape[0] * shape[1] if shape else 0
        count = int(content["nc"]) if content.get("nc") else len(listed)
        stated = {part: content[field] for field, part in PARTS.items() if content.get(field)}
        parts = {part: tuple(v) if isinstance(v, list) else (v,) for part, v in stated.items()}
        if not all(isinstance(v, str) for values in parts.values() for v in values):
            raise TypeError("something else")
    except (yaml.YAMLError, KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as e:
        raise DataError(f"{where}: `names` is no list of class names ({type(e).__name__}); correct the file") from None
    if count != len(listed):
        raise DataError(f"{where}: `nc` is {count}, but `names` has {len(listed)} classes; correct the file")
    _unique(list(listed.values()), where)
    path = content.get("path")
    return Statement(name, listed, keypoints, parts or None, path if isinstance(path, str) else "")


def _unique(names: Sequence[str], where: str) -> Sequence[str]:
    if not names or len(set(names)) != len(names):
        raise DataError(f"{where}: `names` is empty or repeats a class; correct the file")
    return names


def _together(source: Source, statements: Sequence[Statement]) -> dict[int, str]:
    """Classes by index that several files state of the same labels. DataError for what contradicts."""
    whole: dict[int, tuple[str, str]] = {}
    index: dict[str, tuple[int, str]] = {}
    for s in statements:
        for i, name in s.names.items():
            known, file = whole.setdefault(i, (name, s.file))
            at, other = index.setdefault(name, (i, s.file))
            if known != name or at != i:
                said = f"class {i} is {known!r}" if known != name else f"{name!r} is class {at}"
                here = f"class {i} is {name!r}"
                raise DataError(
                    f"{source.where(s.file)}: {here}, but in {source.where(file if known != name else other)} {said}; "
                    "correct one of them, or leave it out"
                )
    if sorted(whole) != list(range(len(whole))):
        missing = next(i for i in range(len(whole)) if i not in whole)
        raise DataError(f"{source.where(statements[0].file)}: no name for class {missing}; classes count from 0")
    return {i: name for i, (name, _) in sorted(whole.items())}


def _above(folder: str, other: str) -> bool:
    return folder in ("", ".") or other == folder or other.startswith(folder + "/")


class _Governed:
    """Which statements hold for a label file: those of the nearest folder above that has any, and all above that."""

    def __init__(self, source: Source, statements: Sequence[Statement]) -> None:
        self._source = source
        self.statements = statements
        self._of = lru_cache(maxsize=None)(self._find)
        self.classes = tuple(
            dict.fromkeys(
                n for folder in dict.fromkeys(s.folder for s in statements) for n in self._of(folder)[0].values()
            )
        )

    def _find(self, folder: str) -> tuple[dict[int, str], int]:
        here = [s for s in self.statements if _above(s.folder, folder)]
        if not here:  # labels beside the only folder that says anything
            here = list(self.statements)
        return _together(self._source, here), max(s.keypoints for s in here)

    def of(self, label: str) -> tuple[dict[int, str], int]:
        """Classes by index, and how many numbers of keypoints follow a box."""
        return self._of(posixpath.dirname(label))


# Parts


def _parts(source: Source, statements: Sequence[Statement], names: Names, tell: Tell) -> dict[str, set[str]] | None:
    """Images of train, val and test as one data.yaml lists them; None where it does not, or not all can be found."""
    stating = [s for s in statements if s.parts]
    for s in stating[1:] if len(stating) > 1 else ():
        tell("unusable_part", source.where(s.file), f"it states parts, and so does {stating[0].file}")
    if len(stating) != 1:
        return None
    (s,) = stating
    assert s.parts is not None
    files = {key(posixpath.normpath(n)): n for n in source.names()}
    out: dict[str, set[str]] = {}
    for part, entries in s.parts.items():
        out[part] = set()
        for entry in entries:
            found = _resolved(source, s, entry, names, files)
            if not found:
                tell("unusable_part", source.where(s.file), f"`{part}` is {entry!r}, where no image is in the source")
            out[part] |= set(found)
    return out if all(out.values()) else None


def _resolved(source: Source, s: Statement, entry: str, names: Names, files: Mapping[str, str]) -> list[str]:
    """The images of an entry of train, val or test: a folder of images, or a txt file that lists them."""
    entry = entry.replace("\\", "/").rstrip("/")
    bare = entry.lstrip("./") if entry.startswith(".") else entry
    for start in dict.fromkeys((posixpath.join(s.folder, s.path), s.folder, "")):
        for tail in dict.fromkeys((entry, bare)):
            path = posixpath.normpath(posixpath.join(start, tail))
            if path.startswith(".."):
                continue
            if path.lower().endswith(".txt"):
                listing = files.get(key(path))
                if listing is not None:
                    return _of_list(source, listing, s, names)
            elif below := names.below(path):
                return below
    return []


def _of_list(source: Source, listing: str, s: Statement, names: Names) -> list[str]:
    found = []
    for line in source.read(listing).decode("utf-8-sig", errors="replace").splitlines():
        if not line.strip():
            continue
        image = names.find(line.strip(), posixpath.dirname(listing)) or names.find(line.strip(), s.folder)
        if image is None:
            raise DataError(f"{source.where(listing)}: image {line.strip()!r} is not in the source; correct the list")
        found.append(image)
    return found


# Labels


def _label_paths(image: str) -> Iterator[str]:
    """Where the labels of an image may lie: the last `images` of its path replaced, or beside it."""
    text = str(PurePosixPath(image).with_suffix(".txt"))
    parts = text.split("/")
    for i in range(len(parts) - 2, -1, -1):
        if key(parts[i]) == "images":
            yield "/".join([*parts[:i], "labels", *parts[i + 1 :]])
    yield text


def _paired(images: Sequence[str], labels: Sequence[str]) -> tuple[dict[str, str], set[str]]:
    """Image -> its label file; and those images of them whose label lies flat, paired by its bare name."""
    by_key: dict[str, list[str]] = {}
    for label in labels:
        by_key.setdefault(key(label), []).append(label)
    owner: dict[str, str] = {}
    for image in images:
        for path in _label_paths(image):
            same = by_key.get(key(path), [])
            if same:
                owner[image] = path if path in same else same[0]
                break
    left = set(labels) - set(owner.values())
    stems: dict[str, list[str]] = {}
    for image in images:
        if image not in owner:
            stems.setdefault(key(PurePosixPath(image).stem), []).append(image)
    flat = set()
    for label in sorted(left):
        folder = PurePosixPath(label).parent
        owners = [i for i in stems.get(key(PurePosixPath(label).stem), []) if _above(str(folder.parent), i)]
        if key(folder.name) == "labels" and len(owners) == 1 and owners[0] not in owner:
            owner[owners[0]] = label
            flat.add(owners[0])
    return owner, flat


def read(source: Source, tell: Tell) -> Content:
    statements = _statements(source)
    if not any(s.names for s in statements):
        raise DataError(f"{source.path}: no data.yaml with `names` in it, and no classes.txt")
    governed = _Governed(source, statements)
    everything = images_of(source)
    names = Names(source, everything)
    parts = _parts(source, statements, names, tell)
    images = names.all
    if parts is not None:
        listed = set().union(*parts.values())
        outside = [image for image in images if image not in listed]
        files = ", ".join(s.file for s in statements if s.parts)
        for image in outside:
            if tell("unlisted_image", source.where(image), f"{files} lists it in no part") == "keep":
                listed.add(image)
        images = [image for image in images if image in listed]
    texts = [n for n in source.names() if n.lower().endswith(".txt") and not _is_list(n)]
    owner, flat = _paired(everything, texts)
    claimed = Counter(owner.values())
    for text in texts:
        if text not in claimed and _says_labels(source, text):
            tell("unclaimed_label", source.where(text), "it is a label file, and no image is called so")

    def samples() -> Iterator[RawSample]:
        for image in images:
            label = owner.get(image)
            boxes: tuple[Box, ...] = ()
            problems: tuple[Problem, ...]
            if label is None:
                where = source.where(image)
                problems = (("missing_label", where, "no txt file for it, by YOLO's rule it is defect-free"),)
            else:
                where = source.where(label)
                boxes, problems = _boxes(source, label, *governed.of(label))
                if claimed[label] > 1:
                    others = ", ".join(i for i in everything if owner.get(i) == label and i != image)
                    problems = (*problems, ("shared_label", where, f"it is the label file of {image} and of {others}"))
                if image in flat:
                    problems = (*problems, ("flat_label", where, f"it lies flat, {image} is the only image called so"))
            yield RawSample(names.short(image), source.read(image), boxes, where, problems, relative=True)

    short = {} if parts is None else {names.short(image): part for part in parts for image in parts[part]}
    overlap = parts is not None and sum(map(len, parts.values())) != len(short)
    if overlap:
        stating = next(s.file for s in statements if s.parts)
        tell("unusable_part", source.where(stating), f"`{'` and `'.join(parts or ())}` share images")
    return Content(governed.classes, samples(), parts={} if overlap else short)


def _boxes(
    source: Source, label: str, classes: Mapping[int, str], keypoints: int
) -> tuple[tuple[Box, ...], tuple[Problem, ...]]:
    where = source.where(label)
    boxes: list[Box] = []
    problems: list[Problem] = []
    try:
        lines = source.read(label).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        return (), (("bad_annotation", where, "it is not UTF-8 text"),)
    polygons = with_keypoints = 0
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields:
            continue
        try:
            index, values = float(fields[0]), [float(f) for f in fields[1:]]
            if not index.is_integer() or (len(values) != 4 and not all(map(math.isfinite, values))):
                raise ValueError("no class, or a polygon with a corner that is nowhere")
        except ValueError:
            problems.append(("bad_object", where, f"line {number} is not a class and numbers: {line[:60]!r}"))
            continue
        if keypoints and len(values) == 4 + keypoints:
            values = values[:4]
            with_keypoints += 1
        elif keypoints and len(values) != 4:
            wanted = f"not 4 and {keypoints} of keypoints"
            problems.append(("bad_object", where, f"line {number} has {len(values)} numbers after the class, {wanted}"))
            continue
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            problems.append(("bad_object", where, f"line {number} has {len(values)} numbers after the class, not 4"))
        elif int(index) not in classes:
            ends = f"`names` ends at {max(classes)}"
            problems.append(("unknown_class", where, f"line {number} has class {int(index)}, {ends}"))
        elif len(values) == 4:
            cx, cy, w, h = values
            boxes.append(Box(classes[int(index)], cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2))
        else:
            xs, ys = values[0::2], values[1::2]
            boxes.append(Box(classes[int(index)], min(xs), min(ys), max(xs), max(ys)))
            polygons += 1
    if polygons:
        problems.append(("polygon", where, f"{polygons} of its lines are polygons"))
    if with_keypoints:
        problems.append(("keypoints", where, f"{with_keypoints} of its lines have keypoints"))
    return tuple(boxes), tuple(problems)

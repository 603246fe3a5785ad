"""COCO JSON, one file or several that are joined by image; categories are joined by their names."""

from __future__ import annotations

import math
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from benchmarks.datasets.findings import are_fractions
from benchmarks.datasets.readers.base import PARTS, Content, Names, Problem, Tell, folders, load_json
from benchmarks.datasets.sources import Box, RawSample, Source
from benchmarks.errors import DataError


def is_coco(source: Source, name: str) -> bool:
    content = source.read(name)
    return b'"annotations"' in content and b'"categories"' in content


def read(source: Source, tell: Tell) -> Content:
    files = [n for n in source.names() if n.lower().endswith(".json") and is_coco(source, n)]
    if not files:
        raise DataError(f"{source.path}: no COCO JSON in it (a file with images, annotations and categories)")
    contents = {name: load_json(source, name) for name in files}
    classes: dict[str, str] = {}  # name -> the file that has it first
    for name, content in contents.items():
        _check(content, source.where(name))
        content["categories"] = _one_of_a_name(content, source.where(name), tell)
        for category in content["categories"]:
            classes.setdefault(category["name"], source.where(name))
    for label in _roots(contents):
        detail = f"category {label!r} has no box, and others belong to it"
        if tell("root_category", classes[label], detail) != "keep":
            del classes[label]
    fractions = set()
    for name, content in contents.items():
        boxes = [box for a in content["annotations"] if (box := _box(a, {}, 0)[0]) is not None]
        if are_fractions(boxes):
            detail = "the boxes are fractions of the image, COCO's are in pixels"
            tell("fractions", source.where(name), detail)
            fractions.add(name)
    believed = set()
    for name, content in contents.items():
        if bare := sum(map(_has_bare_area, content["annotations"])):
            detail = f"{bare} annotations state an area smaller than their box, and no mask that it is of"
            if tell("bare_area", source.where(name), detail) == "fix":
                believed.add(name)
    names = Names(source)
    return Content(
        tuple(classes),
        _samples(source, contents, names, fractions, believed),
        _category_ids(contents),
        _parts(contents, names, source, tell),
    )


def _check(content: Any, where: str) -> None:
    """DataError for what cannot be a COCO file, or has two categories of one id."""
    if not isinstance(content, dict):
        raise DataError(f"{where}: its top level is no object; replace the file")
    for field in ("images", "annotations", "categories"):
        if not isinstance(content.get(field), list):
            raise DataError(f"{where}: its {field!r} is not a list; replace the file")
    names: dict[str, str] = {}
    for category in content["categories"]:
        if not isinstance(category, dict) or not isinstance(category.get("name"), str):
            raise DataError(f"{where}: a category has no name; correct the file")
        label, number = category["name"], _key(category.get("id"))
        if names.setdefault(number, label) != label:
            raise DataError(
                f"{where}: categories {names[number]!r} and {label!r} both have the id {category.get('id')!r}; "
                "give each an id of its own"
            )


def _one_of_a_name(content: dict[str, Any], where: str, tell: Tell) -> list[dict[str, Any]]:
    """The categories of a file without those that no box has and another is called as: a project named after a class.

    Of several of one name that boxes have all stay, and that they are one class is said.
    """
    used = {_key(a.get("category_id")) for a in content["annotations"] if isinstance(a, dict)}
    with_boxes: dict[str, str] = {}
    for category in content["categories"]:
        if (number := _key(category.get("id"))) not in used:
            continue
        label = category["name"]
        if (first := with_boxes.setdefault(label, number)) != number:
            tell("shared_name", where, f"categories {first} and {number} are both called {label!r}")
    out = []
    for category in content["categories"]:
        label, number = category["name"], _key(category.get("id"))
        if number not in used and label in with_boxes:
            detail = f"category {label!r} of id {number} has no box, id {with_boxes[label]} is called so too"
            tell("root_category", where, detail)
        else:
            out.append(category)
    return out


def _roots(contents: dict[str, Any]) -> list[str]:
    """Categories that only group the others, as the exports of a labelling service have them: no box has them."""
    used: set[str | None] = set()
    groups: set[str | None] = set()
    names: list[str] = []
    for content in contents.values():
        category = {_key(c.get("id")): c["name"] for c in content["categories"]}
        used |= {category.get(_key(a.get("category_id"))) for a in content["annotations"] if isinstance(a, dict)}
        groups |= {
            over for c in content["categories"] if isinstance(over := c.get("supercategory"), str) and over != c["name"]
        }
        names += category.values()
    return [label for label in dict.fromkeys(names) if label in groups and label not in used]


def _category_ids(contents: dict[str, Any]) -> dict[str, int | str | None]:
    """Id of each category, by name; None where the files do not agree on it."""
    found: dict[str, set[int | str | None]] = defaultdict(set)
    for content in contents.values():
        for category in content["categories"]:
            found[category["name"]].add(plain_id(category.get("id")))
    return {name: next(iter(ids)) if len(ids) == 1 else None for name, ids in found.items()}


def plain_id(value: Any) -> int | str | None:
    """An id as it is kept: 1.0 is 1; None for what is neither a whole number nor text."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) else None


def _key(value: Any) -> str:
    """An id as it is compared: 1, 1.0 and "1" are one."""
    plain = plain_id(value)
    return repr(value) if plain is None else str(plain)


def part_of_file(name: str) -> str | None:
    """Train, val or test, as the name of a COCO file or its folder says: `instances_train2017.json`."""
    path = name.rsplit("/", 2)
    for text in (posixpath.splitext(path[-1])[0], path[-2] if len(path) > 1 else ""):
        found = {PARTS[word] for word in re.findall(r"[a-z]+", text.lower()) if word in PARTS}
        if len(found) == 1:
            return found.pop()
    return None


def _image(names: Names, called: str, file: str) -> str | None:
    """The image that a COCO file calls so; None where it states no folder and the only one is in another part's."""
    found = names.find(called, posixpath.dirname(file))
    part = part_of_file(file)
    if found is None or part is None or "/" in called.replace("\\", "/"):
        return found
    there = {PARTS[folder] for folder in folders(found) if folder in PARTS}
    return found if part in there or not there else None


def _parts(contents: dict[str, Any], names: Names, source: Source, tell: Tell) -> dict[str, str]:
    """Image -> part, where each of several files is a part."""
    of_file = {name: part_of_file(name) for name in contents}
    if len(contents) < 2 or len(set(of_file.values())) < 2:
        return {}
    if None in of_file.values():
        odd = next(name for name, part in of_file.items() if part is None)
        known = next(name for name, part in of_file.items() if part is not None)
        tell(
            "unusable_part",
            source.where(odd),
            f"it names no part, train, val or test, beside {posixpath.basename(known)}",
        )
        return {}
    out: dict[str, str] = {}
    for name, content in contents.items():
        for image in content["images"]:
            called = image.get("file_name") if isinstance(image, dict) else None
            found = _image(names, called, name) if isinstance(called, str) and called else None
            if found is not None:
                out.setdefault(names.short(found), of_file[name] or "")
    return out


def _samples(
    source: Source, contents: dict[str, Any], names: Names, fractions: set[str], believed: set[str]
) -> Iterator[RawSample]:
    """believed: files whose areas count without masks."""
    used: set[str] = set()
    last = ""
    for name, content in contents.items():
        where = source.where(name)
        category = {_key(c.get("id")): c["name"] for c in content["categories"]}
        problems: dict[str, list[Problem]] = defaultdict(list)
        boxes: dict[str, list[Box]] = defaultdict(list)
        ids = Counter(_key(i.get("id")) if isinstance(i, dict) else "" for i in content["images"])
        seen: set[str] = set()
        for k, a in enumerate(content["annotations"], start=1):
            owner = _key(a.get("image_id")) if isinstance(a, dict) else ""
            box, kind, detail = _box(a, category, k, bare=name in believed)
            if owner not in ids:
                kind, detail = "bad_object", f"annotation {k} belongs to image {owner or 'none'}, which is not listed"
                owner = ""
                box = None
            elif box is not None and "id" in a and _key(a["id"]) in seen:
                kind, detail, box = "duplicate_id", f"annotation id {a['id']!r} occurs twice", None
            if isinstance(a, dict):
                seen.add(_key(a.get("id")))
            if box is None:
                problems[owner].append((kind, where, detail))
            else:
                boxes[owner].append(box)
        stray = problems.pop("", [])  # told with the first image, for want of a better one
        done: set[str] = set()
        for image in content["images"]:
            number = _key(image.get("id")) if isinstance(image, dict) else ""
            called = image.get("file_name") if isinstance(image, dict) else None
            told = tuple(stray + problems[number])
            stray = []
            if not isinstance(called, str) or not called:
                problem = ("bad_annotation", where, f"image {number} has no file_name")
                yield RawSample("?", None, (), where, (*told, problem))
                continue
            if number in done:
                problem = ("duplicate_id", where, f"image id {number} occurs twice")
                yield RawSample(called, None, (), where, (*told, problem))
                continue
            done.add(number)
            found = _image(names, called, name)
            if found is None:
                problem = ("missing_image", where, f"image {called!r} is not in the source, or more than once")
                yield RawSample(called, None, (), where, (*told, problem))
                continue
            used.add(found)
            last = where
            yield RawSample(
                names.short(found),
                source.read(found),
                tuple(boxes[number]),
                where,
                told,
                _size(image),
                relative=name in fractions,
                source_id=plain_id(image.get("id")),
                source_file=name if len(contents) > 1 else "",
            )
        if stray:
            yield RawSample("?", None, (), where, tuple(stray))
    for name in names.all:
        if name not in used:
            problem = ("missing_annotation", source.where(name), f"no entry for it in {last or 'the COCO files'}")
            yield RawSample(names.short(name), source.read(name), (), source.where(name), (problem,))


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    """Width and height as stated, whatever type they have; None where they are not, or as 0."""
    try:
        width, height = (float(image[side]) for side in ("width", "height"))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    if not (math.isfinite(width) and math.isfinite(height)) or width <= 0 or height <= 0:
        return None
    return round(width), round(height)


def _box(a: Any, category: dict[str, str], k: int, bare: bool = False) -> tuple[Box | None, str, str]:
    """The box of an annotation, or the kind and detail of what is wrong with it; without categories, of any class.

    bare: whether an area counts where there is no mask.
    """
    if not isinstance(a, dict):
        return None, "bad_object", f"annotation {k} is no object"
    bbox = a.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(_is_real(v) for v in bbox):
        return None, "bad_object", f"annotation {k} has no bbox of four numbers"
    label = category.get(_key(a.get("category_id")), "" if not category else None)
    if label is None:
        return None, "unknown_class", f"annotation {k} has category_id {a.get('category_id')!r}, which is not listed"
    x, y, w, h = (float(v) for v in bbox)
    ignore = "crowd" if _is_set(a.get("iscrowd")) else "difficult" if _is_set(a.get("ignore")) else ""
    area = _area(a) if bare or a.get("segmentation") else None
    return Box(label, x, y, x + w, y + h, ignore, area), "", ""


def _is_set(flag: Any) -> bool:
    """A flag, also where it is written as text: "0" is not set."""
    return flag not in (None, "", "0", "0.0", "false", "False") and bool(flag)


def _area(a: dict[str, Any]) -> float | None:
    """As stated; None for what is none."""
    area = a.get("area")
    if isinstance(area, bool) or not isinstance(area, (int, float)):
        return None
    return float(area) if 0 < area < 1e12 else None


_ROUNDED = 0.05
"""By so much of a box its area may be smaller, and is still its own: sides were rounded."""


def _has_bare_area(a: Any) -> bool:
    """Whether an annotation states an area that must be of a mask, and has none."""
    box, area = _box(a, {}, 0)[0], _area(a) if isinstance(a, dict) else None
    if box is None or area is None or a.get("segmentation"):
        return False
    whole = (box.x2 - box.x1) * (box.y2 - box.y1)
    return area < min(whole - 1, whole * (1 - _ROUNDED))


def _is_real(value: Any) -> bool:
    return (isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e12) or value != value

"""Pascal VOC annotation files."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass

from benchmarks.datasets.sources import Box

_DECLARES = re.compile(rb"<!\s*(DOCTYPE|ENTITY)", re.IGNORECASE)
_FIELDS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class Annotation:
    """One file: corners and size as they stand there, and findings (kind, file, detail)."""

    boxes: tuple[Box, ...] = ()
    size: tuple[int, int] | None = None
    file_name: str | None = None
    problems: tuple[tuple[str, str, str], ...] = ()


def parse(data: bytes, where: str) -> Annotation:
    """Read one VOC file; what cannot be read in it is among the problems."""
    if _DECLARES.search(data.replace(b"\0", b"")):  # entity expansion, in UTF-16 too: no VOC file declares anything
        return _bad(where, "it declares a document type, which VOC annotations never need")
    try:
        root = ET.fromstring(data)
    except (ET.ParseError, ValueError, LookupError) as e:
        return _bad(where, f"not well-formed XML ({e})")
    if root.tag != "annotation":
        return _bad(where, f"its root element is <{root.tag}>, not <annotation>")
    boxes, problems = [], []
    for i, item in enumerate(root.iter("object"), start=1):
        label = (item.findtext("name") or "").strip()
        if not label:
            problems.append(("bad_object", where, f"object {i} has no <name>"))
            continue
        ignore = "difficult" if (item.findtext("difficult") or "").strip() in ("1", "true", "True") else ""
        for bounds in item.findall("bndbox") or [ET.Element("bndbox")]:  # some tools write an object's boxes together
            texts = {field: bounds.findtext(field) for field in _FIELDS}
            missing = [field for field, text in texts.items() if text is None]
            wrong = [f"<{field}> is {text!r}" for field, text in texts.items() if not _is_number(text)]
            if missing:
                problems.append(("bad_object", where, f"object {i} ({label}) has no <bndbox>/<{missing[0]}>"))
            elif wrong:
                problems.append(("bad_object", where, f"object {i} ({label}): {wrong[0]}, not a number"))
            else:
                x1, y1, x2, y2 = (float(text or "") for text in texts.values())
                boxes.append(Box(label, x1, y1, x2, y2, ignore))
    name = (root.findtext("filename") or "").strip()
    return Annotation(tuple(boxes), _size(root), name or None, tuple(problems))


def _bad(where: str, detail: str) -> Annotation:
    return Annotation(problems=(("bad_annotation", where, detail),))


def _is_number(text: str | None) -> bool:
    try:
        float(text or "")
    except ValueError:
        return False
    return True


def _size(root: ET.Element) -> tuple[int, int] | None:
    """None where it is not stated, or as 0 x 0, as some tools do."""
    try:
        width, height = (float(root.findtext(f"size/{side}") or "") for side in ("width", "height"))
    except ValueError:
        return None
    if not (math.isfinite(width) and math.isfinite(height)) or width <= 0 or height <= 0:
        return None
    return round(width), round(height)

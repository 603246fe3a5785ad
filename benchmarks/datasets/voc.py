"""Pascal VOC annotation files."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

from benchmarks.datasets.sources import Box
from benchmarks.errors import DataError

_DECLARES = re.compile(rb"<!\s*(DOCTYPE|ENTITY)", re.IGNORECASE)


def parse(data: bytes, where: str) -> tuple[Box, ...]:
    """The boxes of one VOC file, corners as they stand there.

    Raises:
        DataError: no XML, or an object without a name or with a box that is missing, not finite or inverted.
    """
    if _DECLARES.search(data):  # entity expansion: no VOC file declares anything
        raise DataError(f"{where}: declares a document type; VOC annotations need none, remove it")
    try:
        root = ET.fromstring(data)
    except (ET.ParseError, ValueError, LookupError) as e:
        raise DataError(f"{where}: not well-formed XML ({e}); replace the file") from None
    if root.tag != "annotation":
        raise DataError(f"{where}: its root element is <{root.tag}>, not <annotation>")
    boxes = []
    for i, item in enumerate(root.iter("object"), start=1):
        at = f"{where}: object {i}"
        label = (item.findtext("name") or "").strip()
        if not label:
            raise DataError(f"{at} has no <name>")
        corners = [_number(item, field, at) for field in ("xmin", "ymin", "xmax", "ymax")]
        x1, y1, x2, y2 = corners
        if x2 <= x1 or y2 <= y1:
            field = "xmax" if x2 <= x1 else "ymax"
            raise DataError(
                f"{at} ({label}): {field} is not beyond {field.replace('max', 'min')} in box "
                f"[{x1:g}, {y1:g}, {x2:g}, {y2:g}]; correct the file"
            )
        boxes.append(Box(label, x1, y1, x2, y2))
    return tuple(boxes)


def _number(item: ET.Element, field: str, at: str) -> float:
    text = item.findtext(f"bndbox/{field}")
    if text is None:
        raise DataError(f"{at} has no <bndbox>/<{field}>")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{at}: <{field}> is {text.strip()!r}, not a finite number")
    return value

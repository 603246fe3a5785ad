"""Sets in the formats everyone has: COCO JSON, Pascal VOC XML, YOLO txt with its data.yaml; and masks.

Images are named by their path below the folder that all of them share.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.datasets.readers import coco, masks, voc, yolo
from benchmarks.datasets.readers.base import IMAGE_SUFFIXES, UNREAD_SUFFIXES, Content, Problem, Tell
from benchmarks.datasets.sources import Source
from benchmarks.errors import DataError, RequestError, nearest

__all__ = ["FORMATS", "IMAGE_SUFFIXES", "Content", "Problem", "Tell", "detect", "read"]

FORMATS: dict[str, Callable[[Source, Tell], Content]] = {
    "coco": coco.read,
    "voc": voc.read,
    "yolo": yolo.read,
    "masks": masks.read,
}


def detect(source: Source) -> str:
    """The format of a source. DataError when it is none of ours, or more than one."""
    files = source.names()
    found = [
        name
        for name, there in (
            ("coco", any(n.lower().endswith(".json") and coco.is_coco(source, n) for n in files)),
            ("yolo", yolo.is_yolo(source)),
            ("voc", any(voc.is_voc(source, n) for n in files)),
            ("masks", masks.is_anomaly(source)),
        )
        if there
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{source.path} could be {' or '.join(found)}; say which with --format")
    raise DataError(
        f"{source.path}: neither COCO (a .json with images, annotations, categories), VOC (.xml per image) "
        "nor YOLO (data.yaml with names or classes.txt, labels/*.txt); masks are read with --format masks"
    )


def read(source: Source, format: str, tell: Tell) -> Content:
    """Read a source in a format, or the one that it is found to have ("auto").

    Args:
        tell: takes what is found about files that belong to no image.
    """
    if format == "auto":
        format = detect(source)
    if format not in FORMATS:
        raise RequestError(f"--format {format}: {nearest(format, [*FORMATS, 'auto'])}")
    for name in source.names():
        if name.lower().endswith(UNREAD_SUFFIXES):
            tell("unread_image", source.where(name), f"images are read as {', '.join(IMAGE_SUFFIXES)}")
    for name in source.broken():
        tell("broken_link", source.where(name), "it is a link to nothing")
    return FORMATS[format](source, tell)

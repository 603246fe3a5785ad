"""Prepared sets written out for other tools, on our splits: COCO and YOLO folders."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from benchmarks.datasets.prepared import PreparedDataset
from benchmarks.datasets.splits import Split
from benchmarks.errors import RequestError, nearest

Parts = Mapping[str, Sequence[str]]


def _parts(data: PreparedDataset, split: Split | None) -> Parts:
    if split is None:
        return {"all": [image["file_name"] for image in data.images]}
    return {part: names for part in ("train", "val", "test") if (names := getattr(split, part))}


def _write_coco(data: PreparedDataset, parts: Parts, folder: Path) -> None:
    for part, names in parts.items():
        for name in names:
            _copy(data, name, folder / "images" / part)
        content = _in_source_ids(data, data.coco(names))
        content["images"] = [{**i, "file_name": f"images/{part}/{i['file_name']}"} for i in content["images"]]
        (folder / "annotations").mkdir(exist_ok=True)
        text = json.dumps(content, indent=1) + "\n"
        (folder / "annotations" / f"instances_{part}.json").write_text(text, encoding="utf-8")


def _in_source_ids(data: PreparedDataset, content: dict[str, Any]) -> dict[str, Any]:
    """COCO content in the ids that results are read in: the source's own, where they are whole numbers and one each."""
    images = data.external_image_ids()
    categories = data.external_category_ids()
    drop = {"source_id", "source_file"}
    return {
        **content,
        "images": [{**{k: v for k, v in i.items() if k not in drop}, "id": images[i["id"]]} for i in content["images"]],
        "annotations": [
            {**a, "image_id": images[a["image_id"]], "category_id": categories[a["category_id"]]}
            for a in content["annotations"]
        ],
        "categories": [{"id": categories[c["id"]], "name": c["name"]} for c in content["categories"]],
    }


def yolo_names(data: PreparedDataset) -> dict[str, str]:
    """Name -> what an image is called in an export to YOLO: as it is, unless its label file would be another's too.

    YOLO finds labels by the stem, so `a.png` and `a.jpg` become `a_png.png` and `a_jpg.jpg`: results called `a.txt` are
    then of the images as they were, and of nobody knows which. Ultralytics reads no .jfif.
    """
    out: dict[str, str] = {}
    stems = Counter(str(PurePosixPath(i["file_name"]).with_suffix("")).casefold() for i in data.images)
    taken = {stem for stem, count in stems.items() if count > 1}
    for image in data.images:
        name = PurePosixPath(image["file_name"])
        suffix = ".jpg" if name.suffix.lower() == ".jfif" else name.suffix
        stem = name.stem
        while str(name.with_name(stem)).casefold() in taken:
            stem += "_" + (name.suffix.lstrip(".").lower() or "x")
        taken.add(str(name.with_name(stem)).casefold())
        out[image["file_name"]] = str(name.with_name(stem + suffix))
    return out


def _label_path(image: str) -> str:
    """Where YOLO looks for the labels of an image: the last folder `images` of its path is `labels` (ultralytics')."""
    head, _, tail = f"/{image}".rpartition("/images/")
    return str(PurePosixPath(f"{head}/labels/{tail}".lstrip("/")).with_suffix(".txt"))


def _write_yolo(data: PreparedDataset, parts: Parts, folder: Path) -> None:
    called = yolo_names(data)
    for part, names in parts.items():
        for name in names:
            path = f"images/{part}/{called[name]}"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(data.path(name), folder / path)
            image = data.image(name)
            lines = []
            for a in data.boxes(name):
                x, y, w, h = a["bbox"]
                width, height = image["width"], image["height"]
                values = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
                lines.append(" ".join([str(a["category_id"] - 1), *(f"{v:.10g}" for v in values)]))
            label = folder / _label_path(path)
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    # `path` is left out: tools then take the folder of the file itself. `train` and `val` must be there in any case.
    last = list(parts)[-1]
    content: dict[str, object] = dict.fromkeys(("train", "val"), f"images/{last}")
    content |= {part: f"images/{part}" for part in parts if part != "all"}
    content["names"] = dict(enumerate(data.classes))
    (folder / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _copy(data: PreparedDataset, name: str, folder: Path) -> None:
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(data.path(name), target)


WRITERS: dict[str, Callable[[PreparedDataset, Parts, Path], None]] = {"coco": _write_coco, "yolo": _write_yolo}


def export(
    data: PreparedDataset,
    format: str,
    out: Path,
    split: Split | None = None,
    report: Callable[[str], object] = lambda line: None,
) -> None:
    """Write a set to a new folder `out`, which appears only when it is complete.

    Args:
        format: "coco" or "yolo".
        split: parts to write as train, val and test; None for everything in one part.
        report: takes a line about what the format cannot say.

    Raises:
        RequestError: an unknown format, or `out` is there already.
    """
    if format not in WRITERS:
        raise RequestError(f"--format {format}: {nearest(format, WRITERS)}")
    if out.exists():
        raise RequestError(f"--out {out}: it is there already; name a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    work = out.parent / f".{out.name}.tmp-{os.getpid()}"
    try:
        work.mkdir()
        parts = _parts(data, split)
        WRITERS[format](data, parts, work)
        work.rename(out)
        ignored = sum(len(data.ignored(name)) for names in parts.values() for name in names)
        if ignored and format == "yolo":
            report(
                f"{out}: {ignored} ignored boxes (crowds, difficult objects) are left out, YOLO has no flag for them"
            )
    finally:
        shutil.rmtree(work, ignore_errors=True)

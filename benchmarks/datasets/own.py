"""A set of the user's own: prepared from COCO, VOC or YOLO files, split, and then used by its name."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from benchmarks.datasets import catalogue, formats, prepared, splits
from benchmarks.datasets.findings import Inspector, Policy, write_report
from benchmarks.datasets.prepared import PreparedDataset, Report
from benchmarks.datasets.sources import open_source
from benchmarks.errors import DataError, RequestError

FOLDS = 5


def prepare(
    name: str,
    root: Path | str | None,
    source: Path | str,
    *,
    form: str = "auto",
    policy: Policy | None = None,
    findings: Path | None = None,
    overlaps: bool = False,
    report: Report | None = None,
    force: bool = False,
) -> PreparedDataset:
    """Put a set of the user's own under the data root, with a fold list `<name>-5fold-v1` made for it.

    Args:
        form: "coco", "voc", "yolo", or "auto" to find out.
        overlaps: look for crops that show the same place, and keep them in one fold.

    Others, and errors: as for `prepared.prepare`.
    """
    say = report or (lambda line: None)
    if name in catalogue.CATALOGUE:
        raise RequestError(f"{name} is in the catalogue; give your set another name, or leave --format out")
    catalogue.own_spec(name, name, (), 0, 0, 0)  # the name, before any work
    folder = catalogue.data_root(root) / name
    opened = open_source(source)
    try:
        choices = [f"{kind}={action}" for kind, action in sorted((policy or {}).items())]
        origin = prepared.origin_of(opened, form, *choices, *(["overlaps"] if overlaps else []))
        if not force and (data := prepared.up_to_date(name, folder, origin)) is not None:
            say(f"{name}: up to date in {folder}")
            return data
        began = time.monotonic()
        content = formats.read(opened, form)
        if not content.classes:
            raise DataError(f"{opened.path}: no class in it")
        inspector = Inspector(content.classes, policy or {})
        title = catalogue.ELSEWHERE[name].title if name in catalogue.ELSEWHERE else name
        spec = catalogue.own_spec(name, title, content.classes, 0, 0, 0)
        with prepared.placed(folder) as work:
            try:
                data = prepared.build(spec, content.samples, work, inspector, None, say)
            finally:
                if findings is not None:
                    write_report(inspector.found, findings)
            _finish(data, spec, work, overlaps, say)
            prepared.write_source(work, source, origin)
    finally:
        opened.close()
    data = prepared.open_prepared(name, root)
    seconds = time.monotonic() - began
    say(
        f"{name}: {len(data.images)} images, {len(data.annotations)} boxes, {len(data.classes)} classes "
        f"in {folder}, split {spec.split} ({seconds:.1f} s)"
    )
    return data


def _finish(data: PreparedDataset, spec: catalogue.DatasetSpec, work: Path, overlaps: bool, say: Report) -> None:
    """Add the fold list, and what the catalogue must know, to the manifest."""
    if len(data.images) < FOLDS:
        raise DataError(f"{data.name}: {len(data.images)} images cannot be split into {FOLDS} folds; add images")
    text = splits.dumps(splits.make_list(data, folds=FOLDS, overlaps=overlaps, report=say)).encode()
    relative = f"splits/{spec.split}.json"
    (work / "splits").mkdir()
    prepared.write(work / relative, text)
    longest = max(max(image["width"], image["height"]) for image in data.images)
    manifest = {**data.manifest, "own": {"title": spec.title, "native_size": longest}}
    manifest["files"] = {**manifest["files"], relative: {"sha256": hashlib.sha256(text).hexdigest(), "size": len(text)}}
    prepared.write(work / "manifest.json", prepared.to_json(manifest))

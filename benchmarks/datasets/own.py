"""A set of the user's own, or one of `catalogue.ELSEWHERE`: prepared, split, and then used by its name."""

from __future__ import annotations

import hashlib
import importlib
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.datasets import catalogue, downloads, formats, prepared, splits
from benchmarks.datasets.catalogue import Guide
from benchmarks.datasets.findings import Inspector, Policy, write_report
from benchmarks.datasets.formats import Content
from benchmarks.datasets.prepared import PreparedDataset, Report
from benchmarks.errors import DataError, RequestError

FOLDS = 5


def prepare(
    name: str,
    root: Path | str | None,
    source: Path | str | None,
    *,
    digest: str = "",
    form: str | None = None,
    policy: Policy | None = None,
    findings: Path | None = None,
    overlaps: bool = False,
    report: Report | None = None,
    force: bool = False,
) -> PreparedDataset:
    """Put a set under the data root, with a fold list `<name>-5fold-v1` and few-shot lists made for it.

    Args:
        source: may be None for a set of `catalogue.ELSEWHERE` that can be downloaded.
        form: "coco", "voc", "yolo", "masks", or "auto" to find out; None for what the catalogue says, else "auto".
        overlaps: look for crops that show the same place, and keep them in one fold.

    Others, and errors: as for `prepared.prepare`.
    """
    say = report or (lambda line: None)
    if name in catalogue.CATALOGUE:
        raise RequestError(f"{name} is in the catalogue; give your set another name, or leave --format out")
    catalogue.own_spec(name, name, (), 0, 0, 0)  # the name, before any work
    folder = catalogue.data_root(root) / name
    guide = catalogue.ELSEWHERE.get(name)
    if source is None:
        if not force and name in catalogue.own_sets(root):
            say(f"{name}: up to date in {folder}")
            return prepared.open_prepared(name, root)
        if guide is None or not guide.url:
            how = f"; to get it: {guide.how_to_get}" if guide else ""
            raise RequestError(f"{name} needs its archive or folder: {catalogue.command(name)}{how}")
        source = guide.url
    if guide is not None and guide.url == source:
        digest = digest or guide.digest
    reader = guide.module if guide is not None and form is None else ""
    form = form or (guide.form if guide is not None else "auto")
    opened = downloads.open_any(source, folder.parent, digest, report, guide.without if guide is not None else ())
    try:
        choices = [f"{kind}={action}" for kind, action in sorted((policy or {}).items())]
        origin = prepared.origin_of(opened, reader or form, *choices, *(["overlaps"] if overlaps else []))
        if not force and (data := prepared.up_to_date(name, folder, origin)) is not None:
            say(f"{name}: up to date in {folder}")
            return data
        began = time.monotonic()
        content = importlib.import_module(reader).read(opened) if reader else formats.read(opened, form)
        if guide is not None:
            content = _translated(content, guide)
        if not content.classes:
            raise DataError(f"{opened.path}: no class in it")
        inspector = Inspector(content.classes, policy or {})
        spec = catalogue.own_spec(name, guide.title if guide is not None else name, content.classes, 0, 0, 0)
        with prepared.placed(folder) as work:
            try:
                data = prepared.build(spec, content.samples, work, inspector, None, say, content.source_ids)
            finally:
                if findings is not None:
                    write_report(inspector.found, findings)
            _finish(data, spec, work, overlaps, say)
            prepared.write_source(work, source, origin)
        opened.discard()
    finally:
        opened.close()
    data = prepared.open_prepared(name, root)
    seconds = time.monotonic() - began
    say(
        f"{name}: {len(data.images)} images, {len(data.annotations)} boxes, {len(data.classes)} classes "
        f"in {folder}, split {spec.split} ({seconds:.1f} s)"
    )
    if guide is not None:
        counts = (len(data.images), len(data.annotations) if guide.boxes is not None else None)
        same = counts == (guide.images, guide.boxes)
        boxes = f" and {guide.boxes:,} boxes" if guide.boxes is not None else ""
        say(f"{name}: stated are {guide.images:,} images{boxes}" + (", as found" if same else ", NOT as found"))
    return data


def _translated(content: Content, guide: Guide) -> Content:
    """With the catalogue's names of classes, and their order."""
    labels = guide.labels
    classes = guide.classes or tuple(dict.fromkeys(labels.get(label, label) for label in content.classes))
    samples = (
        replace(sample, boxes=tuple(replace(box, label=labels.get(box.label, box.label)) for box in sample.boxes))
        for sample in content.samples
    )
    ids = {labels.get(label, label): number for label, number in content.source_ids.items()}
    return Content(classes, samples, ids)


def _finish(data: PreparedDataset, spec: catalogue.DatasetSpec, work: Path, overlaps: bool, say: Report) -> None:
    """Add the split lists, and what the catalogue must know, to the manifest."""
    if len(data.images) < FOLDS:
        raise DataError(f"{data.name}: {len(data.images)} images cannot be split into {FOLDS} folds; add images")
    folds = splits.make_list(data, folds=FOLDS, overlaps=overlaps, report=say)
    lists = {spec.split: folds, **splits.make_fews(data, spec.split, folds)}
    longest = max(max(image["width"], image["height"]) for image in data.images)
    manifest = {**data.manifest, "own": {"title": spec.title, "native_size": longest}}
    manifest["files"] = dict(manifest["files"])
    (work / "splits").mkdir()
    for title, content in lists.items():
        text = splits.dumps(content).encode()
        relative = f"splits/{title}.json"
        prepared.write(work / relative, text)
        manifest["files"][relative] = {"sha256": hashlib.sha256(text).hexdigest(), "size": len(text)}
    prepared.write(work / "manifest.json", prepared.to_json(manifest))

"""A set of the user's own, or one of `catalogue.UNVERIFIED`: prepared, split, and then used by its name."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.datasets import catalogue, downloads, grouping, images, prepared, readers, splits
from benchmarks.datasets.catalogue import UnverifiedSpec
from benchmarks.datasets.downloads import Say
from benchmarks.datasets.findings import Inspector, Policy, write_report
from benchmarks.datasets.prepared import PreparedDataset
from benchmarks.datasets.readers import Content, Tell
from benchmarks.datasets.sources import Source
from benchmarks.errors import DataError, RequestError

FOLDS = 5


def prepare(
    name: str,
    root: Path | str | None,
    source: Path | str | None,
    *,
    digest: str = "",
    format: str | None = None,
    policy: Policy | None = None,
    findings: Path | None = None,
    overlaps: bool = False,
    report: Say | None = None,
    force: bool = False,
    replace: bool = False,
    strict: bool = False,
    groups: str = grouping.DEFAULT,
    folds: int = FOLDS,
) -> PreparedDataset:
    """Put a set under the data root, with a fold list `<name>-5fold-v1` and few-shot lists made for it.

    Args:
        source: may be None for a set of `catalogue.UNVERIFIED` that can be downloaded.
        format: "coco", "voc", "yolo", "masks", or "auto" to find out; None for what the catalogue says, else "auto".
        replace: whether a set of this name, made of something else, may be replaced.
        strict: each finding that no policy names is an error.
        overlaps: look for crops that show the same place, and keep them in one fold.
        groups: what else stays in one fold, a way of `grouping.groups`.
        folds: how many, at least `grouping.LEAST_FOLDS`.

    Others, and errors: as for `prepared.prepare`.
    """
    say: Say = report or (lambda line: None)
    if name in catalogue.CATALOGUE:
        raise RequestError(f"{name} is in the catalogue; give your set another name, or leave --format out")
    catalogue.own_spec(name, name, (), 0, 0, 0)  # the name, before any work
    grouping.check(groups)
    if folds < grouping.LEAST_FOLDS:
        raise RequestError(f"--folds {folds}: at least {grouping.LEAST_FOLDS}, to test, to choose and to train on")
    folder = catalogue.data_root(root) / name
    unverified = catalogue.UNVERIFIED.get(name)
    if source is not None and Path(source).is_dir() and folder.resolve().is_relative_to(Path(source).resolve()):
        raise RequestError(
            f"{folder} would lie within the source {source}, and be read as part of it the next time; use another "
            "--data-root"
        )
    if source is None:
        if not (force or strict or findings) and name in catalogue.own_sets(root):
            say(f"{name}: up to date in {folder}")
            return prepared.open_prepared(name, root)
        if unverified is None or not unverified.url:
            how = f"; to get it: {unverified.how_to_get}" if unverified else ""
            raise RequestError(f"{name} needs its archive or folder: {catalogue.command(name)}{how}")
        source = unverified.url
    if unverified is not None and unverified.url == source:
        digest = digest or unverified.digest
    reader = unverified.module if unverified is not None and format is None else ""
    format = format or (unverified.format if unverified is not None else "auto")
    without = unverified.without if unverified is not None else ()
    opened = downloads.open_any(source, folder.parent, digest, report, without)
    try:
        choices = [f"{kind}={action}" for kind, action in sorted((policy or {}).items())]
        if overlaps:
            choices.append("overlaps")
        if groups != grouping.DEFAULT:
            stated = hashlib.sha256(Path(groups).read_bytes()).hexdigest() if Path(groups).is_file() else ""
            choices.append(f"groups={stated or groups}")
        if folds != FOLDS:
            choices.append(f"folds={folds}")
        origin = prepared.origin_of(opened, reader or format, *choices)
        # What is strict, or wants the findings, looks at the source again: the set that lies there does not tell.
        fresh = force or strict or findings is not None
        if not fresh and (data := prepared.up_to_date(name, folder, origin)) is not None:
            say(f"{name}: up to date in {folder}")
            return data
        _announce_replacing(name, folder, str(source), replace or force, say)
        began = time.monotonic()
        inspector = Inspector((), policy or {}, strict)
        if inspector.policy.get("deep_image") == "fix":
            before = Inspector((), policy or {}, strict)
            content = _read(opened, reader, format, unverified, before.report)
            before.expect(content.classes)
            inspector.deep = _deep_range(content, before)
        content = _read(opened, reader, format, unverified, inspector.report)
        inspector.expect(content.classes)
        spec = catalogue.own_spec(name, unverified.title if unverified is not None else name, content.classes, 0, 0, 0)
        with prepared.placed(folder) as work:
            try:
                data = prepared.build(spec, content.samples, work, inspector, None, say, content.source_ids)
            finally:
                if findings is not None:
                    write_report(inspector.found, findings)
            _finish(data, spec, work, _renamed(content.parts, inspector.renamed), say, overlaps, groups, folds)
            prepared.write_source(work, source, origin)
        opened.discard()
    finally:
        opened.close()
    data = prepared.open_prepared(name, root)
    seconds = time.monotonic() - began
    say(
        f"{name}: {len(data.images)} images, {len(data.annotations)} boxes, {len(data.classes)} classes "
        f"in {folder}, split {catalogue.get(name, root).split} ({seconds:.1f} s)"
    )
    if unverified is not None:
        counts = (len(data.images), len(data.annotations) if unverified.boxes is not None else None)
        same = counts == (unverified.images, unverified.boxes)
        boxes = f" and {unverified.boxes:,} boxes" if unverified.boxes is not None else ""
        say(f"{name}: stated are {unverified.images:,} images{boxes}" + (", as found" if same else ", NOT as found"))
    return data


def _read(source: Source, reader: str, format: str, unverified: UnverifiedSpec | None, tell: Tell) -> Content:
    """The content of a source, by the module of the catalogue or a format."""
    content = importlib.import_module(reader).read(source) if reader else readers.read(source, format, tell)
    if unverified is not None:
        content = _translated(content, unverified)
    if not content.classes:
        raise DataError(f"{source.path}: no class in it")
    return content


def _renamed(parts: Mapping[str, str], renamed: Mapping[str, str]) -> dict[str, str]:
    """The parts by what images are called now: those that were encoded anew have another suffix."""
    moved = {name: parts[old] for name, old in renamed.items() if old in parts}
    return {name: part for name, part in parts.items() if name not in renamed} | moved


def _deep_range(content: Content, inspector: Inspector) -> images.Range:
    """The smallest and largest value of all images with more than 8 bits: 12 bits in 16 are scaled as 12.

    Of those that an inspector with the set's policy lets into it.
    """
    found = [
        used
        for sample in content.samples
        if sample.data is not None
        and (used := images.deep_values(sample.data, sample.file_name)) is not None
        and any(True for _ in inspector.clean([sample]))
    ]
    return images.Range(min(r.low for r in found), max(r.high for r in found)) if found else images.FULL


def _announce_replacing(name: str, folder: Path, source: str, agreed: bool, say: Say) -> None:
    """Say what becomes of a sound set in `folder`; RequestError where it was made of another source, if not agreed."""
    try:
        old = prepared.open_prepared(name, folder.parent)
        was = json.loads((folder / "source.json").read_bytes())["source"]
    except (DataError, RequestError, OSError, ValueError, KeyError, TypeError):
        return  # none, or not usable as it is
    cells = sum(
        old.manifest_digest.encode() in path.read_bytes()
        for runs in ("runs", "results")
        for path in (Path(runs) / name).glob("*.json")
        if not path.name.endswith(".profile.json")
    )
    trained = f"{cells} cells in runs/ and results/ here were" if cells else "whatever was"
    if was != source and not agreed:
        raise RequestError(
            f"{name} is prepared already, from {was} ({len(old.images)} images); {trained} trained on it and would be "
            "again: --replace to make it anew, or choose another name"
        )
    say(f"{name}: made anew from {source}, was from {was}; {trained} trained on it and will be again, if it changed")


def _translated(content: Content, unverified: UnverifiedSpec) -> Content:
    """With the catalogue's names of classes, and their order."""
    labels = unverified.labels
    classes = unverified.classes or tuple(dict.fromkeys(labels.get(label, label) for label in content.classes))
    samples = (
        dataclasses.replace(
            sample,
            boxes=tuple(dataclasses.replace(box, label=labels.get(box.label, box.label)) for box in sample.boxes),
        )
        for sample in content.samples
    )
    ids = {labels.get(label, label): number for label, number in content.source_ids.items()}
    return Content(classes, samples, ids, content.parts)


def _finish(
    data: PreparedDataset,
    spec: catalogue.DatasetSpec,
    work: Path,
    parts: Mapping[str, str],
    say: Say,
    overlaps: bool,
    groups: str,
    folds: int,
) -> None:
    """Add the split lists, and what the catalogue must know, to the manifest."""
    theirs = _their_split(data, parts, say)
    if len(data.images) < folds and not theirs:
        fewer = f", or --folds {len(data.images)}" if len(data.images) >= grouping.LEAST_FOLDS else ""
        raise DataError(f"{data.name}: {len(data.images)} images cannot be split into {folds} folds; add images{fewer}")
    lists = {f"{data.name}-own-v1": theirs} if theirs else {}
    title = f"{data.name}-{folds}fold-v1"
    try:
        made = splits.make_list(data, folds=folds, overlaps=overlaps, how=groups, report=say)
        lists |= {title: made, **splits.make_fews(data, title, made)}
        _say_what_leaks(data, parts if theirs else {}, splits.stated(made), say)
        if theirs:  # images of one group are no independent draws there either
            theirs["groups"] = splits.stated(made)
    except DataError as e:
        if not theirs:
            raise
        say(f"{e}; no folds are made, the source's own parts stay, and intervals take each image for one of its own")
    for name in (f"{data.name}-own-v1", title):
        if name in lists:
            _say_what_is_not_trained(data, name, lists[name], say)
    if blank := [
        i["file_name"] for i in data.images if not data.boxes(i["file_name"]) and data.ignored(i["file_name"])
    ]:
        say(
            f"{data.name}: {len(blank)} images hold nothing but objects that are ignored, for example {blank[0]}: they "
            "count neither as good parts nor as defective ones, in escape, overkill and AUROC"
        )
    longest = max(max(image["width"], image["height"]) for image in data.images)
    own = {"title": spec.title, "native_size": longest}
    if folds != FOLDS:
        own |= {"split": title, "folds": folds}
    if theirs:
        own |= {"split": f"{data.name}-own-v1", "folds": 1}
    manifest = {**data.manifest, "own": own}
    manifest["files"] = dict(manifest["files"])
    (work / "splits").mkdir()
    for title, content in lists.items():
        text = splits.dumps(content).encode()
        relative = f"splits/{title}.json"
        prepared.write(work / relative, text)
        manifest["files"][relative] = {"sha256": hashlib.sha256(text).hexdigest(), "size": len(text)}
    prepared.write(work / "manifest.json", prepared.to_json(manifest))


def _say_what_leaks(data: PreparedDataset, parts: Mapping[str, str], groups: Sequence[Sequence[str]], say: Say) -> None:
    """A line where images that belong together lie in more than one of the source's parts."""
    spread = [group for group in groups if len({parts[name] for name in group if name in parts}) > 1]
    if spread:
        shown = ", ".join(f"{name} ({parts.get(name, 'no part')})" for name in spread[0][:3])
        say(
            f"{data.name}: {len(spread)} groups of images that belong together lie in several of the source's parts, "
            f"for example {shown}: what is tested was seen in training; the folds keep them together"
        )


def _say_what_is_not_trained(data: PreparedDataset, title: str, content: Mapping[str, Any], say: Say) -> None:
    """A line for each class that a fold tests and has nothing of to train on."""
    parts = [content["parts"]] if "parts" in content else None
    folds = [(p["train"], p["test"]) for p in parts] if parts else [(a, c) for a, _, c in splits._rotated(content)]
    shown = {i["file_name"]: {a["category_id"] for a in data.boxes(i["file_name"])} for i in data.images}
    for k, label in enumerate(data.classes, start=1):
        found = [
            str(fold)
            for fold, (train, test) in enumerate(folds)
            if any(k in shown[name] for name in test) and not any(k in shown[name] for name in train)
        ]
        if found:
            where = f" of fold {', '.join(found)}" if len(folds) > 1 else ""
            say(
                f"{data.name}: {title}: class {label!r} is in the test part{where} and not in what is trained on: what "
                "is found of it there is chance, and counts in the mean over classes"
            )


def _their_split(data: PreparedDataset, parts: Mapping[str, str], say: Say) -> dict[str, Any]:
    """A split list as the source itself parts the set; empty where it does not, or has nothing to test on."""
    named: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for image in data.images:
        if (part := parts.get(image["file_name"])) is not None:
            named[part].append(image["file_name"])
    if not named["train"] or not (named["val"] or named["test"]):
        return {}
    shown = ", ".join(f"{len(names)} {part}" for part, names in named.items() if names)
    rest = len(data.images) - sum(map(len, named.values()))
    if not named["test"]:
        named["val"], named["test"] = [], named["val"]
    tested = "" if "test" in shown else "; its val part is what is tested, so nothing may be chosen by it"
    outside = f"; {rest} images are in no part" if rest else ""
    title = f"{data.name}-own-v1"
    say(f"{data.name}: the source's own parts ({shown}) are kept as split {title}, the default{tested}{outside}")
    return {"schema": 1, "dataset": data.name, "parts": named}

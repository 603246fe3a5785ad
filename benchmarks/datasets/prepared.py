"""Prepared sets: COCO JSON, images and a manifest of digests in one folder, put there in one step.

<data root>/<name>/manifest.json      classes, counts, SHA-256 and size of every other file
                   annotations.json   COCO
                   images/...
                   source.json        what it was made from; not part of the manifest
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from benchmarks.datasets import catalogue, downloads
from benchmarks.datasets.catalogue import DatasetSpec
from benchmarks.datasets.downloads import Say
from benchmarks.datasets.findings import Clean, Inspector, Policy, write_report
from benchmarks.datasets.sources import Box, RawSample, Source
from benchmarks.errors import DataError, RequestError
from benchmarks.files import sync

SCHEMA = 1


@dataclass(frozen=True)
class PreparedDataset:
    """A set as it lies on disk. `file_name`s are the keys that split lists use."""

    name: str
    root: Path
    classes: tuple[str, ...]
    native_size: int
    manifest: dict[str, Any] = field(repr=False)
    manifest_digest: str

    @cached_property
    def _coco(self) -> dict[str, Any]:
        return json.loads((self.root / "annotations.json").read_bytes())

    @property
    def images(self) -> list[dict[str, Any]]:
        """COCO image entries, in the order of their ids."""
        return self._coco["images"]

    @cached_property
    def annotations(self) -> list[dict[str, Any]]:
        """The boxes that are asked for, over all images."""
        return [a for a in self._coco["annotations"] if not is_ignored(a)]

    @cached_property
    def _by_name(self) -> dict[str, dict[str, Any]]:
        return {image["file_name"]: image for image in self.images}

    @cached_property
    def _by_image(self) -> dict[int, list[dict[str, Any]]]:
        found: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in self.images}
        for annotation in self._coco["annotations"]:
            found[annotation["image_id"]].append(annotation)
        return found

    def image(self, file_name: str) -> dict[str, Any]:
        """The COCO entry of an image. DataError when the set has none of that name."""
        if file_name not in self._by_name:
            raise DataError(f"data set {self.name!r} has no image {file_name!r}; is its split list the right one?")
        return self._by_name[file_name]

    def boxes(self, file_name: str) -> list[dict[str, Any]]:
        """The COCO annotations of the boxes that an image is asked for; see `ignored` for the others."""
        return [a for a in self._by_image[self.image(file_name)["id"]] if not is_ignored(a)]

    def ignored(self, file_name: str) -> list[dict[str, Any]]:
        """The COCO annotations of what is neither asked for nor false: crowds (`iscrowd`), difficult (`ignore`)."""
        return [a for a in self._by_image[self.image(file_name)["id"]] if is_ignored(a)]

    def coco(self, file_names: Sequence[str]) -> dict[str, Any]:
        """COCO ground truth of some images, in the order given; ids stay those of the whole set."""
        return {
            "info": {"description": self.name},
            "images": [self.image(name) for name in file_names],
            "annotations": [a for name in file_names for a in self._by_image[self.image(name)["id"]]],
            "categories": self.categories,
        }

    @property
    def categories(self) -> list[dict[str, Any]]:
        """COCO categories, 1..K in the order of `classes`; `source_id` where the source has an id of its own."""
        return self._coco["categories"]

    def external_image_ids(self) -> dict[int, int]:
        """Our image ids -> those that exports have and results are read in.

        They are the source's, where it gives every image a whole number of its own; else ours.
        """
        return _external(self.images)

    def external_category_ids(self) -> dict[int, int]:
        """Our category ids, 1..K -> those that exports have and results are read in; see `external_image_ids`."""
        return _external(self.categories)

    def path(self, file_name: str) -> Path:
        return self.root / "images" / self.image(file_name)["file_name"]


def _external(entries: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    ids = [entry.get("source_id") for entry in entries]
    own = all(isinstance(i, int) for i in ids) and len(set(ids)) == len(ids)
    return {entry["id"]: entry["source_id"] if own else entry["id"] for entry in entries}


def _folder(name: str, root: Path | str | None) -> Path:
    return catalogue.data_root(root) / name


def is_prepared(name: str, root: Path | str | None = None) -> bool:
    """Whether the set lies under the data root `root`; nothing is checked."""
    folder = _folder(name, root)
    _recover(folder)
    catalogue.get(name, root)
    return (folder / "manifest.json").is_file()


def open_prepared(name: str, root: Path | str | None = None) -> PreparedDataset:
    """Open the set that lies under the data root `root`.

    Checks that every file is there in its size, and the digest of the annotations; `verify` checks every digest.

    Raises:
        RequestError: unknown name, or not prepared; names the command that prepares it.
        DataError: prepared by another version, or damaged.
    """
    folder = _folder(name, root)
    if not is_prepared(name, root):
        raise RequestError(f"data set {name!r} is not prepared under {folder.parent}; run: {catalogue.command(name)}")
    spec = catalogue.get(name, root)
    remedy = f"prepare it again: {catalogue.command(name)} --force"
    try:
        content = (folder / "manifest.json").read_bytes()
        manifest = json.loads(content)
        files = manifest["files"]
        current = (manifest["schema"], manifest["name"], manifest["version"], manifest["classes"])
        sizes = {entry: files[entry]["size"] for entry in files}
        recorded = files["annotations.json"]["sha256"]
    except (ValueError, KeyError, TypeError) as e:
        raise DataError(f"{folder / 'manifest.json'} is damaged ({type(e).__name__}: {e}); {remedy}") from None
    if current != (SCHEMA, name, spec.version, list(spec.classes)):
        raise DataError(f"{folder} was prepared by another version of this project; {remedy}")
    for entry, size in sizes.items():
        try:
            actual = os.stat(folder / entry).st_size
        except OSError:
            raise DataError(f"{folder / entry} is missing; {remedy}") from None
        if actual != size:
            raise DataError(f"{folder / entry} has {actual} bytes, not {size}; {remedy}")
    if hashlib.sha256((folder / "annotations.json").read_bytes()).hexdigest() != recorded:
        raise DataError(f"{folder / 'annotations.json'} was changed since it was prepared; {remedy}")
    return PreparedDataset(name, folder, spec.classes, spec.native_size, manifest, hashlib.sha256(content).hexdigest())


def verify(name: str, root: Path | str | None = None) -> PreparedDataset:
    """`open_prepared`, and every file's digest. DataError names the first file that differs."""
    data = open_prepared(name, root)
    for entry, facts in data.manifest["files"].items():
        if hashlib.sha256((data.root / entry).read_bytes()).hexdigest() != facts["sha256"]:
            raise DataError(f"{data.root / entry} was changed; prepare it again: {catalogue.command(name)} --force")
    return data


def require_unchanged(data: PreparedDataset, file_names: Iterable[str]) -> None:
    """DataError names the first of these images that is not as it was prepared.

    Cheap: an image is read only where it, or its entry in the file system, is younger than the manifest, which is
    written last.
    """
    written = os.stat(data.root / "manifest.json").st_mtime_ns
    for name in file_names:
        path, facts = data.path(name), data.manifest["files"][f"images/{name}"]
        try:
            state = os.stat(path)
            younger = max(state.st_mtime_ns, state.st_ctime_ns) > written
            same = state.st_size == facts["size"] and (
                not younger or hashlib.sha256(path.read_bytes()).hexdigest() == facts["sha256"]
            )
        except OSError as e:
            raise DataError(f"cannot read {path}: {e.strerror or e}") from None
        if not same:
            raise DataError(f"{path} was changed; prepare it again: {catalogue.command(data.name)} --force")


def ensure(name: str, root: Path | str | None = None, report: Say | None = None) -> PreparedDataset:
    """Open a prepared set; one that needs no input is made on the spot, and again where another version made it.

    Args:
        report: is told of the latter.
    """
    spec, folder = catalogue.get(name, root), _folder(name, root)
    if spec.embedded:
        made = _version_of(folder)
        if made not in (None, spec.version) and report is not None:
            report(f"{name}: version {made} in {folder} is replaced by version {spec.version}")
        if made not in (None, spec.version) or not is_prepared(name, root):
            return prepare(name, root)
    return open_prepared(name, root)


def _version_of(folder: Path) -> object:
    """Of the set in `folder`, as its manifest says; None where that does not."""
    try:
        return json.loads((folder / "manifest.json").read_bytes())["version"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def prepare(
    name: str,
    root: Path | str | None = None,
    source: Path | str | None = None,
    *,
    digest: str = "",
    report: Say | None = None,
    force: bool = False,
    policy: Policy | None = None,
    findings: Path | None = None,
    strict: bool = False,
) -> PreparedDataset:
    """Make the set under the data root `root`, or find it up to date.

    It is built in a folder beside its place and then renamed: killed at any moment, this leaves the old state or the
    new one.

    Args:
        source: a folder, an archive, or the http(s) address of one; None for sets that are made without input.
        digest: "sha256:..." or "md5:..." of the archive, checked before anything of it is read.
        report: takes lines of progress.
        force: build it even when it is up to date.
        policy: what to do about findings, by kind; without one, each is an error. Stated in the manifest.
        findings: file for the list of all findings, written in any case.
        strict: each finding that no policy names is an error.

    Raises:
        RequestError: unknown name, or a source is wanted and not given or not there.
        DataError: a file of the source is wrong; the message names it, the field and the remedy.
    """
    say = report or (lambda line: None)
    spec = catalogue.get(name, root)
    folder = _folder(name, root)
    if source is None and not spec.embedded:
        if not (force or strict or findings) and is_prepared(name, root):
            say(f"{name}: up to date in {folder}")
            return open_prepared(name, root)
        raise RequestError(
            f"{name} needs its archive or folder: {catalogue.command(name)}; to get it: {spec.how_to_get}"
        )
    if source is not None and spec.embedded:
        raise RequestError(f"{name} is made without input; leave --from out")
    opened = downloads.open_any(source, folder.parent, digest, report) if source is not None else None
    try:
        origin = origin_of(opened, *(f"{kind}={action}" for kind, action in sorted((policy or {}).items())))
        # What is strict, or wants the findings, looks at the source again: the set that lies there does not tell.
        fresh = force or strict or findings is not None
        if not fresh and (data := up_to_date(name, folder, origin)) is not None:
            say(f"{name}: up to date in {folder}")
            return data
        began = time.monotonic()
        inspector = Inspector(spec.classes, {**spec.known, **(policy or {})}, strict)
        samples = importlib.import_module(spec.module).read(opened)
        with placed(folder) as work:
            try:
                build(spec, samples, work, inspector, (spec.images, spec.boxes), say)
            finally:
                if findings is not None:
                    write_report(inspector.found, findings)
            write_source(work, source, origin)
        if opened is not None:
            opened.discard()
    finally:
        if opened is not None:
            opened.close()
    data = open_prepared(name, root)
    seconds = time.monotonic() - began
    say(f"{name}: {len(data.images)} images, {len(data.annotations)} boxes in {folder} ({seconds:.1f} s)")
    return data


@contextlib.contextmanager
def placed(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `folder` in one step when the block ends well.

    Raises:
        RequestError: nothing can be made beside `folder`.
    """
    work = folder.parent / f".{folder.name}.tmp-{socket.gethostname()}-{os.getpid()}"
    try:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            _clean(folder)
            work.mkdir()
        except OSError as e:
            raise RequestError(
                f"cannot write into {folder.parent}: {e.strerror or e}; choose another with --data-root"
            ) from None
        yield work
        _swap(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write_source(work: Path, source: Path | str | None, origin: str) -> None:
    """Note from what a set was made, for `up_to_date`."""
    facts = {"source": str(source) if source is not None else None, "fingerprint": origin}
    write(work / "source.json", to_json(facts))


def origin_of(source: Source | None, *choices: str) -> str:
    """Says whether a set would be made from the same input in the same way."""
    return " ".join([source.fingerprint() if source is not None else "embedded", *choices])


def up_to_date(name: str, folder: Path, origin: str) -> PreparedDataset | None:
    """The set in `folder`, when it is sound and was made from the same."""
    _recover(folder)
    try:
        known = json.loads((folder / "source.json").read_bytes()).get("fingerprint")
        return open_prepared(name, folder.parent) if known == origin else None
    except (DataError, RequestError, OSError, ValueError, AttributeError):
        return None  # damaged or old: made again


def build(
    spec: DatasetSpec,
    samples: Iterable[RawSample],
    work: Path,
    inspector: Inspector,
    counts: tuple[int, int] | None,
    say: Say,
    source_ids: Mapping[str, int | str | None] | None = None,
) -> PreparedDataset:
    """Fill the folder `work` with images, annotations and manifest.

    Args:
        counts: images and boxes that must come out; None for whatever comes.
        source_ids: the source's own ids of classes, by name, where it has any.

    Raises:
        DataError: a finding without a policy, other counts, or no image at all.
    """
    ids = {label: i for i, label in enumerate(spec.classes, start=1)}
    source_ids = source_ids or {}
    (work / "images").mkdir()
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    files: dict[str, dict[str, Any]] = {}
    for image in inspector.clean(samples):
        image_id = len(entries) + 1
        entries.append(_image_entry(image_id, image))
        for box in image.boxes:
            annotations.append(_annotation(len(annotations) + 1, image_id, ids[box.label], box))
        relative = f"images/{image.file_name}"
        target = work / relative
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(image.data)
        except OSError as e:
            if e.errno not in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG):
                raise
            raise DataError(f"image {image.file_name!r} cannot be called so ({e.strerror}); rename it") from None
        files[relative] = {"sha256": hashlib.sha256(image.data).hexdigest(), "size": len(image.data)}
        if len(entries) % 500 == 0:
            say(f"{spec.name}: {len(entries)} images")
    if counts is not None and not entries:
        raise DataError(
            f"this is another archive than that of {spec.name}: no image in it has what belongs to one of that set; "
            f"to get it: {spec.how_to_get}"
        )
    try:
        inspector.finish()
    except DataError:
        for line in inspector.refusals():
            say(line)
        raise
    if counts is not None and (len(entries), len(annotations)) != counts:
        raise DataError(
            f"{spec.name}: the source holds {len(entries)} images and {len(annotations)} boxes, "
            f"the data set has {counts[0]} and {counts[1]}; is it complete?"
        )
    if not entries:
        raise DataError(f"{spec.name}: no image is left of the source")
    if not annotations:
        raise DataError(f"{spec.name}: no box in {len(entries)} images; do their labels lie where the format has them?")
    coco = {
        "info": {"description": spec.title, "version": str(spec.version), "url": spec.homepage},
        "licenses": [{"id": 1, "name": spec.licence, "url": spec.homepage}],
        "images": entries,
        "annotations": annotations,
        "categories": [
            {"id": i, "name": label} | ({"source_id": source_ids[label]} if label in source_ids else {})
            for label, i in ids.items()
        ],
    }
    content = to_json(coco)
    write(work / "annotations.json", content)
    files["annotations.json"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "name": spec.name,
        "version": spec.version,
        "classes": list(spec.classes),
        "images": len(entries),
        "boxes": sum(not is_ignored(a) for a in annotations),
        "files": dict(sorted(files.items())),
    }
    if ignored := len(annotations) - manifest["boxes"]:
        manifest["ignored"] = ignored
    if changes := inspector.changes():
        manifest["changes"] = changes
    if examples := inspector.examples():
        manifest["examples"] = examples
    for line in inspector.lines():
        say(f"{spec.name}: {line}")
    content = to_json(manifest)
    write(work / "manifest.json", content)
    digest = hashlib.sha256(content).hexdigest()
    return PreparedDataset(spec.name, work, spec.classes, spec.native_size, manifest, digest)


def _image_entry(image_id: int, image: Clean) -> dict[str, Any]:
    """An image as annotations.json states it; what it does not have is absent, so that digests do not change by it."""
    entry = {"id": image_id, "file_name": image.file_name, "width": image.width, "height": image.height}
    if image.source_id is not None:
        entry["source_id"] = image.source_id
    if image.source_file:
        entry["source_file"] = image.source_file
    return entry


def _annotation(number: int, image_id: int, category_id: int, box: Box) -> dict[str, Any]:
    w, h = box.x2 - box.x1, box.y2 - box.y1
    entry = {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [box.x1, box.y1, w, h],
        "area": w * h if box.area is None else box.area,
        "iscrowd": int(box.ignore == "crowd"),
    }
    return {**entry, "ignore": 1} if box.ignore == "difficult" else entry


def is_ignored(annotation: Mapping[str, Any]) -> bool:
    """Whether an annotation is neither asked for nor false when it is found: a crowd, or a difficult object."""
    return bool(annotation.get("iscrowd") or annotation.get("ignore"))


def to_json(value: Any) -> bytes:
    """Write JSON in the layout of all our files."""
    return (json.dumps(value, indent=1, ensure_ascii=True) + "\n").encode()


def write(path: Path, content: bytes) -> None:
    """Write a file and see it on the disk."""
    with path.open("wb") as f:
        f.write(content)
        f.flush()
        sync(f.fileno())


def _old(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.old"


def _swap(work: Path, folder: Path) -> None:
    """Put `work` in the place of `folder`. Between the two renames `_recover` can still find the old state."""
    old = _old(folder)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    try:
        work.rename(folder)
    except OSError:
        if not (folder / "manifest.json").is_file():  # else another process was faster, with the same set
            raise
    shutil.rmtree(old, ignore_errors=True)


def _recover(folder: Path) -> None:
    """Undo a swap that was killed half-way."""
    old = _old(folder)
    if not folder.exists() and (old / "manifest.json").is_file():
        old.rename(folder)


def _clean(folder: Path) -> None:
    """Remove what killed runs on this machine left behind."""
    prefix = f".{folder.name}.tmp-{socket.gethostname()}-"
    for left in folder.parent.glob(f"{prefix}*"):
        pid = left.name.removeprefix(prefix)
        if not (pid.isdigit() and psutil.pid_exists(int(pid)) and int(pid) != os.getpid()):
            shutil.rmtree(left, ignore_errors=True)

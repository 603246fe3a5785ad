"""What BASE and HEAD may be: a folder of records, one record, or those of a commit, `git:REV[:PATH]`.

`@MODEL` after any of them, or `@model:variant`, takes the records of that model alone.
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from pathlib import Path

from benchmarks import models
from benchmarks.errors import DataError, RequestError
from benchmarks.store import CellPaths, Stored, load, require_each_once, scan

GATE = "results/_gate"
"""Where the gate's records lie in this repository."""


def read(side: str, work: Path) -> list[Stored]:
    """The records of a side, in a stable order.

    Args:
        work: a folder for the records of a commit, which must outlive what is read.

    Raises:
        RequestError: nothing is there.
        DataError: a record is damaged, or a cell occurs twice.
    """
    place, model = split(side)
    found = _records(place, work)
    if model is not None:
        name, _, variant = model.partition(":")
        wanted = name if variant in ("", "default") else model
        chosen = [s for s in found if s.run.cell.name == wanted]
        if not chosen:
            known = ", ".join(sorted({s.run.cell.name for s in found})) or "none"
            raise RequestError(f"{side}: no record of {wanted!r} there; models there: {known}")
        return chosen
    return found


def split(side: str) -> tuple[str, str | None]:
    """Place and model. A path that is there may hold an @ itself; models have no slash but in `mmdet:PATH`."""
    place, at, model = side.rpartition("@")
    if not at or Path(side).exists():
        return side, None
    if not side.startswith("git:") and not Path(place).exists():
        return side, None
    try:
        models.get(models.split_name(model)[0])
    except RequestError:
        if side.startswith("git:"):  # a revision such as HEAD@{1}
            return side, None
        raise
    return place, model


def _records(place: str, work: Path) -> list[Stored]:
    if place.startswith("git:"):
        revision, path = revision_of(place)
        if path.endswith(".json"):
            folder, _, name = path.rpartition("/")
            record = _of_commit(revision, folder, work) / name
            if not record.is_file():
                raise RequestError(f"git:{revision}: no {path} in that commit")
            return [_one(record)]
        return list(scan(_of_commit(revision, path, work)))
    path_here = Path(place)
    if path_here.is_dir():
        return list(scan(path_here))
    if path_here.is_file():
        return [_one(path_here)]
    raise RequestError(f"no folder and no record {place}; a commit is named git:REV")


def revision_of(place: str) -> tuple[str, str]:
    """Revision and folder of `git:REV[:PATH]`."""
    revision, _, path = place.removeprefix("git:").partition(":")
    if not revision or revision.startswith("-"):
        raise RequestError(f"{place}: a commit is named git:REV, or git:REV:PATH for other records than {GATE}")
    return revision, path.rstrip("/") or GATE


def _one(path: Path) -> Stored:
    """The record in a file, with what lies beside it."""
    if path.name.endswith(".profile.json") or path.suffix != ".json":
        raise RequestError(f"{path} is not the record of a training; name the .json file beside it")
    try:
        json.loads(path.read_bytes())
    except ValueError:
        raise DataError(f"{path} is no JSON") from None
    here = path.resolve()
    found = load(CellPaths(here.parents[1], here.parent.name, here.name.removesuffix(".json")))
    require_each_once([found])
    return found


def git(*arguments: str, where: Path | None = None) -> bytes:
    """Output of a git command; RequestError with its last line when it fails."""
    try:
        done = subprocess.run(["git", *arguments], cwd=where, capture_output=True, check=False)
    except FileNotFoundError:
        raise RequestError("git is not installed: name folders of records instead of commits") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise RequestError(f"git {arguments[0]}: {said[-1]}")
    return done.stdout


def commit_of(revision: str) -> str:
    """The full name of a commit; RequestError for an unknown one."""
    return git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}").decode().strip()


def top() -> Path:
    """The root of the clone that this is called in."""
    return Path(git("rev-parse", "--show-toplevel").decode().strip())


def _of_commit(revision: str, path: str, work: Path) -> Path:
    """The files below `path` at a commit, written below `work`; the folder with them."""
    try:
        commit = commit_of(revision)
    except RequestError:
        raise RequestError(f"git:{revision}: no such commit here") from None
    root = top()
    if not git("ls-tree", commit, "--", path, where=root):
        raise RequestError(f"git:{revision}: no {path} in that commit")
    packed = git("archive", "--format=tar", commit, "--", path, where=root)
    folder = work / commit
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        for member in tar:
            if member.isfile():  # links would lead out of the folder
                content = tar.extractfile(member)
                assert content is not None
                target = (folder / member.name).resolve()
                if not target.is_relative_to(folder.resolve()):
                    raise DataError(f"git:{revision}: {member.name} lies outside of its folder")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())
    return folder / path

"""`python -m benchmarks.merge FOLDER ...`: records of other machines join ours, checked. Torch-free.

The class of the device that a cell was trained on is part of the cell (`Cell.device_class`), so that the same cell of
another class is another one: both stay, and nothing pairs them. A fold is to be trained on one class as a whole; where
it was not, that is said.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.cli import console, run_app
from benchmarks.cost import latency_files
from benchmarks.devices import device_class
from benchmarks.errors import DataError, RequestError
from benchmarks.files import sha256_of
from benchmarks.preflight import require_files
from benchmarks.store import (
    CellPaths,
    ProfileRecord,
    RunRecord,
    Stored,
    is_foreign,
    load,
    read_profile,
    read_record,
    write_atomic,
)

app = typer.Typer(add_completion=False)

RESULTS = Path("results")
_OURS = Path(__file__).parents[1] / RESULTS
"""Of the clone that this is, wherever the command is given."""


@app.command()
def main(
    folders: Annotated[list[Path], typer.Argument(help="folders with records of other machines", metavar="FOLDER ...")],
    into: Annotated[Path, typer.Option(help="folder that they join: runs/, results/, results/_NAME")] = RESULTS,
) -> None:
    """Copy the records of other folders, with their detections and profiles, and latencies (_latency), into ours.

    Each is validated and its files' digests are checked; what is damaged stays out, and the exit code is 1. So does a
    record with other digests of data or split list than those that are there of its data set and list, and, of what is
    to be published in results/, a record that does not say which source made it. Of a cell that occurs twice the older
    record stays; of latencies of one suite and device those that are complete, else the older.
    """
    require_files(into, "--into")
    found = merge(folders, into)
    for line in (*found.damaged, *found.twice, *found.notes, *found.split_folds):
        console.print(line, soft_wrap=True, highlight=False)
    place = _latencies_of(into, _is_published(into)) / latency_files.FOLDER
    timed = f"; {found.latencies} files of latencies joined {place}/" if found.latencies else ""
    console.print(f"{found.joined} records joined {into}/, {found.there} were there already{timed}", highlight=False)
    if found.damaged:
        raise typer.Exit(1)


@dataclass
class Merged:
    """What became of the records: counts, and a line for each thing that the user should know."""

    joined: int = 0
    there: int = 0
    latencies: int = 0
    damaged: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    split_folds: list[str] = field(default_factory=list)


def merge(folders: list[Path], into: Path) -> Merged:
    """Copy the records below `folders` into `into`.

    Raises:
        RequestError: a folder without records, or `into` itself among them.
        DataError: a record of ours is damaged, or a file cannot be written.
    """
    out = Merged()
    published = _is_published(into)
    asked = _asked(into)
    taken = {folder.resolve() for folder in (*folders, into)}
    for folder in folders:
        if folder.resolve() == into.resolve():
            raise RequestError(f"{folder} is the folder that the others are to join")
        out.notes += [
            f"{own} is not merged: give it as a FOLDER of its own"
            for own in sorted(folder.glob("_*"))
            if own.resolve() not in taken and any(not p.name.endswith(".profile.json") for p in own.glob("*/*.json"))
        ]
        paths = sorted(p for p in folder.glob("[!_.]*/*.json") if not p.name.endswith(".profile.json"))
        timed = latency_files.files(folder)
        if not paths and not timed:
            raise RequestError(f"{folder} holds no records: they lie in FOLDER/DATA_SET/*.json")
        for path in paths:
            try:
                theirs, files = checked(path, folder)
                if published and (bad := theirs.unpublishable):
                    raise DataError(f"{bad[0][0]}: {bad[0][1]}; run it again from a commit")
                _require_same_images(theirs.run, asked, path)
            except DataError as e:
                out.damaged.append(f"left out: {e}")
                continue
            if published and theirs.run.status not in _ANSWERED:
                out.notes.append(f"left out: {path} {theirs.run.status}, which is no result ({theirs.run.error})")
                continue
            _join(theirs, files, into, out)
        for path in timed:
            _join_latencies(path, into, published, out)
    out.split_folds = _split_folds(into)
    return out


Asked = dict[tuple[str, str], set[tuple[str, str]]]
"""The digests of data and split list of the records of a data set and split list."""


def _asked(into: Path) -> Asked:
    out: Asked = defaultdict(set)
    for path in sorted(into.glob("[!_.]*/*.json")):
        if not path.name.endswith(".profile.json") and not is_foreign(path):
            run = read_record(path, RunRecord)
            out[run.cell.dataset, run.cell.split].add((run.fingerprint.data, run.fingerprint.split))
    return out


def _require_same_images(run: RunRecord, asked: Asked, path: Path) -> None:
    """DataError where a record is of other images than those of its table that are there; else it counts as there."""
    known = asked[run.cell.dataset, run.cell.split]
    digests = run.fingerprint.data, run.fingerprint.split
    if known and digests not in known:
        raise DataError(f"{path}: the digests of its data or split list are others than those of the records there")
    known.add(digests)


def checked(path: Path, folder: Path) -> tuple[Stored, dict[str, bytes]]:
    """The record at `path` below `folder`, with the files to copy, by the attribute of `CellPaths` that names them.

    Raises:
        DataError: it, its profile or its detections are damaged, missing or another cell's.
    """
    paths = CellPaths(folder, path.parent.name, path.name[: -len(".json")])
    run = read_record(path, RunRecord)
    if CellPaths.of(folder, run.cell) != paths or run.cell_id != run.cell.id:
        raise DataError(f"{path} lies where its cell {run.cell_id} ({run.cell.name} on {run.cell.dataset}) does not")
    if (made_on := device_class(run.provenance)) != run.cell.device_class:
        raise DataError(f"{path} was made on {made_on or 'a CPU'} and says {run.cell.device_class or 'a CPU'}")
    files = {"record": path.read_bytes()}
    digests = {"detections": run.detections_sha256, "val_detections": run.val_detections_sha256}
    for what, digest in digests.items():
        if digest is None:
            continue
        try:
            content = getattr(paths, what).read_bytes()
        except OSError as e:
            raise DataError(f"{path}: cannot read {getattr(paths, what).name}: {e.strerror or e}") from None
        if hashlib.sha256(content).hexdigest() != digest:
            raise DataError(f"{path}: {getattr(paths, what).name} is not what was evaluated: digest mismatch")
        files[what] = content
    profile = read_profile(paths, run)
    if profile is not None:
        files["profile"] = paths.profile.read_bytes()
    return Stored(run, profile, paths), files


def _join(theirs: Stored, files: dict[str, bytes], into: Path, out: Merged) -> None:
    """Copy one cell's files, the record last, unless a record of it that stays is there."""
    paths = CellPaths.of(into, theirs.run.cell)
    if paths.record.exists():
        ours = load(paths).run
        if ours.digest == theirs.run.digest:
            out.there += 1
            _restore(theirs, files, paths, out)
            return
        whose, place, why = "ours", paths.record, _why_it_stays(ours, theirs.run)
        if why is None:
            whose, place, why = "theirs", theirs.paths.record, _why_it_stays(theirs.run, ours)
        out.twice.append(
            f"twice: {theirs.paths.record} and {paths.record} are the same cell; {whose} {why} and stays ({place})"
        )
        if whose == "ours":
            _restore_profile(theirs, files, paths, out)
            return
        # Of one training, evaluated again, the costs stay as they were measured.
        if "profile" not in files and paths.profile.exists():
            if _of_weights(load(paths).profile, theirs.run):
                files = {**files, "profile": paths.profile.read_bytes()}
            else:
                out.notes.append(f"profile: {paths.profile} was of the training that went, and went with it")
        # The record first: what an interruption leaves is then a cell without a record, which the same command copies.
        for old in (paths.record, paths.profile, paths.detections, paths.val_detections, paths.checkpoint):
            old.unlink(missing_ok=True)
        if paths.weights.exists() and sha256_of(paths.weights) != theirs.run.weights_sha256:
            paths.weights.unlink()  # of the training that is gone: a run would set the record aside for them
    for what in ("detections", "val_detections", "profile", "record"):
        if what in files:
            write_atomic(getattr(paths, what), files[what])
    out.joined += 1


def _restore(theirs: Stored, files: dict[str, bytes], paths: CellPaths, out: Merged) -> None:
    """Put what ours lacks of the same record's files beside it; a profile of ours that says otherwise stays."""
    for what in ("detections", "val_detections", "profile"):
        path: Path = getattr(paths, what)
        if what not in files:
            continue
        if not path.exists():
            write_atomic(path, files[what])
            out.notes.append(f"restored: {path} was missing beside its record")
        elif path.read_bytes() != files[what]:
            out.notes.append(f"profile: {theirs.paths.profile} says otherwise than {path}, which stays")


def _restore_profile(theirs: Stored, files: dict[str, bytes], paths: CellPaths, out: Merged) -> None:
    """Their profile for our record of the same training, where it has none."""
    if "profile" in files and not paths.profile.exists() and _of_weights(theirs.profile, load(paths).run):
        write_atomic(paths.profile, files["profile"])
        out.notes.append(f"restored: {paths.profile} was missing beside its record")


def _of_weights(profile: ProfileRecord | None, run: RunRecord) -> bool:
    return profile is not None and profile.weights_sha256 is not None and profile.weights_sha256 == run.weights_sha256


def _is_published(into: Path) -> bool:
    places = {folder.resolve() for folder in (RESULTS, _OURS)}
    return not places.isdisjoint((into.resolve(), *into.resolve().parents))


def _latencies_of(into: Path, published: bool) -> Path:
    """Where the latencies of records that join `into` belong: of published ones in results/ itself, which is drawn."""
    return into.parent if published and into.name.startswith("_") else into


def _join_latencies(path: Path, into: Path, published: bool, out: Merged) -> None:
    try:
        theirs = latency_files.read(path)
        if published and (why := theirs.provenance.unpublishable):
            raise DataError(f"{path}: {why}; run it again from a commit")
    except DataError as e:
        out.damaged.append(f"left out: {e}")
        return
    copied, line = latency_files.join(theirs, _latencies_of(into, published))
    out.latencies += copied
    out.twice += [line] if line else []


def _why_it_stays(run: RunRecord, other: RunRecord) -> str | None:
    """Why one of two records of a cell stays beside the other; None where the other does.

    Never what failed, nor what an older version answered, before what was measured; of one training what was evaluated
    last; else the older. The digest decides between equals, so that the order of folders does not.
    """
    questions: tuple[tuple[str, Any, Any], ...] = (
        ("ended well", run.status not in _ANSWERED, other.status not in _ANSWERED),
        ("is of newer versions", _versions(other), _versions(run)),
        ("is older", run.provenance.ended, other.provenance.ended),
        ("was evaluated by the newer evaluator", other.fingerprint.evaluator, run.fingerprint.evaluator),
        ("was put right", run.provenance.amended is None, other.provenance.amended is None),
        ("is as old", run.digest, other.digest),
    )
    for why, mine, its in questions:
        if mine != its:
            return why if mine < its else None
    return "is the same"


_ANSWERED = ("ok", "diverged")


def _versions(run: RunRecord) -> tuple[int, ...]:
    """Of the code that answered; whose evaluator it was can be changed at any time, and is left out."""
    mark = run.fingerprint
    return mark.builder, mark.recipe, mark.transforms, mark.detection


def _split_folds(into: Path) -> list[str]:
    """A line for each fold that was not trained on one class of device as a whole."""
    classes: dict[tuple[str, str, int], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for path in sorted(into.glob("[!_.]*/*.json")):
        if not path.name.endswith(".profile.json") and not is_foreign(path):  # as `scan` passes over what is not ours
            cell = read_record(path, RunRecord).cell
            classes[cell.dataset, cell.split, cell.fold][cell.device_class or "CPU"] += 1
    return [
        f"not paired: fold {fold} of {split} was trained on "
        + " and ".join(f"{name} ({count})" for name, count in sorted(its.items()))
        + "; cells are compared within each"
        for (_, split, fold), its in sorted(classes.items())
        if len(its) > 1
    ]


if __name__ == "__main__":
    run_app(app)
